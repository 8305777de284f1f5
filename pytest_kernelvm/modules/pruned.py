"""The metadata of a tree that holds just a closure's modules."""

from __future__ import annotations

from collections.abc import Callable, Container

from pytest_kernelvm.errors import BadInput, Evidence
from pytest_kernelvm.modules.closure import Closure
from pytest_kernelvm.modules.names import name_of_file
from pytest_kernelvm.modules.tree import ModuleTree


def pruned_metadata(
    tree: ModuleTree, closure: Closure, *, for_depmod: bool = False
) -> dict[str, bytes]:
    """Return the files that modprobe reads, for a tree of the closure's modules alone.

    tree: the full tree. closure: of that tree; what it lacks (Closure.without) the files do not
        name either. for_depmod: with modules.order and modules.builtin.modinfo, without which
        depmod comes to another result in the pruned tree (mkinitcpio#109, nixpkgs#484106).
    Returns file name → content. Paths and the order of lines are those of the full tree,
    modules.builtin is whole, and a file with nothing to say is there and empty.
    Raises BadInput if the closure is of another tree, or the tree is damaged.
    """
    if tree.directory != closure.directory:
        raise BadInput(
            "the closure belongs to another module tree",
            Evidence(expected=str(tree.directory), seen=str(closure.directory)),
        )
    kept = {module.name for module in closure.modules}
    metadata = tree.metadata
    files = {
        "modules.dep": _dependencies(closure, tree),
        "modules.alias": _lines(metadata.text("modules.alias"), kept, _aliased),
        "modules.softdep": _lines(metadata.text("modules.softdep"), kept, _softly_depending),
        "modules.builtin": metadata.data("modules.builtin"),
    }
    if for_depmod:
        files["modules.order"] = _lines(metadata.text("modules.order"), kept, name_of_file)
        files["modules.builtin.modinfo"] = metadata.data("modules.builtin.modinfo")
    return files


def _dependencies(closure: Closure, tree: ModuleTree) -> bytes:
    files = {module.name: module.file for module in closure.modules}
    lines: list[str] = []
    # A closure of nothing may come from a directory that is no tree.
    for name in tree.modules if files else ():
        if name in files:
            needed = [files[need].relative for need in files[name].dependencies if need in files]
            lines.append(" ".join([f"{files[name].relative}:", *needed]) + "\n")
    return "".join(lines).encode()


def _lines(text: str, kept: Container[str], module_of: Callable[[str], str]) -> bytes:
    lines = text.split("\n")
    return "".join(f"{line}\n" for line in lines if module_of(line) in kept).encode()


def _aliased(line: str) -> str:
    """Return the module of a line of modules.alias; a comment's last word is none."""
    return "" if line.startswith("#") else line.rpartition(" ")[2].replace("-", "_")


def _softly_depending(line: str) -> str:
    """Return the module of a line of modules.softdep."""
    words = line.split(maxsplit=2)
    return words[1].replace("-", "_") if len(words) > 1 and words[0] == "softdep" else ""
