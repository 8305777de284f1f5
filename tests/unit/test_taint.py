"""Which taint flags a kernel's own words explain."""

from __future__ import annotations

import pytest

from pytest_kernelvm.vm.klog.splat_table import ROWS
from pytest_kernelvm.vm.klog.taint import TAINTS, taints_of, unexplained_taints

OUT_OF_TREE = "[    2.841712] mine: loading out-of-tree module taints kernel.\n"
UNSIGNED = (
    "[    2.841712] mine: module verification failed: signature and/or required key missing"
    " - tainting kernel\n"
)


def test_the_flags_are_the_kernels() -> None:
    """In the order of kernel/panic.c, taint_flags."""
    assert "".join(taint.letter for taint in TAINTS) == "PFSRMBUDAWCIOELKXTNJ"
    assert [taint.bit for taint in TAINTS] == list(range(20))
    assert all(taint.meaning for taint in TAINTS)
    assert {kind for taint in TAINTS for kind in taint.splat_kinds} <= {row.kind for row in ROWS}


@pytest.mark.parametrize(
    ("before", "after", "kinds", "log", "letters"),
    [
        (0, 0, [], "", ""),
        (0, 1 << 12, [], OUT_OF_TREE, ""),
        (0, 1 << 12, [], "", "O"),
        (0, 1 << 13, [], UNSIGNED, ""),
        (0, 1 << 9, [], "", "W"),
        (0, 1 << 9, [], OUT_OF_TREE, "W"),
        (0, 1 << 9, ["WARNING"], "", ""),
        (0, 1 << 9, ["atomic context"], "", ""),
        (0, 1 << 9, ["soft lockup"], "", "W"),
        (1 << 9, 1 << 9, [], "", ""),
        (1 << 9, 1 << 9 | 1 << 7, ["WARNING"], "", "D"),
        (0, 1 << 9 | 1 << 5, ["WARNING"], "", "B"),
        (0, 1 << 7 | 1 << 9, ["oops"], "", ""),
        (0, 1 << 14, ["soft lockup"], "", ""),
        (0, 1 << 14, ["RCU stall"], "", "L"),
        (0, 1 << 5, ["KASAN"], "", ""),
        (0, 1 << 5 | 1 << 4, [], "", "MB"),
        (0, 0b1111, [], "", "PFSR"),
        (0, 1 << 6, [], "", "U"),
        (0, 1 << 6, [], "[ 1.0] Setting dangerous option mine - tainting kernel\n", ""),
        (0, 1 << 16 | 1 << 17 | 1 << 18, [], "", ""),
        (0, 1 << 25, [], "", "?"),
    ],
)
def test_flags_that_nothing_explains(
    before: int, after: int, kinds: list[str], log: str, letters: str
) -> None:
    found = unexplained_taints(before, after, kinds, log)
    assert "".join(taint.letter for taint in found) == letters


def test_what_flags_mean() -> None:
    assert [taint.letter for taint in taints_of(4097)] == ["P", "O"]
    [unknown] = taints_of(1 << 40)
    assert (unknown.bit, unknown.meaning) == (40, "unknown, bit 40")
