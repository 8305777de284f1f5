"""What modprobe of kmod does with a name, quirks included.

`simulate_modprobe` gives what `modprobe --show-depends` prints, without a process; the order is
that of walk.py. For all that a set of modules may need at run time, see closure.py.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Literal

from pytest_kernelvm.errors import BadInput, Evidence
from pytest_kernelvm.modules.metadata import Softdep
from pytest_kernelvm.modules.names import OpenBracket, normalise, pattern_regex
from pytest_kernelvm.modules.provenance import Relation
from pytest_kernelvm.modules.tree import ModuleTree
from pytest_kernelvm.modules.walk import Walk, run_steps

KMOD_VERSIONS = range(30, 35)

# A module, the alias that led to it, and whether it is builtin.
_Target = tuple[str, str, bool]


@dataclass(frozen=True, kw_only=True, slots=True)
class ProbedModule:
    """A module as modprobe sees it: by its name, or by its name and the alias that led to it.

    Attributes:
        name: The module; there may be no such module.
        alias: The alias, empty without one.
        builtin: Whether it was found among the builtin modules.
        relation: What it is to its requirer.
        requirer: What requires it, None for the user. Not part of equality.
    """

    name: str
    alias: str = ""
    builtin: bool = False
    relation: Relation = "wanted"
    requirer: ProbedModule | None = field(default=None, repr=False, compare=False)

    @property
    def reason(self) -> tuple[str, ...]:
        """The chain from what the user asked for, as ClosureModule.reason has it."""
        chain: list[str] = []
        link: ProbedModule | None = self
        while link is not None:
            chain.append(link.name)
            if link.alias:
                chain += ["alias", link.alias]
            if link.requirer is not None:
                chain.append(link.relation)
            link = link.requirer
        return tuple(reversed(chain))


@dataclass(frozen=True, kw_only=True, slots=True)
class Action:
    """One thing that modprobe does.

    Attributes:
        kind: Whether it inserts a file (`insmod`), runs an `install` command, or does nothing, as
            the module is `builtin`.
        module: The module.
        path: The path of the file, for `insmod`.
        command: The command, for `install`.
        options: The parameters behind the path or command, with the blank that kmod leaves behind
            them.
    """

    kind: Literal["insmod", "install", "builtin"]
    module: ProbedModule
    path: str = ""
    command: str = ""
    options: str = ""

    @property
    def line(self) -> str:
        """The line that `modprobe --show-depends` prints for it, without its end."""
        if self.kind == "builtin":
            return f"builtin {self.module.name}"
        return f"{self.kind} {self.path or self.command} {self.options}"


@dataclass(frozen=True, kw_only=True, slots=True)
class SkippedName:
    """A name that modprobe skips.

    Attributes:
        name: As it was found.
        explanation: A sentence.
        requirer: The module that requires it, empty for the user.
        error: Whether modprobe prints an error about it.
    """

    name: str
    explanation: str
    requirer: str = ""
    error: bool = False


@dataclass(frozen=True, kw_only=True, slots=True)
class ModprobeResult:
    """What modprobe does for one name.

    Attributes:
        name: As it was given.
        found: Whether modprobe knows it; if not, it exits with status 1.
        actions: In order. A module may come several times; it is inserted the first time.
        skipped: What is skipped, and why.
    """

    name: str
    found: bool
    actions: tuple[Action, ...] = ()
    skipped: tuple[SkippedName, ...] = ()

    @property
    def load_order(self) -> tuple[str, ...]:
        """The names of the modules that get inserted, each once."""
        return tuple(
            dict.fromkeys(each.module.name for each in self.actions if each.kind == "insmod")
        )

    @property
    def output(self) -> str:
        """What `modprobe --show-depends` prints for the name."""
        return "".join(f"{action.line}\n" for action in self.actions)


def simulate_modprobe(
    tree: ModuleTree,
    name: str,
    *,
    parameters: str = "",
    kmod: int = 30,
    use_blacklist: bool = False,
    ignore_commands: bool = False,
) -> ModprobeResult:
    """Return what `modprobe --show-depends NAME [PARAMETERS]` does.

    Source: kmod, tools/modprobe.c, insmod; libkmod-module.c, kmod_module_probe_insert_module.

    Args:
        tree: The module tree, with its modprobe.d.
        name: A module or an alias.
        parameters: Parameters for the module itself; they come behind those of modprobe.d.
        kmod: The version of kmod. From 30 to 34 the results differ only for paths as names, which
            32 and later accept, and weakdeps, which 33 and later know and never load.
        use_blacklist: As -b of modprobe.
        ignore_commands: As -i of modprobe, which ignores softdeps of the module itself too.

    Raises:
        BadInput: For an unknown version, a path, or a damaged tree.
    """
    if kmod not in KMOD_VERSIONS:
        raise BadInput(
            f"kmod {kmod} is not known here",
            Evidence(expected=f"{KMOD_VERSIONS[0]} to {KMOD_VERSIONS[-1]}", seen=str(kmod)),
        )
    if kmod >= 32 and name.startswith(("/", "./")):
        raise BadInput(f"{name} is a path", Evidence(expected="a module's name or an alias"))
    walk = ModprobeWalk(tree, ignore_commands=ignore_commands)
    found = walk.lookup(name)
    actions: list[Action] = []
    for module in found:
        if (module.alias or use_blacklist) and module.name in tree.modprobe_d.blacklist:
            walk.skip(module.name, "blacklisted")
        else:
            actions += walk.insert(module, parameters)
    if not found:
        walk.skip(name, f"not found in directory {tree.directory}", error=True)
    return ModprobeResult(
        name=name, found=bool(found), actions=tuple(actions), skipped=tuple(walk.skipped)
    )


class ModprobeWalk(Walk[ProbedModule, ProbedModule]):
    """A walk as kmod does it: only the first softdep line counts, no error for absent files.

    Attributes:
        skipped: What was skipped so far.
    """

    def __init__(self, tree: ModuleTree, *, ignore_commands: bool = False) -> None:
        """Start with no module.

        Args:
            tree: The module tree.
            ignore_commands: See `simulate_modprobe`.
        """
        super().__init__()
        self._tree = tree
        self._ignore_commands = ignore_commands
        self._root: ProbedModule | None = None
        self._order: list[ProbedModule] = []
        self.skipped: dict[SkippedName, None] = {}

    def skip(self, name: str, explanation: str, requirer: str = "", *, error: bool = False) -> None:
        """Add a name to what was skipped.

        Args:
            name: The name.
            explanation: A sentence.
            requirer: The module that requires it, empty for the user.
            error: Whether modprobe prints an error about it.
        """
        self.skipped[
            SkippedName(name=name, explanation=explanation, requirer=requirer, error=error)
        ] = None

    def lookup(self, name: str) -> list[ProbedModule]:
        """Return what a name stands for, none if it is unknown; a module may come twice.

        Source: kmod, libkmod-module.c, kmod_module_new_from_lookup.

        Args:
            name: A module or an alias.
        """
        try:
            return list(self._lookup(normalise(name), "wanted", None))
        except OpenBracket:
            return []

    def insert(self, root: ProbedModule, parameters: str = "") -> Iterator[Action]:
        """Yield what modprobe does for a module.

        Args:
            root: One that `lookup` returned.
            parameters: Parameters for the module itself.
        """
        self._visited.clear()
        self._order = []
        self._root = root
        run_steps(self._probe(root))
        for module in self._order:
            action = self._action(module, parameters if self._is_root(module) else "")
            if action is not None:
                yield action
            else:
                self.skip(module.name, self._no_module(module), _requirer_of(module))

    def _no_module(self, module: ProbedModule) -> str:
        if module.name == "off":
            return f"the alias {module.alias} is switched off"
        return "neither modules.dep nor modules.builtin has it"

    def _lookup(
        self, name: str, relation: Relation, requirer: ProbedModule | None
    ) -> Iterator[ProbedModule]:
        for target, alias, builtin in self._targets(name):
            yield ProbedModule(
                name=target, alias=alias, builtin=builtin, relation=relation, requirer=requirer
            )

    def _targets(self, name: str) -> list[_Target]:
        """Return (module, alias, whether it is builtin) from the first place that knows a name."""
        return next((found for found in self._lookups(name) if found), [])

    def _lookups(self, name: str) -> Iterator[list[_Target]]:
        """Yield what each place that kmod searches has for a name, in kmod's order."""
        tree = self._tree
        yield [
            (module, pattern, False)
            for pattern, module in tree.modprobe_d.aliases
            if pattern_regex(pattern).fullmatch(name)
        ]
        if name in tree.modules and ":" not in name:
            yield [(name, "", False)]
        if name.startswith("symbol:"):
            yield [(module, name, False) for _, _, module in tree.symbols.matches(name)]
        if self._has_command(name):
            yield [(name.partition(".")[0], "", False)]
        yield [(module, name, False) for _, _, module in tree.aliases.matches(name)]
        if name in tree.builtin:
            yield [(name, "", True)]
        builtin = sorted(tree.builtin_aliases.matches(name), key=_builtin_order)
        yield [(module, name, True) for _, _, module in builtin]

    def _has_command(self, name: str) -> bool:
        commands = (*self._tree.modprobe_d.install, *self._tree.modprobe_d.remove)
        return any(module == name for module, _ in commands)

    def _modules_named(
        self, name: str, relation: Relation, requirer: ProbedModule
    ) -> list[ProbedModule]:
        try:
            found = list(self._lookup(normalise(name), relation, requirer))
        except OpenBracket:
            found = []
        if not found:
            self.skip(name, f"{relation} that is nothing in this tree", requirer.name)
        return found

    def _as_requirer(self, module: ProbedModule) -> ProbedModule:
        return module

    def _identity(self, module: ProbedModule) -> str:
        return f"{module.name}\\{module.alias}" if module.alias else module.name

    def _is_root(self, module: ProbedModule) -> bool:
        return self._root is not None and self._identity(module) == self._identity(self._root)

    def _with_dependencies(self, module: ProbedModule) -> Iterator[ProbedModule]:
        for name in reversed(self._dependencies(module)):
            yield ProbedModule(name=name, relation="depends", requirer=module)
        yield module

    def _dependencies(self, module: ProbedModule) -> tuple[str, ...]:
        """Return the dependencies of a module, none at all if the file of one is absent.

        Source: kmod, libkmod-module.c, kmod_module_parse_depline, which gives the whole line up.
        """
        modules = self._tree.modules
        if module.name not in modules:
            return ()
        needs = modules.needs(module.name)
        for name in needs:
            if not self._tree.has_file(name):
                self.skip(" ".join(needs), f"the file of {name} is absent", module.name, error=True)
                return ()
        return needs

    def _softdep(self, module: ProbedModule) -> Softdep | None:
        # That is for the root alone; if it comes again, as a dependency, its softdeps count.
        if self._ignore_commands and module is self._root:
            return None
        lines = self._tree.softdep_lines_of(module.name)
        for line in lines[1:]:
            for name in (*line.pre, *line.post):
                self.skip(name, "only the first softdep line of a module counts", module.name)
        return lines[0] if lines else None

    def _place(self, module: ProbedModule) -> None:
        self._order.append(module)

    def _action(self, module: ProbedModule, parameters: str) -> Action | None:
        modprobe_d, modules = self._tree.modprobe_d, self._tree.modules
        options = _joined(modprobe_d.options_of(module.name, module.alias), parameters)
        command = self._command(module)
        if command is not None and not self._ignores_command(module):
            return Action(kind="install", module=module, command=command, options=options)
        # The path of a dependency comes from the line of the module that needs it.
        if module.name in modules or module.relation == "depends":
            path = f"{self._tree.directory}/{modules.relative(module.name)}"
            return Action(kind="insmod", module=module, path=path, options=options)
        if module.builtin or module.name in self._tree.builtin:
            return Action(kind="builtin", module=module)
        return None

    def _command(self, module: ProbedModule) -> str | None:
        """Return the first install command for a module."""
        for pattern, command in self._tree.modprobe_d.install:
            if pattern_regex(pattern).fullmatch(module.name):
                return command
        return None

    def _ignores_command(self, module: ProbedModule) -> bool:
        """Whether a module is inserted though it has an install command (kmod#446)."""
        if self._ignore_commands and self._is_root(module):
            return True
        softdep = self._softdep(module)
        return softdep is not None and any(
            self._modules_named(name, "softdep pre", module)
            for name in (*softdep.pre, *softdep.post)
        )


def _requirer_of(module: ProbedModule) -> str:
    return "" if module.requirer is None else module.requirer.name


def _joined(options: str, parameters: str) -> str:
    """Return both as kmod joins them (libkmod-module.c, module_options_concat)."""
    if not options:
        return parameters
    return f"{options} {parameters}"


def _builtin_order(found: tuple[int, str, str]) -> tuple[int, ...]:
    """Return a key that sorts as kmod's index answers for values of one priority.

    An exact name comes first; of patterns, what the search meets last: it goes from short to long
    prefixes, in one place from `*` to `?` to `[`, and there from long to short patterns.
    Source: kmod, libkmod-index.c, index_mm_searchwild_node and add_value.
    """
    place, pattern, _ = found
    wildcards = [pattern.index(wildcard) for wildcard in "*?[" if wildcard in pattern]
    if not wildcards:
        return (0, place)
    first = min(wildcards)
    rest = [-ord(character) for character in pattern[first + 1 :]]
    return (1, -first, -"*?[".index(pattern[first]), *rest, -0x110000, place)
