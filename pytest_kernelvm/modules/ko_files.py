"""A module tree from its module files alone, without depmod's files.

The `.modinfo` of each file names what it depends on directly, as modpost wrote it; all else
follows from that.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from pytest_kernelvm.errors import BadInput, Evidence
from pytest_kernelvm.modules.metadata import Metadata
from pytest_kernelvm.modules.modinfo import read_modinfo
from pytest_kernelvm.modules.modprobe_d import NOTHING, ModprobeD
from pytest_kernelvm.modules.names import MODULE_SUFFIXES, name_of_file
from pytest_kernelvm.modules.tree import ModuleTree

# depmod.d(5): without a configuration, depmod does `search updates built-in`. "built-in" stands for
# all directories that no other word names.
DEFAULT_SEARCH = ("updates", "built-in")

_KBUILD_FILES = ("modules.order", "modules.builtin", "modules.builtin.modinfo")
_SKIPPED = ("build", "source")


@dataclass(frozen=True, kw_only=True, slots=True)
class KoFile:
    """What a module file says.

    Attributes:
        name: The module.
        relative: The path below the tree.
        fields: The fields of its `.modinfo`.
    """

    name: str
    relative: str
    fields: tuple[tuple[str, str], ...]

    def values(self, key: str) -> list[str]:
        """Return the values of one key, in their order.

        Args:
            key: Of .modinfo, such as `depends` or `alias`.
        """
        return [value for found, value in self.fields if found == key]

    @property
    def depends(self) -> tuple[str, ...]:
        """The names of what it needs directly."""
        words = ",".join(self.values("depends")).split(",")
        return tuple(word.replace("-", "_") for word in words if word)


def read_ko_files(
    directory: Path,
    *,
    search: Iterable[str] = DEFAULT_SEARCH,
    overrides: Mapping[str, str] | None = None,
) -> tuple[KoFile, ...]:
    """Return the module files of a tree in the order of modules.order; others come behind.

    Of two files of one name, `search` and `overrides` decide. Of two in one directory, as foo.ko
    and foo.ko.xz, the uncompressed one is taken. Raises BadInput for a file that is no module.

    Args:
        directory: A lib/modules/RELEASE.
        search: The words of `search` in depmod.d(5), in order.
        overrides: Module → directory, as `override` in depmod.d(5) has them.
    """
    chosen: dict[str, str] = {}
    ranks = list(search)
    special = dict(overrides or {})
    for relative in sorted(_relatives(directory)):
        name = name_of_file(relative)
        if name not in chosen or (
            _rank(relative, name, ranks, special) < _rank(chosen[name], name, ranks, special)
        ):
            chosen[name] = relative
    order = {
        name_of_file(line): place
        for place, line in enumerate(Metadata(directory).text("modules.order").split())
    }
    names = sorted(chosen, key=lambda name: (order.get(name, len(order)), chosen[name]))
    return tuple(
        KoFile(name=name, relative=chosen[name], fields=read_modinfo(directory / chosen[name]))
        for name in names
    )


def tree_of_files(
    directory: Path,
    files: Iterable[KoFile] | None = None,
    *,
    modprobe_d: ModprobeD = NOTHING,
) -> ModuleTree:
    """Return the tree of some module files, as if depmod had seen it.

    It has no symbols, as .modinfo does not have them. Raises BadInput for a file that is no module,
    and for dependencies in a cycle.

    Args:
        directory: A lib/modules/RELEASE. Of its metadata only what Kbuild wrote is read.
        files: The files; None for all of the directory.
        modprobe_d: The configuration of the guest.
    """
    found = tuple(read_ko_files(directory) if files is None else files)
    metadata = {"modules.dep": modules_dep(found, directory).encode()}
    for key in ("alias", "softdep", "weakdep"):
        metadata[f"modules.{key}"] = "".join(_directives(key, found)).encode()
    on_disk = Metadata(directory)
    for name in _KBUILD_FILES:
        if on_disk.exists(name):
            metadata[name] = on_disk.data(name)
    return ModuleTree(directory, modprobe_d=modprobe_d, metadata=metadata)


def modules_dep(files: Iterable[KoFile], where: Path) -> str:
    """Return a modules.dep: each file with all that it needs, nearest first.

    A dependency without a file is builtin or missing; it is left out, as depmod does. Raises
    BadInput for dependencies in a cycle.

    Args:
        files: The module files.
        where: The tree, for errors.
    """
    by_name = {file.name: file for file in files}
    lines = []
    for file in by_name.values():
        needed = [by_name[need].relative for need in _needs(by_name, file, where)]
        lines.append(" ".join([f"{file.relative}:", *needed]) + "\n")
    return "".join(lines)


def _needs(by_name: Mapping[str, KoFile], root: KoFile, where: Path) -> list[str]:
    """Return what a module needs, near ones first."""
    done: dict[str, None] = {}
    path: dict[str, Iterator[str]] = {root.name: iter(root.depends)}
    while path:
        name, ahead = next(reversed(path.items()))
        need = next((each for each in ahead if each in by_name and each not in done), None)
        if need is None:
            del path[name]
            done[name] = None
        elif need in path:
            raise BadInput(
                f"modules depend on each other: {' → '.join([*path, need])}",
                Evidence(
                    expected="a module that can be loaded first",
                    seen="a cycle in the `depends` fields of the module files",
                    where=(str(where / by_name[need].relative),),
                ),
            )
        else:
            path[need] = iter(by_name[need].depends)
    del done[root.name]
    return list(reversed(done))


def _directives(key: str, files: Iterable[KoFile]) -> Iterator[str]:
    for file in files:
        for value in file.values(key):
            if key == "alias":
                yield f"alias {value} {file.name}\n"
            else:
                yield f"{key} {file.name} {value}\n"


def _relatives(directory: Path) -> Iterator[str]:
    for parent, folders, names in os.walk(directory):
        if Path(parent) == directory:
            folders[:] = [folder for folder in folders if folder not in _SKIPPED]
        for name in names:
            if name.endswith(MODULE_SUFFIXES) and name_of_file(name):
                yield str(Path(parent, name).relative_to(directory))


def _rank(
    relative: str, name: str, search: list[str], overrides: Mapping[str, str]
) -> tuple[int, int]:
    """Return a key by which the file to take comes first."""
    folder = relative.rpartition("/")[0]
    kind = MODULE_SUFFIXES.index(
        next(suffix for suffix in reversed(MODULE_SUFFIXES) if relative.endswith(suffix))
    )
    if overrides.get(name) == folder:
        return -1, kind
    for place, word in enumerate(search):
        if word != "built-in" and (folder == word or folder.startswith(f"{word}/")):
            return place, kind
    return (search.index("built-in") if "built-in" in search else len(search)), kind
