"""A kernel's taint: what its flags mean, and which of them tell that something went wrong."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass

from pytest_kernelvm.vm.splats import Splat


@dataclass(frozen=True, kw_only=True, slots=True)
class Flag:
    """One flag of /proc/sys/kernel/tainted.

    letter: as in `Tainted: G W`. meaning: in words.
    is_finding: whether it tells that something went wrong, or that somebody did it behind the
    test's back. The others come with modules that a test loads.
    said_by: a pattern of the kernel's own words that explain it, beside those of a splat.
    """

    letter: str
    meaning: str
    is_finding: bool = False
    said_by: str = ""


# By bit: include/linux/panic.h, taint_flags in kernel/panic.c, and
# Documentation/admin-guide/tainted-kernels.rst.
FLAGS = (
    Flag(letter="P", meaning="a proprietary module was loaded"),
    Flag(letter="F", meaning="a module was loaded by force"),
    Flag(letter="S", meaning="the CPU is used out of its specification", is_finding=True),
    Flag(letter="R", meaning="a module was unloaded by force", is_finding=True),
    Flag(letter="M", meaning="the CPU reported a machine check", is_finding=True),
    Flag(letter="B", meaning="a page was found in a bad state", is_finding=True),
    Flag(
        letter="U",
        meaning="a program asked for this taint",
        is_finding=True,
        # kernel/params.c, param_check_unsafe
        said_by=r"Setting dangerous option \S+ - tainting kernel",
    ),
    Flag(letter="D", meaning="the kernel had an oops", is_finding=True),
    Flag(
        letter="A",
        meaning="an ACPI table was replaced",
        is_finding=True,
        # drivers/acpi/tables.c
        said_by=r"Table Upgrade: (?:install|override)|Override \[",
    ),
    Flag(letter="W", meaning="the kernel gave a warning", is_finding=True),
    Flag(letter="C", meaning="a staging driver was loaded"),
    Flag(
        letter="I",
        meaning="the kernel works around a severe fault of the firmware",
        is_finding=True,
        said_by=r"\[Firmware (?:Bug|Warn)\]",
    ),
    Flag(letter="O", meaning="a module of outside the kernel's tree was loaded"),
    Flag(letter="E", meaning="a module without a signature was loaded"),
    Flag(letter="L", meaning="there was a soft lockup", is_finding=True),
    Flag(letter="K", meaning="the kernel was patched while it runs"),
    Flag(letter="X", meaning="a flag of the distribution's"),
    Flag(letter="T", meaning="the kernel was built with struct randomization"),
    Flag(letter="N", meaning="a test of the kernel's own was run"),
    Flag(
        letter="J", meaning="a program changed a device's firmware state (fwctl)", is_finding=True
    ),
)

# Nothing that sets a taint flag, by kinds of splats; all others do.
NEVER_TAINT = frozenset(
    ("RCU stall", "hung task", "memory leak", "damaged initramfs", "log gap", "taint", "call trace")
)


def explained_by(splats: Iterable[Splat], log: str) -> int:
    """Return the flags, as bits, that the kernel's own words explain.

    splats: of its log. log: its whole text.
    """
    bits = 0
    if any(splat.kind not in NEVER_TAINT for splat in splats):
        bits |= sum(1 << bit for bit, flag in enumerate(FLAGS) if flag.letter in "SMBDWLI")
    for bit, flag in enumerate(FLAGS):
        if flag.said_by and re.search(flag.said_by, log):
            bits |= 1 << bit
    return bits


def words_of(taint: int) -> tuple[str, ...]:
    """Return in words each flag of a taint that tells that something went wrong."""
    known = tuple(
        f"{flag.letter} ({flag.meaning})"
        for bit, flag in enumerate(FLAGS)
        if taint >> bit & 1 and flag.is_finding
    )
    unknown = taint >> len(FLAGS) << len(FLAGS)
    return (*known, f"flags {unknown:#x} that are not known") if unknown else known
