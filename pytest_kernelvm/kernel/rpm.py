"""Packages of distributions that have RPM: what is in them, without their scripts."""

from __future__ import annotations

from pathlib import Path

from pytest_kernelvm.errors import BadInput, Evidence
from pytest_kernelvm.kernel.store import raise_if_full
from pytest_kernelvm.process import find_program, run

UNPACK_TIMEOUT_S = 1800.0


def unpack_rpm(rpm: Path, root: Path) -> None:
    """Unpack an .rpm into a directory. Raises BadInput if it is damaged.

    bsdtar knows all their compressions, and neither `..` nor a link leads it out of the directory
    (bsdtar(1), Security).
    """
    program = find_program("bsdtar", "apt-get install libarchive-tools, which unpacks .rpm files")
    argv: list[str | Path] = [program, "--extract", "--file", rpm, "--directory", root]
    done = run([*argv, "--no-same-owner"], timeout_s=UNPACK_TIMEOUT_S, check=False)
    if done.status != 0:
        raise_if_full(done.stderr)
        raise BadInput(
            f"{rpm} cannot be unpacked", Evidence(excerpt=done.stderr, where=(str(rpm),))
        )
