"""What a guest that says nothing is doing: where its CPU is, what its kernel logged in memory."""

from __future__ import annotations

import bisect
import contextlib
import re
from dataclasses import dataclass
from pathlib import Path

from pytest_kernelvm.arch.base import Arch
from pytest_kernelvm.errors import KernelvmError
from pytest_kernelvm.store.intact import require_intact
from pytest_kernelvm.vm.qemu.qmp import Qmp
from pytest_kernelvm.vm.verdict.deadlines import GuestDeadline

# The text that the kernel's log buffer holds, among the bytes of its records' ids.
_WORDS = re.compile(rb"[\t\n\x20-\x7e]{4,}")
_LOG_BYTES = 1 << 16
# A kernel's symbols lie closer together than this.
_FAR_BYTES = 1 << 20


@dataclass(frozen=True, kw_only=True, slots=True)
class Symbols:
    """A System.map.

    Attributes:
        addresses: Sorted.
        names: Those at the addresses.
    """

    addresses: tuple[int, ...]
    names: tuple[str, ...]

    def name_at(self, address: int) -> str:
        """Return what is at an address.

        Args:
            address: Virtual.

        Returns:
            `function+0x10`; empty for what is in no function of the kernel's.
        """
        place = bisect.bisect_right(self.addresses, address) - 1
        if place < 0 or address - self.addresses[place] > _FAR_BYTES:
            return ""
        return f"{self.names[place]}+{address - self.addresses[place]:#x}"


def parse_system_map(text: str) -> Symbols:
    """Return the symbols of a System.map.

    Args:
        text: Lines of `address type name`.

    Returns:
        Those of functions.
    """
    rows = sorted(
        (int(address, 16), name)
        for address, kind, name in (line.split(maxsplit=2) for line in text.splitlines())
        if kind in "TtWw"
    )
    return Symbols(
        addresses=tuple(address for address, _ in rows), names=tuple(name for _, name in rows)
    )


def beside(image: Path) -> Path:
    """Return where the System.map of an image in the store is."""
    return image.parent / "System.map"


def _system_map(image: Path) -> str:
    require_intact((beside(image),))
    return beside(image).read_text()


def program_counter(shown: str, arch: Arch) -> int | None:
    """Return where a CPU is.

    Args:
        shown: What QEMU's monitor answers to `info registers`.
        arch: The guest's architecture.

    Returns:
        The address; None if the registers do not say.
    """
    found = re.search(arch.pc_register, shown)
    return int(found[1], 16) if found else None


def cpu_state(qmp: Qmp, arch: Arch, image: Path, deadline: GuestDeadline) -> str:
    """Return in words whether the CPU works and where it is.

    Args:
        qmp: QEMU's machine protocol.
        arch: The guest's architecture.
        image: The kernel; its System.map lies beside it.
        deadline: The one that passed.

    Returns:
        The words; empty if QEMU does not show it.
    """
    try:
        shown = qmp.monitor("info registers")
    except KernelvmError:
        return ""
    had_s = deadline.elapsed_s - deadline.uncounted_s
    state = "works" if deadline.ran_s > had_s / 2 else "sleeps"
    address = program_counter(shown, arch)
    where = "" if address is None else _place(address, image)
    return f"{state} (QEMU ran {deadline.ran_s:.1f} s of {had_s:.1f} s that it could){where}"


def _place(address: int, image: Path) -> str:
    try:
        name = parse_system_map(_system_map(image)).name_at(address)
    except (KernelvmError, OSError, ValueError):
        return f", at {address:#x}"
    return f", at {name}" if name else f", at {address:#x}, outside the kernel's image"


def kernel_log(qmp: Qmp, image: Path, scratch: Path) -> str:
    """Return what a kernel logged in its memory, without times.

    Only for a kernel whose console stayed empty. `__log_buf` holds the text of the records one
    behind the other (kernel/printk/printk_ringbuffer.c).

    Args:
        qmp: QEMU's machine protocol.
        image: The kernel; its System.map lies beside it.
        scratch: A file to be made and removed.

    Returns:
        The log; empty if there is none.
    """
    try:
        lines = _system_map(image).splitlines()
        address = next(int(line.split()[0], 16) for line in lines if line.endswith(" __log_buf"))
        # QAPI's integers have a sign (docs/devel/qapi-code-gen, int).
        signed = address - (1 << 64) if address >> 63 else address
        qmp.query("memsave", val=signed, size=_LOG_BYTES, filename=str(scratch))
        raw = scratch.read_bytes()
    except (KernelvmError, OSError, ValueError, StopIteration):
        return ""
    finally:
        with contextlib.suppress(OSError):
            scratch.unlink()
    found = b"\n".join(words.strip() for words in _WORDS.findall(raw)).decode()
    return found if "Linux version" in found else ""
