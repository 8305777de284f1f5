"""Modules from a few lines of C, built against a kernel of the store and put into a tree with its.

Nothing of the kernel itself is compiled again: `make modules_prepare` from its .config makes the
headers and tools that a module's build needs, and its Module.symvers tells the addresses' owners
(Documentation/kbuild/modules.rst).
"""

from __future__ import annotations

import os
import re
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from pytest_kernelvm.config import VmConfig
from pytest_kernelvm.errors import BadInput, BuildFailed, Evidence
from pytest_kernelvm.kernel.build import PINNED, Kernel, compiler_complaints, make_variables
from pytest_kernelvm.kernel.source import locate, patched
from pytest_kernelvm.kernel.store import Store, Work, digest_of, raise_if_full
from pytest_kernelvm.process import failure, run

# Counts up whenever the way of building changes what comes out.
RECIPE = 1
BUILDERS = "builders"
TREES = "trees"
# Where `make modules_install` puts modules from outside (scripts/Makefile.modinst).
DIRECTORY = "updates"

_NAME = re.compile(r"[A-Za-z0-9_-]+")
_DEPMOD_TIMEOUT_S = 120.0
_COPIED = ("modules.order", "modules.builtin", "modules.builtin.modinfo")


def tree_with(store: Store, cell: VmConfig, kernel: Kernel, sources: Mapping[str, str]) -> Path:
    """Return a lib/modules/RELEASE with the kernel's modules and some from outside.

    sources: C by module name. `#include "lib/test_kmod.c"` takes a file of the kernel's source.
    Raises BuildFailed with the compiler's words, BadInput if a name is none or is taken.
    """
    _check_names(kernel, sources)
    digest = digest_of({"recipe": RECIPE, "kernel": kernel.digest, "sources": dict(sources)})
    label = f"{', '.join(sources)} for {cell.id}"

    def make(work: Work) -> dict[str, Any]:
        store.progress.say(f"building {label}")
        objects, modules = work.directory / "objects", work.directory / "modules"
        shutil.copytree(_builder(store, cell, kernel), objects, symlinks=True)
        _write_sources(modules, sources)
        _make(store, cell, work, objects, [f"M={modules}", "modules"])
        root = work.entry / "lib/modules" / kernel.release
        (root / DIRECTORY).mkdir(parents=True)
        for name in sources:
            shutil.copy2(modules / f"{name}.ko", root / DIRECTORY)
        _add_kernels_own(kernel, root)
        _depmod(work, kernel)
        return {"kernel": kernel.digest, "modules": sorted(sources)}

    entry = store.obtain(TREES, digest, make, label=label)
    return entry / "lib/modules" / kernel.release


def _check_names(kernel: Kernel, sources: Mapping[str, str]) -> None:
    taken = {path.name.partition(".")[0] for path in kernel.module_tree.rglob("*.ko*")}
    for name in sources:
        if not _NAME.fullmatch(name):
            raise BadInput(
                f"{name!r} is no name of a module",
                Evidence(expected="letters, digits, - and _", seen=repr(name)),
            )
        if name in taken:
            raise BadInput(
                f"the kernel {kernel.release} has a module {name} of its own",
                Evidence(where=(str(kernel.module_tree),), next_step="take another name"),
            )


def _builder(store: Store, cell: VmConfig, kernel: Kernel) -> Path:
    """Return what a kernel's build directory has that modules are built with."""

    def make(work: Work) -> dict[str, Any]:
        work.entry.mkdir(exist_ok=True)
        shutil.copy2(kernel.directory / "config", work.entry / ".config")
        shutil.copy2(kernel.directory / "Module.symvers", work.entry)
        _make(store, cell, work, work.entry, ["modules_prepare"])
        return {"kernel": kernel.digest}

    label = f"what modules for {cell.id} are built with"
    key = digest_of({"recipe": RECIPE, "kernel": kernel.digest})
    return store.obtain(BUILDERS, key, make, label=label, sized=False)


def _write_sources(directory: Path, sources: Mapping[str, str]) -> None:
    directory.mkdir()
    for name, text in sources.items():
        (directory / f"{name}.c").write_text(text)
    objects = " ".join(f"{name}.o" for name in sources)
    (directory / "Makefile").write_text(f"obj-m := {objects}\nccflags-y := -I$(srctree)\n")


def _make(store: Store, cell: VmConfig, work: Work, objects: Path, goals: Sequence[str]) -> None:
    tree = patched(store, locate(store, cell.kernel.source), cell.kernel.patches)
    log = work.directory / "make.log"
    argv = ["make", f"--directory={tree}", f"O={objects}", *make_variables(cell)]
    done = run(
        [*argv, f"-j{os.cpu_count() or 1}", *goals],
        env=PINNED,
        timeout_s=cell.timeouts.build_s,
        check=False,
        log=log,
    )
    if done.status != 0:
        evidence = failure(done, log)
        raise_if_full(evidence.excerpt)
        complaints = compiler_complaints(log.read_text(errors="replace"), tree)
        raise BuildFailed(
            f"{cell.id}: make {goals[-1]} {evidence.seen}",
            Evidence(
                seen=complaints[0] if complaints else evidence.seen,
                excerpt="\n".join(complaints) or evidence.excerpt,
                command=evidence.command,
            ),
        )


def _add_kernels_own(kernel: Kernel, root: Path) -> None:
    tree = kernel.module_tree
    if (tree / "kernel").is_dir():
        (root / "kernel").symlink_to(tree / "kernel")
    for name in _COPIED:
        if (tree / name).is_file():
            shutil.copy2(tree / name, root)


def _depmod(work: Work, kernel: Kernel) -> None:
    """With a configuration of nothing, as the host's may put other directories first."""
    empty = work.directory / "depmod.d"
    empty.mkdir()
    argv: list[str | Path] = ["depmod", "--basedir", work.entry, "--config", empty, kernel.release]
    run(argv, timeout_s=_DEPMOD_TIMEOUT_S)
