"""Where images go, and what a change costs a device tree."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pytest_kernelvm.errors import BadInput
from pytest_kernelvm.vm.bootpath.layout import PAGE_BYTES, Extent, lay_out, refuse_overlaps

SIZES = st.lists(st.integers(0, 5 * PAGE_BYTES), max_size=6)
ROOMS = st.builds(
    lambda address, size: Extent(name="room", address=address, size_bytes=size),
    st.integers(0, 3 * PAGE_BYTES),
    st.integers(0, 40 * PAGE_BYTES),
)
TAKEN = st.lists(
    st.builds(
        lambda address, size: Extent(name="taken", address=address, size_bytes=size),
        st.integers(0, 40 * PAGE_BYTES),
        st.integers(0, 3 * PAGE_BYTES),
    ),
    max_size=3,
)


def share_a_byte(one: Extent, other: Extent) -> bool:
    bytes_of_both = range(one.address, one.end), range(other.address, other.end)
    low, high = max(each.start for each in bytes_of_both), min(each.stop for each in bytes_of_both)
    return bool(one.size_bytes and other.size_bytes) and low < high


@given(room=ROOMS, sizes=SIZES, taken=TAKEN)
def test_what_is_placed_is_apart(room: Extent, sizes: list[int], taken: list[Extent]) -> None:
    apart = not any(
        share_a_byte(one, other) for n, one in enumerate(taken) for other in taken[n + 1 :]
    )
    named = [(f"part{number}", size) for number, size in enumerate(sizes)]
    try:
        placed = lay_out(room, named, taken=taken)
    except BadInput:
        # For a reason: what is taken overlaps itself, or takes room, or there is too little.
        least = sum(-(-size // PAGE_BYTES) * PAGE_BYTES for size in sizes) + PAGE_BYTES
        used = sum(each.size_bytes + 6 * PAGE_BYTES for each in taken)
        assert not apart or least + used > room.size_bytes
        return
    assert [(each.name, each.size_bytes) for each in placed] == named
    assert all(each.address % PAGE_BYTES == 0 for each in placed)
    assert all(room.address <= each.address and each.end <= room.end for each in placed)
    assert [each.address for each in placed] == sorted(each.address for each in placed)
    whole = [*placed, *taken]
    for number, one in enumerate(whole):
        assert not any(share_a_byte(one, other) for other in whole[number + 1 :])


@given(TAKEN)
def test_overlaps_are_refused_and_nothing_else(extents: list[Extent]) -> None:
    shared = any(
        share_a_byte(one, other) for n, one in enumerate(extents) for other in extents[n + 1 :]
    )
    if shared:
        with pytest.raises(BadInput, match="overlap"):
            refuse_overlaps(extents)
    else:
        refuse_overlaps(extents)


def test_the_error_names_what_does_not_fit() -> None:
    room = Extent(name="RAM", address=0x1000, size_bytes=0x3000)
    with pytest.raises(BadInput, match="kernel 0x3000-0x4001 is not in RAM 0x1000-0x4000"):
        lay_out(room, [("rootfs", 0x1001), ("kernel", 0x1001)])
