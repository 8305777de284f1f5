"""Packages of distributions that have RPM: what is in them, without their scripts."""

from __future__ import annotations

from pathlib import Path

from pytest_kernelvm.kernel.unpacking import Way, unpack_output
from pytest_kernelvm.process import find_program

UNPACK_TIMEOUT_S = 1800.0


def unpack_rpm(rpm: Path, root: Path) -> None:
    """Unpack an .rpm into a directory, which may have other packages in it.

    bsdtar knows all their compressions; it turns the archive in one into a tar stream (bsdtar(1),
    `@archive`) and writes no file.
    Raises BadInput if it is damaged, or holds more than files, directories and safe links.
    """
    program = find_program("bsdtar", "apt-get install libarchive-tools, which unpacks .rpm files")
    way = Way(what=str(rpm), rooted=True, packed_bytes=rpm.stat().st_size)
    argv = [program, "--create", "--format=pax", "--file=-", f"@{rpm.absolute()}"]
    unpack_output(argv, root, way, timeout_s=UNPACK_TIMEOUT_S)
