"""Where images go in a machine's memory: computed from their final sizes, and without overlaps.

A device tree that gets a node for a root file system is longer afterwards, perhaps by a page. Who
has placed something by the size that it had before overwrites its end. So sizes are given when
nothing changes any more, and one function places it all.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from pytest_kernelvm.errors import BadInput, Evidence

PAGE_BYTES = 4096


@dataclass(frozen=True, kw_only=True, slots=True)
class Extent:
    """A piece of memory.

    Attributes:
        name: For messages.
        address: Its first byte.
        size_bytes: How long it is.
    """

    name: str
    address: int
    size_bytes: int

    @property
    def end(self) -> int:
        """The first address behind it."""
        return self.address + self.size_bytes

    def __str__(self) -> str:
        return f"{self.name} {self.address:#x}-{self.end:#x}"


def page_up(number: int, page_bytes: int = PAGE_BYTES) -> int:
    """Return a number rounded up to whole pages.

    Args:
        number: An address or a size in bytes.
        page_bytes: How large a page is.
    """
    return -(-number // page_bytes) * page_bytes


def lay_out(
    room: Extent,
    sizes: Sequence[tuple[str, int]],
    *,
    taken: Sequence[Extent] = (),
    page_bytes: int = PAGE_BYTES,
) -> tuple[Extent, ...]:
    """Return where things go in a room, in their order, each on a page of its own.

    Args:
        room: Where they have to fit.
        sizes: Their names and final sizes in bytes.
        taken: What is there already; what would overlap it goes behind it.
        page_bytes: How large a page is.

    Raises:
        BadInput: They do not fit.
    """
    at = room.address
    placed: list[Extent] = []
    for name, size_bytes in sizes:
        extent = _behind(taken, name, page_up(at, page_bytes), size_bytes, page_bytes)
        if extent.end > room.end:
            raise BadInput(
                f"{extent} is not in {room}",
                Evidence(
                    expected=f"{sum(size for _name, size in sizes)} bytes and their pages fit",
                    seen=", ".join(map(str, (*placed, extent))),
                    next_step="pass less data, or give the guest more memory",
                ),
            )
        placed.append(extent)
        at = extent.end
    refuse_overlaps((*placed, *taken))
    return tuple(placed)


def _behind(
    taken: Sequence[Extent], name: str, at: int, size_bytes: int, page_bytes: int
) -> Extent:
    extent = Extent(name=name, address=at, size_bytes=size_bytes)
    for other in sorted(taken, key=lambda each: each.address):
        if _overlap(extent, other):
            behind = page_up(other.end, page_bytes)
            extent = Extent(name=name, address=behind, size_bytes=size_bytes)
    return extent


def refuse_overlaps(extents: Sequence[Extent]) -> None:
    """Refuse extents that overlap.

    Args:
        extents: In any order.

    Raises:
        BadInput: Two of them share a byte; the error names the first two.
    """
    last: Extent | None = None
    for each in sorted(extents, key=lambda each: (each.address, each.end)):
        if last and _overlap(last, each):
            raise BadInput(
                f"{last} and {each} overlap", Evidence(expected="ranges that do not overlap")
            )
        if last is None or each.end > last.end:
            last = each


def _overlap(one: Extent, other: Extent) -> bool:
    both = one.size_bytes and other.size_bytes
    return bool(both) and one.address < other.end and other.address < one.end
