"""A kernel's taint: what its flags mean, and what of its own words explains that it has them."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True, slots=True)
class Taint:
    """A taint flag (kernel/panic.c, taint_flags; Documentation/admin-guide/tainted-kernels.rst).

    Attributes:
        letter: As in `Tainted: G  W`.
        bit: Its place in /proc/sys/kernel/tainted.
        meaning: In words, for an error.
        splat_kinds: The kinds of splats that set it.
        message: A pattern of what else the kernel prints when it sets it; empty if nothing.
        is_silent: Whether the kernel may set it without a word, for what is no fault.
    """

    letter: str
    bit: int
    meaning: str
    splat_kinds: frozenset[str] = frozenset()
    message: str = ""
    is_silent: bool = False


_DEATHS = frozenset(("oops", "BUG", "list corruption", "memory corruption", "use count", "UBSAN"))
# kernel/module/main.c and kernel/module/signing.c, drivers/staging, kernel/livepatch/core.c.
_MODULE = r"taint(?:s|ing) kernel|kernel tainted|is from the staging directory"

TAINTS = (
    Taint(letter="P", bit=0, meaning="a module with a proprietary licence", message=_MODULE),
    # insmod -f, or a module that lacks the CRCs of what it uses.
    Taint(letter="F", bit=1, meaning="a module was loaded by force", message=_MODULE),
    Taint(
        letter="S",
        bit=2,
        meaning="the system is out of its specification",
        # arch/arm64/kernel/cpufeature.c; arch/x86/kernel/msr.c
        message=r"SANITY CHECK: Unexpected variation|Write to unrecognized MSR",
    ),
    Taint(letter="R", bit=3, meaning="a module was unloaded by force"),
    Taint(
        letter="M",
        bit=4,
        meaning="the processor reported a machine check",
        splat_kinds=frozenset(("machine check", "oops")),
    ),
    Taint(
        letter="B",
        bit=5,
        meaning="memory was damaged, or used after its end",
        splat_kinds=frozenset(("BUG", "KASAN", "KMSAN", "KFENCE", "slab corruption")),
    ),
    Taint(
        letter="U",
        bit=6,
        meaning="a program asked for it",
        # kernel/params.c, param_check_unsafe()
        message=r"Setting dangerous option \S+ - tainting kernel",
    ),
    Taint(letter="D", bit=7, meaning="the kernel died of an oops", splat_kinds=_DEATHS),
    Taint(
        letter="A",
        bit=8,
        meaning="an ACPI table was replaced",
        # drivers/acpi/tables.c, drivers/acpi/acpi_configfs.c
        message=r"ACPI: .*(?:[Uu]pgrade|[Oo]verride|Host-directed Dynamic ACPI Table Load)",
    ),
    Taint(
        letter="W",
        bit=9,
        meaning="the kernel warned",
        splat_kinds=_DEATHS | {"WARNING", "atomic context"},
    ),
    Taint(letter="C", bit=10, meaning="a staging driver was loaded", message=_MODULE),
    Taint(
        letter="I",
        bit=11,
        meaning="a fault of the firmware is worked around",
        splat_kinds=frozenset(("WARNING",)),
        message=r"\[Firmware (?:Bug|Warn)\]",
    ),
    Taint(letter="O", bit=12, meaning="a module from outside of the tree", message=_MODULE),
    Taint(letter="E", bit=13, meaning="a module without signature", message=_MODULE),
    Taint(letter="L", bit=14, meaning="a CPU was stuck", splat_kinds=frozenset(("soft lockup",))),
    Taint(letter="K", bit=15, meaning="the kernel was patched while it ran", message=_MODULE),
    Taint(letter="X", bit=16, meaning="a distribution's own", is_silent=True),
    Taint(letter="T", bit=17, meaning="structures are laid out at random", is_silent=True),
    Taint(letter="N", bit=18, meaning="a test in the kernel was run", is_silent=True),
    Taint(letter="J", bit=19, meaning="a program used fwctl", is_silent=True),
)


def taints_of(flags: int) -> tuple[Taint, ...]:
    """Return the flags that are set in a number from /proc/sys/kernel/tainted.

    Args:
        flags: The number; bit N is flag N of Documentation/admin-guide/tainted-kernels.rst.
    """
    known = tuple(taint for taint in TAINTS if flags >> taint.bit & 1)
    unknown = (bit for bit in range(len(TAINTS), flags.bit_length()) if flags >> bit & 1)
    return known + tuple(
        Taint(letter="?", bit=bit, meaning=f"unknown, bit {bit}") for bit in unknown
    )


def unexplained_taints(
    before: int, after: int, kinds: Iterable[str], log: str
) -> tuple[Taint, ...]:
    """Return the flags that a kernel got and that none of its own words explain.

    Args:
        before: /proc/sys/kernel/tainted at first.
        after: /proc/sys/kernel/tainted now.
        kinds: The kinds of splats in its log, allowed ones included.
        log: The whole text of its log.
    """
    found = set(kinds)
    return tuple(
        taint
        for taint in taints_of(after & ~before)
        if not taint.is_silent
        and not found & taint.splat_kinds
        and not (taint.message and re.search(taint.message, log))
    )
