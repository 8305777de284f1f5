"""One lib/modules/RELEASE directory, as depmod and Kbuild left it."""

from __future__ import annotations

import enum
import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from pytest_kernelvm.errors import BadInput, Evidence
from pytest_kernelvm.modules import metadata
from pytest_kernelvm.modules.aliases import AliasIndex
from pytest_kernelvm.modules.deps import ModuleFile, ModulesDep
from pytest_kernelvm.modules.metadata import Softdep
from pytest_kernelvm.modules.names import OpenBracket, normalise


class Kind(enum.Enum):
    """What a name is in a tree."""

    LOADABLE = "loadable"
    BUILTIN = "builtin"
    ALIAS = "alias"
    FILE_ABSENT = "file absent"
    MISSING = "missing"


@dataclass(frozen=True, kw_only=True, slots=True)
class Classification:
    """What a name is in a tree.

    name: normalised. kind: see Kind.
    targets: the modules that it stands for: those of an alias in the order of modules.alias, or
        the module itself, empty if missing. They can be loadable, builtin or, in a damaged tree
        and for `alias x off`, nothing.
    """

    name: str
    kind: Kind
    targets: tuple[str, ...]


class ModuleTree:
    """A module tree; each of its files is read when it is first needed, and only once.

    directory: lib/modules/RELEASE. Make another ModuleTree after a change on disk.
    What is read raises BadInput with file and line if it is damaged.
    """

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self._directory_text = str(directory)
        self._readable: dict[str, bool] = {}
        self._classified: dict[str, Classification] = {}

    def __repr__(self) -> str:
        return f"ModuleTree({str(self.directory)!r})"

    @cached_property
    def release(self) -> str:
        """The kernel release: the directory's name, as `uname -r` says it on the kernel."""
        return self.directory.absolute().name

    @property
    def modules(self) -> Mapping[str, ModuleFile]:
        """Every module of modules.dep by name, in its order.

        Raises BadInput if there is no modules.dep.
        """
        return self._dep

    @cached_property
    def aliases(self) -> AliasIndex:
        """The aliases of modules.alias; none without the file."""
        return AliasIndex.of_file(self.directory / "modules.alias")

    @cached_property
    def symbols(self) -> AliasIndex:
        """Which module exports `symbol:NAME`, from modules.symbols; none without the file."""
        return AliasIndex.of_file(self.directory / "modules.symbols")

    @cached_property
    def softdeps(self) -> Mapping[str, Softdep]:
        """The softdeps of each module that has some: all its lines in modules.softdep together."""
        return metadata.softdep_lines(self.directory / "modules.softdep")

    @cached_property
    def weakdeps(self) -> Mapping[str, tuple[str, ...]]:
        """The weakdeps of each module that has some; none without modules.weakdep (kmod 33)."""
        return metadata.weakdep_lines(self.directory / "modules.weakdep")

    @cached_property
    def builtin(self) -> Mapping[str, str]:
        """The kernel's own modules, name → path, from modules.builtin; see `knows_builtin`."""
        return metadata.builtin_lines(self.directory / "modules.builtin")

    @cached_property
    def knows_builtin(self) -> bool:
        """Whether there is a modules.builtin; without, what is builtin seems to be missing."""
        return (self.directory / "modules.builtin").is_file()

    @cached_property
    def builtin_aliases(self) -> AliasIndex:
        """The aliases of builtin modules, from modules.builtin.modinfo."""
        text = "".join(
            f"alias {value} {name}\n" for name, key, value in self._builtin_fields if key == "alias"
        )
        return AliasIndex(self._modinfo_path, text)

    @cached_property
    def builtin_softdeps(self) -> Mapping[str, Softdep]:
        """The softdeps of builtin modules, from modules.builtin.modinfo."""
        return metadata.softdeps_of(self._builtin_values("softdep"))

    @cached_property
    def builtin_weakdeps(self) -> Mapping[str, tuple[str, ...]]:
        """The weakdeps of builtin modules, from modules.builtin.modinfo."""
        return metadata.weakdeps_of(self._builtin_values("weakdep"))

    def has_file(self, name: str) -> bool:
        """Whether the file of a module that modules.dep lists is on the disk and readable."""
        if name not in self._readable:
            # A Path for each of thousands of files would cost more than all the rest.
            file = f"{self._directory_text}/{self.modules[name].relative}"
            self._readable[name] = os.access(file, os.R_OK)
        return self._readable[name]

    def line_of(self, name: str) -> str:
        """Return `FILE:LINE` of a module in modules.dep."""
        return self._dep.line_of(name)

    def classify(self, name: str) -> Classification:
        """Return what a name is: a module before an alias, both before what is builtin.

        name: a module's name, an alias (`crypto-crc32c`, a modalias) or `symbol:NAME`.
        A name with an open bracket is nothing. Source of the order: kmod, libkmod-module.c,
        kmod_module_new_from_lookup.
        """
        if name not in self._classified:
            try:
                self._classified[name] = self._classify(normalise(name))
            except OpenBracket:
                self._classified[name] = Classification(name=name, kind=Kind.MISSING, targets=())
        return self._classified[name]

    def _classify(self, name: str) -> Classification:
        if name in self.modules:
            kind = Kind.LOADABLE if self.has_file(name) else Kind.FILE_ABSENT
            return Classification(name=name, kind=kind, targets=(name,))
        index = self.symbols if name.startswith("symbol:") else self.aliases
        if targets := index.lookup(name):
            return Classification(name=name, kind=Kind.ALIAS, targets=targets)
        if name in self.builtin:
            return Classification(name=name, kind=Kind.BUILTIN, targets=(name,))
        if targets := self.builtin_aliases.lookup(name):
            return Classification(name=name, kind=Kind.ALIAS, targets=targets)
        return Classification(name=name, kind=Kind.MISSING, targets=())

    @cached_property
    def _builtin_fields(self) -> tuple[tuple[str, str, str], ...]:
        return tuple(metadata.modinfo_fields(self._modinfo_path))

    def _builtin_values(self, wanted: str) -> Iterator[tuple[str, list[str]]]:
        for name, key, value in self._builtin_fields:
            if key == wanted:
                yield name, value.split()

    @property
    def _modinfo_path(self) -> Path:
        return self.directory / "modules.builtin.modinfo"

    @cached_property
    def _dep(self) -> ModulesDep:
        path = self.directory / "modules.dep"
        if path.is_file():
            return ModulesDep(path)
        raise BadInput(
            f"{self.directory} is not a module tree",
            Evidence(
                expected="a directory lib/modules/RELEASE that depmod has seen",
                seen="no modules.dep in it",
                where=(str(path),),
                next_step=self._where_a_tree_may_be(),
            ),
        )

    def _where_a_tree_may_be(self) -> str:
        places = ("*", "lib/modules/*", "usr/lib/modules/*")
        found = [path for place in places for path in self.directory.glob(f"{place}/modules.dep")]
        if found:
            return "there is one in " + ", ".join(str(path.parent) for path in sorted(found))
        return f"run `depmod -b ROOT {self.release}`, or build the kernel with CONFIG_MODULES=y"
