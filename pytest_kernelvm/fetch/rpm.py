"""RPM packages: their files, without their scripts."""

from __future__ import annotations

from pathlib import Path

from pytest_kernelvm.errors import BadInput, Evidence
from pytest_kernelvm.foreign.archive_rules import UnpackOptions
from pytest_kernelvm.foreign.unpacking import unpack_output
from pytest_kernelvm.process import find_program, run

UNPACK_TIMEOUT_S = 1800.0
# How the lead of a package begins (rpm's docs/manual/format_lead.md).
MAGIC = b"\xed\xab\xee\xdb"


def unpack_rpm(rpm: Path, root: Path) -> None:
    """Unpack an .rpm into a directory, which may have other packages in it.

    bsdtar knows all compressions of RPM. It turns the archive in a package into a tar stream
    (bsdtar(1), `@archive`) and writes no file.

    Raises BadInput if it is damaged, or holds more than files, directories and safe links,
    ToolMissing if bsdtar is not installed.

    Args:
        rpm: The package.
        root: Where / of the package is put.
    """
    program = find_program("bsdtar", "apt-get install libarchive-tools, which unpacks .rpm files")
    _check_format(program, rpm)
    options = UnpackOptions(what=str(rpm), absolute_links=True, compressed_bytes=rpm.stat().st_size)
    argv = [program, "--create", "--format=pax", "--file=-", f"@{rpm.absolute()}"]
    unpack_output(argv, root, options, timeout_s=UNPACK_TIMEOUT_S)


def _check_format(program: str, rpm: Path) -> None:
    """Refuse a file that is no package with a cpio archive in it.

    bsdtar takes all that it can read for an archive. One kind of those, mtree(5), is a list that
    names files of this machine, which would be read.

    Raises:
        BadInput: It is none.
    """
    with rpm.open("rb") as file:
        is_rpm = file.read(len(MAGIC)) == MAGIC
    argv = [program, "--list", "-vv", "--fast-read", "--file", str(rpm.absolute()), "*"]
    listed = run(argv, timeout_s=UNPACK_TIMEOUT_S, check=False) if is_rpm else None
    lines = (listed.stdout + listed.stderr).splitlines() if listed else []
    if not any(line.startswith("Archive Format: ASCII cpio") for line in lines[-1:]):
        raise BadInput(
            f"{rpm} cannot be unpacked",
            Evidence(
                expected="an .rpm with a cpio archive",
                excerpt=listed.stderr if listed else "",
                where=(str(rpm),),
            ),
        )
