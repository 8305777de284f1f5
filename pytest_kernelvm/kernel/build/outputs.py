"""Outputs of a build that are stored, each with a digest of its own."""

from __future__ import annotations

import hashlib
import re
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pytest_kernelvm.arch.base import Arch
from pytest_kernelvm.fetch.tree_copy import content_digest
from pytest_kernelvm.kernel.build.incremental import PreviousKernel, link_outputs
from pytest_kernelvm.kernel.source.headers import copy_headers
from pytest_kernelvm.process import run

STRIPPED = "vmlinux.stripped"
# make's name of an output, and ours.
_FILES = ((".config", "config"), ("System.map", "System.map"), ("Module.symvers", "Module.symvers"))


@dataclass(frozen=True, kw_only=True, slots=True)
class FinishedBuild:
    """A build that is complete.

    Attributes:
        arch: Its architecture.
        tree: Its source.
        objects: Its build directory.
        installed: What modules_install made; absent without modules.
        log: make's output.
        images: The make targets that were built.
        previous: A kernel whose headers are the same; None if there is none.
    """

    arch: Arch
    tree: Path
    objects: Path
    installed: Path
    log: Path
    images: tuple[str, ...]
    previous: PreviousKernel | None


def collect_outputs(built: FinishedBuild, entry: Path) -> None:
    """Copy the outputs of a build into an entry, without links into the build directory.

    Args:
        built: The build; its modules are moved.
        entry: An empty directory.
    """
    for image in built.images:
        made = built.objects / built.arch.images[image]
        shutil.copy2(made, entry / made.name)
    shutil.copy2(built.objects / "vmlinux", entry / "vmlinux")
    strip = f"{built.arch.toolchain_prefix}strip"
    argv: list[str | Path] = [strip, "--strip-all", "-o", entry / STRIPPED, entry / "vmlinux"]
    run(argv, timeout_s=120)
    for name, ours in _FILES:
        if (built.objects / name).is_file():
            shutil.copy2(built.objects / name, entry / ours)
    if built.installed.is_dir():
        for name in ("build", "source"):
            for link in built.installed.glob(f"lib/modules/*/{name}"):
                link.unlink()
        built.installed.rename(entry / "modules")
    if built.previous:
        link_outputs(built.previous, entry, ("headers", "nolibc"))
    else:
        copy_headers(built.objects / "usr/include", built.tree, entry)
    shutil.copy2(built.log, entry / "build.log")


def outputs(entry: Path) -> dict[str, dict[str, Any]]:
    """Return digest, size and number of files of each output of an entry.

    The digest of a file is the sha256 of its bytes. That of a directory is one over the names and
    digests of all below it.

    Args:
        entry: A kernel's.

    Returns:
        By the output's path in the entry: `sha256`, `size_bytes`, `files`.
    """
    return {path.name: _about(path) for path in sorted(entry.iterdir())}


def _about(path: Path) -> dict[str, Any]:
    if path.is_file():
        digest = content_digest(path)[1:]
        return {"sha256": digest, "size_bytes": path.stat().st_size, "files": 1}
    total = hashlib.sha256()
    size_bytes = count = 0
    for below in sorted(path.rglob("*")):
        if below.is_symlink() or below.is_file():
            total.update(f"{below.relative_to(path)}\0{content_digest(below)}\n".encode())
            size_bytes += below.lstat().st_size
            count += 1
    return {"sha256": total.hexdigest(), "size_bytes": size_bytes, "files": count}


def section_sizes(arch: Arch, vmlinux: Path) -> dict[str, int]:
    """Return the bytes of text, data and bss, as size(1) counts them.

    Args:
        arch: Whose binutils are used.
        vmlinux: The image with its sections.
    """
    said = run([f"{arch.toolchain_prefix}size", vmlinux], timeout_s=60).stdout
    found = re.search(r"^\s*(\d+)\s+(\d+)\s+(\d+)\s", said, re.MULTILINE)
    return (
        dict(zip(("text", "data", "bss"), map(int, found.groups()), strict=True)) if found else {}
    )


def module_count(entry: Path) -> int:
    """Return how many modules an entry holds."""
    return sum(1 for _path in entry.glob("modules/lib/modules/*/**/*.ko*"))


def tool_versions(programs: Sequence[str]) -> dict[str, str]:
    """Return the first lines of what programs print for --version, by program.

    Args:
        programs: Paths, or names that are looked for in PATH.
    """
    return {
        program: run([program, "--version"], timeout_s=30, check=False).stdout.partition("\n")[0]
        for program in programs
    }
