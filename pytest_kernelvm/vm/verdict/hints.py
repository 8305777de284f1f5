"""What lines of a console mean for whoever has to repair their cause."""

from __future__ import annotations

import re

from pytest_kernelvm.process import status_words

HINTS = tuple(
    (re.compile(pattern), hint)
    for pattern, hint in (
        (
            r"Initramfs unpacking failed: .*|RAMDISK: .*incomplete",
            "the initramfs is damaged, or too large for the guest's memory",
        ),
        (
            r"System is deadlocked on memory|Out of memory: Killed process 1\b"
            r"|memblock_alloc\w*: Failed to allocate|Cannot allocate \d+ bytes|too small memory",
            "give the guest more memory: machine: {memory_mib: …}",
        ),
        (
            r"Requested init \S+ failed|No working init found|Failed to execute /init",
            "there is no such program, or it is none of this CPU",
        ),
        (
            r"Unable to mount root fs",
            "the initramfs has no /init, or the kernel found no initramfs",
        ),
        (r"Wrong endian filesystem\?", "the JFFS2 image is of the other byte order"),
        (
            r"preinit: cannot mount \S+ as \S+: (?:EIO|EINVAL|EUCLEAN|EBADMSG)",
            "there is no root file system of this kind, or a damaged one",
        ),
        (
            r"preinit: cannot mount \S+ as \S+: ENODEV",
            "the kernel has no such file system, and no module of it was loaded",
        ),
        (
            r"preinit: cannot mount \S+ as \S+: (?:ENOENT|ENXIO|ENOTBLK)",
            "there is no such device: look at the modules of its driver, or add rootwait",
        ),
        (
            r"preinit: cannot find root=",
            "the kernel did not obey the command line that has it: is the cookie on it?",
        ),
    )
)


def hints_in(console: str) -> list[str]:
    """Return what lines of a console mean for whoever has to repair their cause.

    Args:
        console: Its text.

    Returns:
        The hints, in words.
    """
    found = [hint for pattern, hint in HINTS if pattern.search(console)]
    if init := re.search(r"Attempted to kill init! exitcode=0x([0-9a-f]{8})", console):
        found.append(f"init {status_words(_status(int(init[1], 16)))}")
    return found


def _status(code: int) -> int:
    """Return wait(2)'s code as an exit status, or minus the signal."""
    return -(code & 0x7F) if code & 0x7F else code >> 8 & 0xFF
