"""A closure as a directory of its own, on which kmod's tools give the results of the full tree."""

from __future__ import annotations

import tempfile
from pathlib import Path, PurePath

from pytest_kernelvm.errors import BadInput, Evidence
from pytest_kernelvm.foreign.files import copy_regular
from pytest_kernelvm.modules.closure import Closure
from pytest_kernelvm.modules.pruned import pruned_metadata
from pytest_kernelvm.modules.rendering import load_script, unload_script
from pytest_kernelvm.modules.tree import ModuleTree


def write_pruned_tree(tree: ModuleTree, closure: Closure, output: Path) -> Path:
    """Write a root directory that has only a closure.

    A depmod on it may put modules that do not need each other in another order: its order depends
    on all modules that it sees (kmod, tools/depmod.c, depmod_calculate_dependencies).

    Args:
        tree: The full tree.
        closure: A closure of it.
        output: The root directory, made if need be. It gets lib/modules/RELEASE, lib/firmware if
            the closure has some, and load.sh and unload.sh, which load and unload the closure
            without modprobe in a guest that has this root directory. Other files in it stay as they
            are.

    Returns:
        The lib/modules/RELEASE in it.

    Raises:
        BadInput: If that exists already, or something cannot be read or written; then no part of
            the tree is left behind.
    """
    place = output / "lib" / "modules" / closure.release
    if place.exists():
        raise BadInput(
            f"{place} is there already",
            Evidence(expected="a directory without this release", next_step="remove it first"),
        )
    try:
        place.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=place.parent, prefix=".") as unfinished:
            whole = Path(unfinished, "tree")
            _write_modules(tree, closure, whole)
            _write_firmware(closure, output / "lib" / "firmware")
            whole.rename(place)
        guest = PurePath("/lib/modules", closure.release)
        (output / "load.sh").write_text(load_script(closure, guest))
        (output / "unload.sh").write_text(unload_script(closure))
    except OSError as error:
        raise BadInput(
            f"the closure cannot be written to {output}",
            Evidence(seen=str(error.strerror), where=(str(error.filename or output),)),
        ) from None
    return place


def _write_modules(tree: ModuleTree, closure: Closure, directory: Path) -> None:
    directory.mkdir()
    for module in closure.modules:
        file = directory / module.file.relative
        file.parent.mkdir(parents=True, exist_ok=True)
        copy_regular(module.path, file)
    for name, content in pruned_metadata(tree, closure, for_depmod=True).items():
        (directory / name).write_bytes(content)


def _write_firmware(closure: Closure, directory: Path) -> None:
    for file in closure.firmware.files:
        place = directory / file.relative
        place.parent.mkdir(parents=True, exist_ok=True)
        place.unlink(missing_ok=True)
        if file.link:
            place.symlink_to(file.link)
        else:
            copy_regular(closure.firmware.directory / file.relative, place)
