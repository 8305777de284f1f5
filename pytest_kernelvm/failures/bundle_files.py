"""Bundles as single files, for other machines."""

from __future__ import annotations

from pathlib import Path

from pytest_kernelvm.errors import BadInput, Evidence
from pytest_kernelvm.fetch.tarball import unpack_tarball
from pytest_kernelvm.foreign.archive_rules import BASIC_KINDS, ArchiveRules, UnpackOptions
from pytest_kernelvm.foreign.tar_members import MemberKind
from pytest_kernelvm.process import find_program, run

PACKING_TIMEOUT_S = 600.0
# What `export` writes: files with holes, as a guest's memory has them, and no links.
RULES = ArchiveRules(kinds=(*BASIC_KINDS, MemberKind.SPARSE_FILE))


def export_bundle(directory: Path, file: Path) -> None:
    """Write a bundle into one file, for another machine.

    Raises BadInput for a name that has no suffix that names its compression.

    Args:
        directory: The bundle's.
        file: Its name ends in .tar.gz, .tar.zst, .tar.xz or .tar, which names its compression.
    """
    _require_packer(file)
    packing = ["tar", "--sparse", "--format=gnu", "--hard-dereference", "--create"]
    packing += ["--auto-compress", f"--file={file.absolute()}", "--force-local"]
    run([*packing, "--directory", directory, "."], timeout_s=PACKING_TIMEOUT_S)


def unpack_bundle(file: Path, directory: Path) -> None:
    """Unpack a file made by `export_bundle`.

    Raises BadInput if it is none, or has what no bundle has.

    Args:
        file: The file.
        directory: Empty; becomes the bundle.
    """
    _require_packer(file)
    unpack_tarball(file, directory, UnpackOptions(what=str(file), rules=RULES))


def _require_packer(file: Path) -> None:
    """Refuse a file that this machine cannot pack or unpack.

    Raises:
        BadInput: Its name has no suffix that names its compression.
    """
    packers = {".tar": "tar", ".gz": "gzip", ".zst": "zstd", ".xz": "xz"}
    if ".tar" not in file.suffixes[-2:] or file.suffix not in packers:
        raise BadInput(
            f"{file} has no suffix that names its compression",
            Evidence(expected="a name that ends in .tar.gz, .tar.zst, .tar.xz or .tar"),
        )
    find_program(packers[file.suffix], f"install {packers[file.suffix]}, or use .tar.gz")
