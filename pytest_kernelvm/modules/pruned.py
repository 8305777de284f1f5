"""The metadata of a tree that has only the modules of a closure."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Container, Iterator

from pytest_kernelvm.errors import BadInput, Evidence
from pytest_kernelvm.modules.binary_index import binary_index
from pytest_kernelvm.modules.closure import Closure
from pytest_kernelvm.modules.names import OpenBracket, name_of_file, normalise
from pytest_kernelvm.modules.tree import ModuleTree


def pruned_metadata(
    tree: ModuleTree, closure: Closure, *, for_depmod: bool = False
) -> dict[str, bytes]:
    """Return the files that modprobe reads, by name, for a tree of only a closure's modules.

    Paths and the order of lines are those of the full tree. Files about builtin modules are
    complete. A file without lines is there, and empty.

    Args:
        tree: The full tree.
        closure: A closure of it. Modules that it lacks (Closure.without) are in no file.
        for_depmod: Whether to add all other files that depmod reads or writes. Without
            modules.order depmod has another result in the pruned tree (mkinitcpio#109,
            nixpkgs#484106); the .bin files are what modprobe of kmod reads.

    Raises:
        BadInput: If the closure is of another tree, or the tree is damaged.
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
        "modules.alias": _lines(metadata.text("modules.alias"), kept, _module_of_alias),
        "modules.softdep": _lines(metadata.text("modules.softdep"), kept, _module_of_softdep),
        "modules.symbols": _lines(metadata.text("modules.symbols"), kept, _module_of_alias),
        "modules.builtin": metadata.data("modules.builtin"),
        "modules.builtin.modinfo": metadata.data("modules.builtin.modinfo"),
    }
    if for_depmod:
        files["modules.order"] = _lines(metadata.text("modules.order"), kept, name_of_file)
        files["modules.devname"] = _lines(
            metadata.text("modules.devname"), kept, _module_of_devname
        )
        if metadata.exists("modules.weakdep"):
            weak = metadata.text("modules.weakdep")
            files["modules.weakdep"] = _lines(weak, kept, _module_of_softdep)
        files |= _binary(tree, files)
    return files


def _binary(tree: ModuleTree, files: dict[str, bytes]) -> dict[str, bytes]:
    """Return the .bin files of a tree's text files (kmod, tools/depmod.c, depmod_output)."""
    lines = files["modules.dep"].decode().splitlines()
    names = [name_of_file(line.partition(":")[0]) for line in lines]
    places = {name: place for place, name in enumerate(names)}

    def aliases(name: str) -> Iterator[tuple[str, str, int]]:
        for line in files[name].decode().splitlines():
            pattern, _, module = line.removeprefix("alias ").rpartition(" ")
            # depmod warns about open brackets, and leaves them out.
            with contextlib.suppress(OpenBracket):
                yield normalise(pattern), module, places[module.replace("-", "_")]

    def builtin_aliases() -> Iterator[tuple[str, str, int]]:
        for module, alias in tree.builtin_values("alias"):
            with contextlib.suppress(OpenBracket):
                yield normalise(alias), module, 0

    builtin = files["modules.builtin"].decode().splitlines()
    return {
        "modules.dep.bin": binary_index(
            (name, line, place) for place, (name, line) in enumerate(zip(names, lines, strict=True))
        ),
        "modules.alias.bin": binary_index(aliases("modules.alias")),
        "modules.symbols.bin": binary_index(aliases("modules.symbols")),
        "modules.builtin.bin": binary_index((name_of_file(line), "", 0) for line in builtin),
        "modules.builtin.alias.bin": binary_index(builtin_aliases()),
    }


def _dependencies(closure: Closure, tree: ModuleTree) -> bytes:
    files = {module.name: module.file for module in closure.modules}
    lines: list[str] = []
    # An empty closure may be of a directory that is no tree.
    for name in tree.modules if files else ():
        if name in files:
            needed = [files[need].relative for need in files[name].dependencies if need in files]
            lines.append(" ".join([f"{files[name].relative}:", *needed]) + "\n")
    return "".join(lines).encode()


def _lines(text: str, kept: Container[str], module_of: Callable[[str], str]) -> bytes:
    lines = text.split("\n")
    return "".join(f"{line}\n" for line in lines if module_of(line) in kept).encode()


def _module_of_alias(line: str) -> str:
    """Return the module of a line of modules.alias; a comment's last word is none."""
    return "" if line.startswith("#") else line.rpartition(" ")[2].replace("-", "_")


def _module_of_softdep(line: str) -> str:
    """Return the module of a line of modules.softdep or modules.weakdep."""
    words = line.split(maxsplit=2)
    known = len(words) > 1 and words[0] in ("softdep", "weakdep")
    return words[1].replace("-", "_") if known else ""


def _module_of_devname(line: str) -> str:
    """Return the module of a line of modules.devname."""
    return line.partition(" ")[0]
