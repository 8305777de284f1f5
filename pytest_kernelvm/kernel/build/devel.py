"""The module-building tree: what kbuild needs of a kernel to build modules outside of its tree."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from pytest_kernelvm.store.digest import Digest
from pytest_kernelvm.store.kinds import DEVEL
from pytest_kernelvm.store.store import StagingDirectory, Store

# Directories below scripts/ that kernels are built with, but not modules.
_NOT_FOR_MODULES = ("atomic", "dtc", "kconfig", "package")
_GENERATED = ("config", "generated")


def publish_devel(
    store: Store, digest: Digest, *, tree: Path, objects: Path, linux_arch: str
) -> Path:
    """Publish the tree that modules are built against, under its kernel's digest.

    The selection is that of scripts/package/install-extmod-build. The result is used as if the
    kernel had been built in it: make is given neither O= nor the source.

    Args:
        store: Where it is put.
        digest: Names the kernel.
        tree: The kernel's source; files of it become links.
        objects: The kernel's build directory.
        linux_arch: As in ARCH=.

    Returns:
        The entry's directory.
    """

    def make(work: StagingDirectory) -> dict[str, Any]:
        made: set[str] = set()
        for name in _sources(tree, linux_arch):
            _put(f"{tree}/{name}", f"{work.entry}/{name}", made, link=True)
        for name in _objects(objects, linux_arch):
            _put(f"{objects}/{name}", f"{work.entry}/{name}", made, link=False)
        return {"kernel": digest}

    label = "the tree that modules are built against"
    return store.obtain(DEVEL, digest, make, label=label)


def _sources(tree: Path, linux_arch: str) -> Iterator[str]:
    arch = f"arch/{linux_arch}"
    yield "Makefile"
    for path in sorted((tree / arch).glob("Makefile*")):
        yield f"{arch}/{path.name}"
    for name in _walk(tree, arch, skip=("boot",)):
        below, _slash, last = name.rpartition("/")
        if "/include/" in f"{below}/" or last in ("Kbuild.platforms", "Platform"):
            yield name
    yield from _walk(tree, "include", skip=_GENERATED)
    yield from _walk(tree, "scripts", skip=_NOT_FOR_MODULES)


def _objects(objects: Path, linux_arch: str) -> Iterator[str]:
    resolve_btfids = "tools/bpf/resolve_btfids/resolve_btfids"
    for name in (
        ".config",
        "Module.symvers",
        "include/config/auto.conf",
        "include/config/kernel.release",
        "tools/objtool/objtool",
        resolve_btfids,
        # BTF of a module has the kernel's BTF as its base.
        *(("vmlinux",) if (objects / resolve_btfids).is_file() else ()),
    ):
        if (objects / name).is_file():
            yield name
    yield from _walk(objects, f"arch/{linux_arch}/include/generated")
    yield from _walk(objects, "include/generated")
    for name in _walk(objects, "scripts", skip=_NOT_FOR_MODULES):
        if not name.endswith((".o", ".cmd", ".c", ".h")):
            yield name


def _walk(root: Path, start: str, skip: tuple[str, ...] = ()) -> Iterator[str]:
    """Give the files and links below `start`, relative to the root; `skip` names what is not."""
    pending = [start] if (root / start).is_dir() else []
    while pending:
        prefix = pending.pop()
        with os.scandir(f"{root}/{prefix}") as entries:
            for entry in entries:
                name = f"{prefix}/{entry.name}"
                if not entry.is_dir(follow_symlinks=False):
                    yield name
                elif not (prefix == start and entry.name in skip):
                    pending.append(name)


def _put(source: str, to: str, made: set[str], *, link: bool) -> None:
    directory = to.rpartition("/")[0]
    if directory not in made:
        Path(directory).mkdir(parents=True, exist_ok=True)
        made.add(directory)
    if link:
        # A symbolic link itself gets another name, not the file that it points to.
        os.link(source, to, follow_symlinks=False)
    else:
        shutil.copy2(source, to, follow_symlinks=False)
