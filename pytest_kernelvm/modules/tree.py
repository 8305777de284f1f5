"""One lib/modules/RELEASE directory, as depmod and Kbuild have written it."""

from __future__ import annotations

import enum
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from pytest_kernelvm.errors import BadInput, Evidence
from pytest_kernelvm.modules import metadata
from pytest_kernelvm.modules.aliases import AliasIndex
from pytest_kernelvm.modules.deps import ModulesDep
from pytest_kernelvm.modules.fast_path import FastLoadOrders
from pytest_kernelvm.modules.metadata import Metadata, Softdep
from pytest_kernelvm.modules.modprobe_d import NOTHING, ModprobeD
from pytest_kernelvm.modules.names import OpenBracket, is_pattern, normalise, pattern_regex
from pytest_kernelvm.modules.presence import Presence

_SoftdepLine = tuple[int, str, Softdep]


class NameKind(enum.Enum):
    """What a name is in a tree."""

    LOADABLE = "loadable"
    BUILTIN = "builtin"
    ALIAS = "alias"
    BLACKLISTED = "blacklisted"
    OFF = "off"
    FILE_ABSENT = "file absent"
    MISSING = "missing"


@dataclass(frozen=True, kw_only=True, slots=True)
class Classification:
    """What a name is in a tree.

    Attributes:
        name: Normalised.
        kind: What it is. A blacklisted module can still be loaded by its own name.
        targets: The modules that it stands for: those of an alias in the order of modules.alias, or
            the module itself; empty if it is missing. They may be loadable or builtin; for `alias x
            off` and in a damaged tree they may not exist.
    """

    name: str
    kind: NameKind
    targets: tuple[str, ...]

    @property
    def is_alias(self) -> bool:
        """Whether the name stands for other names."""
        return bool(self.targets) and self.targets != (self.name,)


class ModuleTree:
    """A module tree. Each of its files is read once, when it is first needed.

    After a change on the disk make another ModuleTree. What reads a damaged file raises BadInput
    with file and line.

    Attributes:
        directory: The tree.
        modprobe_d: The configuration of the guest.
        metadata: The files of depmod and Kbuild.
    """

    def __init__(
        self,
        directory: Path,
        *,
        modprobe_d: ModprobeD = NOTHING,
        metadata: Mapping[str, bytes] | None = None,
    ) -> None:
        """Read nothing yet.

        Args:
            directory: A lib/modules/RELEASE.
            modprobe_d: What modprobe.d and the command line of the guest say; those of the host are
                never read.
            metadata: The content of the files of depmod and Kbuild by name; None for the files on
                the disk.
        """
        self.directory = directory
        self.modprobe_d = modprobe_d
        self.metadata = Metadata(directory, metadata)
        self._presence = Presence(directory)
        self._classified: dict[str, Classification] = {}

    def __repr__(self) -> str:
        return f"ModuleTree({str(self.directory)!r})"

    @cached_property
    def release(self) -> str:
        """The kernel release: the name of the directory, as `uname -r` prints it."""
        return self.directory.absolute().name

    @cached_property
    def modules(self) -> ModulesDep:
        """Every module of modules.dep by name, in its order.

        Raises:
            BadInput: If there is no modules.dep, or it is damaged.
        """
        if self.metadata.exists("modules.dep"):
            return ModulesDep(*self._file("modules.dep"))
        raise BadInput(
            f"{self.directory} is not a module tree",
            Evidence(
                expected="a directory lib/modules/RELEASE that depmod has seen",
                seen="no modules.dep in it" if self.directory.is_dir() else "no such directory",
                where=(str(self.metadata.path("modules.dep")),),
                next_step=self._where_a_tree_may_be(),
            ),
        )

    @cached_property
    def aliases(self) -> AliasIndex:
        """The aliases of modules.alias; none without the file."""
        return AliasIndex(*self._file("modules.alias"))

    @cached_property
    def symbols(self) -> AliasIndex:
        """The module of each exported symbol, as `symbol:NAME`, from modules.symbols."""
        return AliasIndex(*self._file("modules.symbols"))

    @cached_property
    def softdep_lines(self) -> tuple[tuple[str, Softdep], ...]:
        """The (module or pattern, softdep) of each line, in kmod's order.

        modules.softdep is sorted by its name among the files of modprobe.d.
        """
        users = [(line.file, line.module, line.softdep) for line in self.modprobe_d.softdeps]
        lines = metadata.softdep_lines(*self._file("modules.softdep"))
        found = [("modules.softdep", name, softdep) for name, softdep in lines]
        # The sort is stable, so that the lines of one file stay in their order.
        return tuple(line[1:] for line in sorted(users + found, key=lambda line: line[0]))

    def softdep_lines_of(self, name: str) -> list[Softdep]:
        """Return the softdeps of each line about a module, in kmod's order.

        Args:
            name: The module.
        """
        exact, patterns = self._softdep_index
        found = [*exact.get(name, ())]
        found += [line for line in patterns if pattern_regex(line[1]).fullmatch(name)]
        return [softdep for _, _, softdep in sorted(found, key=lambda line: line[0])]

    @cached_property
    def _softdep_index(self) -> tuple[dict[str, list[_SoftdepLine]], list[_SoftdepLine]]:
        exact: dict[str, list[_SoftdepLine]] = {}
        patterns: list[_SoftdepLine] = []
        for place, (name, softdep) in enumerate(self.softdep_lines):
            lines = patterns if is_pattern(name) else exact.setdefault(name, [])
            lines.append((place, name, softdep))
        return exact, patterns

    @cached_property
    def softdeps(self) -> Mapping[str, Softdep]:
        """The softdeps of each module that has some, from all its lines."""
        union = metadata.union_of_softdeps(self.softdep_lines)
        for pattern in [name for name in union if is_pattern(name)]:
            softdep = union.pop(pattern)
            matching = pattern_regex(pattern).fullmatch
            for name in filter(matching, self.modules):
                union[name] = union.get(name, Softdep()).joined(softdep)
        return union

    @cached_property
    def weakdeps(self) -> Mapping[str, tuple[str, ...]]:
        """The weakdeps of each module that has some; none without modules.weakdep (kmod 33)."""
        found = metadata.weakdep_lines(*self._file("modules.weakdep"))
        for pattern, names in self.modprobe_d.weakdeps:
            for name in filter(pattern_regex(pattern).fullmatch, self.modules):
                found[name] = (*found.get(name, ()), *names)
        return found

    @cached_property
    def builtin(self) -> Mapping[str, str]:
        """The builtin modules, name → path, from modules.builtin; see `knows_builtin`."""
        return metadata.builtin_lines(*self._file("modules.builtin"))

    @cached_property
    def knows_builtin(self) -> bool:
        """Whether there is a modules.builtin; without it, builtin modules seem to be missing."""
        return self.metadata.exists("modules.builtin")

    @cached_property
    def builtin_aliases(self) -> AliasIndex:
        """The aliases of builtin modules, from modules.builtin.modinfo."""
        text = "".join(f"alias {value} {name}\n" for name, value in self.builtin_values("alias"))
        return AliasIndex(self.metadata.path("modules.builtin.modinfo"), text)

    @cached_property
    def builtin_softdeps(self) -> Mapping[str, Softdep]:
        """The softdeps of builtin modules, from modules.builtin.modinfo."""
        return metadata.union_of_softdeps(
            (name, metadata.softdep_of(value.split()))
            for name, value in self.builtin_values("softdep")
        )

    @cached_property
    def builtin_weakdeps(self) -> Mapping[str, tuple[str, ...]]:
        """The weakdeps of builtin modules, from modules.builtin.modinfo."""
        return metadata.weakdeps_of(
            (name, value.split()) for name, value in self.builtin_values("weakdep")
        )

    def builtin_values(self, wanted: str) -> Iterator[tuple[str, str]]:
        """Yield the (module, value) pairs of a key in modules.builtin.modinfo.

        Args:
            wanted: The key, such as `alias`.
        """
        for name, key, value in self._builtin_fields:
            if key == wanted:
                yield name, value

    def has_file(self, name: str) -> bool:
        """Return whether the file of a module in modules.dep exists and is readable.

        Args:
            name: Normalised, with underscores.
        """
        return self._presence.has_file(self.modules.relative(name))

    @cached_property
    def fast_load_orders(self) -> FastLoadOrders:
        """The load orders by modules.dep alone; none with weakdeps or aliases of users."""
        more_to_read = self.weakdeps or self.modprobe_d.aliases
        excluded = self.modules.keys() if more_to_read else self.softdeps.keys()
        return FastLoadOrders(self.modules, excluded, self._presence)

    def line_of(self, name: str) -> str:
        """Return `FILE:LINE` of a module in modules.dep.

        Args:
            name: Normalised, with underscores.
        """
        return self.modules.line_of(name)

    def classify(self, name: str) -> Classification:
        """Return what a name is.

        An alias of modprobe.d comes before a module, a module before other aliases, and all of them
        before what is builtin. A name with an open bracket is missing. Source of the order: kmod,
        libkmod-module.c, kmod_module_new_from_lookup.

        Args:
            name: A module, an alias (`crypto-crc32c`, a modalias) or `symbol:NAME`.
        """
        if name not in self._classified:
            try:
                self._classified[name] = self._classify(normalise(name))
            except OpenBracket:
                self._classified[name] = Classification(
                    name=name, kind=NameKind.MISSING, targets=()
                )
        return self._classified[name]

    def _classify(self, name: str) -> Classification:
        if name in self.modules and not self._users_targets(name):
            kind = NameKind.LOADABLE if self.has_file(name) else NameKind.FILE_ABSENT
            if name in self.modprobe_d.blacklist:
                kind = NameKind.BLACKLISTED
            return Classification(name=name, kind=kind, targets=(name,))
        index = self.symbols if name.startswith("symbol:") else self.aliases
        if targets := self._users_targets(name) or index.lookup(name):
            return Classification(name=name, kind=self._kind_of_alias(targets), targets=targets)
        if name in self.builtin:
            return Classification(name=name, kind=NameKind.BUILTIN, targets=(name,))
        if targets := self.builtin_aliases.lookup(name):
            return Classification(name=name, kind=NameKind.ALIAS, targets=targets)
        return Classification(name=name, kind=NameKind.MISSING, targets=())

    def _users_targets(self, name: str) -> tuple[str, ...]:
        """Return what modprobe.d's aliases say a name stands for."""
        aliases = self.modprobe_d.aliases
        return tuple(
            dict.fromkeys(
                module for pattern, module in aliases if pattern_regex(pattern).fullmatch(name)
            )
        )

    def _kind_of_alias(self, targets: tuple[str, ...]) -> NameKind:
        if all(target in self.modprobe_d.blacklist for target in targets):
            return NameKind.BLACKLISTED
        # modprobe.d's way to switch an alias off; kmod looks for a module of that name.
        if all(target in ("off", "null") for target in targets) and not any(
            target in self.modules for target in targets
        ):
            return NameKind.OFF
        return NameKind.ALIAS

    @cached_property
    def _builtin_fields(self) -> tuple[tuple[str, str, str], ...]:
        name = "modules.builtin.modinfo"
        return tuple(metadata.modinfo_fields(self.metadata.path(name), self.metadata.data(name)))

    def _file(self, name: str) -> tuple[Path, str]:
        return self.metadata.path(name), self.metadata.text(name)

    def _where_a_tree_may_be(self) -> str:
        places = ("*", "lib/modules/*", "usr/lib/modules/*")
        found = [path for place in places for path in self.directory.glob(f"{place}/modules.dep")]
        if found:
            return "there is one in " + ", ".join(str(path.parent) for path in sorted(found))
        return f"run `depmod -b ROOT {self.release}`, or build the kernel with CONFIG_MODULES=y"
