"""Modules from a few lines of C, built against a stored kernel, in a tree with its own modules.

They are made as those of a directory are (directory.py), and may include files of the kernel's
source.
"""

from __future__ import annotations

import re
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pytest_kernelvm.config.model import CellConfig
from pytest_kernelvm.errors import BadInput, Evidence
from pytest_kernelvm.kernel.build.build import Kernel
from pytest_kernelvm.kernel.build.configure import source_tree
from pytest_kernelvm.kernel.out_of_tree.directory import make_modules
from pytest_kernelvm.kernel.source.source import locate
from pytest_kernelvm.process import run
from pytest_kernelvm.store.digest import digest_of
from pytest_kernelvm.store.kinds import MODULE_TREES
from pytest_kernelvm.store.store import StagingDirectory, Store

# Counts up whenever the way of building changes what comes out.
RECIPE = 2
# Where `make modules_install` puts modules from outside (scripts/Makefile.modinst).
DIRECTORY = "updates"

_NAME = re.compile(r"[A-Za-z0-9_-]+")
_DEPMOD_TIMEOUT_S = 120.0
_COPIED = ("modules.order", "modules.builtin", "modules.builtin.modinfo")


def tree_with_modules(
    store: Store, config: CellConfig, kernel: Kernel, sources: Mapping[str, str]
) -> Path:
    """Return a lib/modules/RELEASE with the kernel's modules and some from outside.

    Raises BuildFailed if make failed; the error has what the compiler refused, BadInput if a name
    is none of a module, or is taken.

    Args:
        store: Where it is put.
        config: The cell.
        kernel: The cell's kernel.
        sources: C by module name. `#include "lib/test_kmod.c"` takes a file of the kernel's source.

    Returns:
        The directory.
    """
    _check_names(kernel, sources)
    digest = digest_of({"recipe": RECIPE, "kernel": kernel.digest, "sources": dict(sources)})
    label = f"{', '.join(sources)} for {config.id}"

    def make(work: StagingDirectory) -> dict[str, Any]:
        store.progress.say(f"building {label}")
        modules = work.directory / "modules"
        with source_tree(store, locate(store, config.kernel.source), config) as (tree, _files):
            _write_sources(modules, sources, tree)
            log = work.directory / "make.log"
            make_modules(store, kernel, modules, log=log, shown_as=Path(", ".join(sources)))
        root = work.entry / "lib/modules" / kernel.release
        (root / DIRECTORY).mkdir(parents=True)
        for name in sources:
            shutil.copy2(modules / f"{name}.ko", root / DIRECTORY)
        _add_kernels_own(kernel, root)
        _depmod(work, kernel)
        return {"kernel": kernel.digest, "modules": sorted(sources)}

    entry = store.obtain(MODULE_TREES, digest, make, label=label)
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


def _write_sources(directory: Path, sources: Mapping[str, str], tree: Path) -> None:
    directory.mkdir()
    for name, text in sources.items():
        (directory / f"{name}.c").write_text(text)
    objects = " ".join(f"{name}.o" for name in sources)
    (directory / "Makefile").write_text(f"obj-m := {objects}\nccflags-y := -I{tree}\n")


def _add_kernels_own(kernel: Kernel, root: Path) -> None:
    tree = kernel.module_tree
    if (tree / "kernel").is_dir():
        (root / "kernel").symlink_to(tree / "kernel")
    for name in _COPIED:
        if (tree / name).is_file():
            shutil.copy2(tree / name, root)


def _depmod(work: StagingDirectory, kernel: Kernel) -> None:
    """With a configuration of nothing, as the host's may put other directories first."""
    empty = work.directory / "depmod.d"
    empty.mkdir()
    argv: list[str | Path] = ["depmod", "--basedir", work.entry, "--config", empty, kernel.release]
    run(argv, timeout_s=_DEPMOD_TIMEOUT_S)
