"""What kmod's modprobe does with a name, quirks included.

`probe` is `modprobe --show-depends` without a process; the order is walk.py's. For what a set of
modules may want at run time, see closure.py.
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
from pytest_kernelvm.modules.walk import Walk, take

KMOD_VERSIONS = range(30, 35)


@dataclass(frozen=True, kw_only=True, slots=True)
class Probed:
    """A module as modprobe sees it: by its name, or by a name and the alias that led to it.

    name: of the module, which may be none. alias: empty without one. builtin: found as such.
    relation: how its requirer names it. requirer: who does; None if the user does.
    """

    name: str
    alias: str = ""
    builtin: bool = False
    relation: Relation = "wanted"
    requirer: Probed | None = field(default=None, repr=False, compare=False)

    @property
    def reason(self) -> tuple[str, ...]:
        """The chain from what the user asked for, as ClosureModule.reason has it."""
        chain: list[str] = []
        link: Probed | None = self
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

    kind: `insmod` a file, run an `install` command, or nothing, for what is `builtin`.
    module: see Probed. path: of the file. command: of install. options: what follows either, with
        the blank that kmod leaves behind them.
    """

    kind: Literal["insmod", "install", "builtin"]
    module: Probed
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
class LeftOut:
    """A name that modprobe passes over. why: a sentence. requirer: who wanted it, if not the user.

    error: whether modprobe says so on stderr.
    """

    name: str
    why: str
    requirer: str = ""
    error: bool = False


@dataclass(frozen=True, kw_only=True, slots=True)
class Probe:
    """What modprobe does for one name.

    name: as it was given. found: whether modprobe knows it; if not, it exits with status 1.
    actions: in order; a module may come up several times, and is loaded the first time.
    left_out: what is passed over, and why.
    """

    name: str
    found: bool
    actions: tuple[Action, ...] = ()
    left_out: tuple[LeftOut, ...] = ()

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


def probe(
    tree: ModuleTree,
    name: str,
    *,
    parameters: str = "",
    kmod: int = 30,
    use_blacklist: bool = False,
    ignore_commands: bool = False,
) -> Probe:
    """Return what `modprobe --show-depends NAME [PARAMETERS]` of a kmod version does.

    tree: with its modprobe.d. parameters: for the module itself, behind those of modprobe.d.
    kmod: the version; 30 to 34 differ in nothing that is told here but paths as names, which 32
        and later take, and weakdeps, which 33 and later have and never load.
    use_blacklist: -b. ignore_commands: -i, which skips the module's own softdeps too.
    Raises BadInput for a version that is not known, a path, or a damaged tree. Source: kmod,
    tools/modprobe.c, insmod; libkmod/libkmod-module.c, kmod_module_probe_insert_module.
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
            walk.leave_out(module.name, "blacklisted")
        else:
            actions += walk.insert(module, parameters)
    if not found:
        walk.leave_out(name, f"not found in directory {tree.directory}", error=True)
    return Probe(
        name=name, found=bool(found), actions=tuple(actions), left_out=tuple(walk.left_out)
    )


class ModprobeWalk(Walk[Probed, Probed]):
    """A walk as kmod takes it: the first softdep line alone, and no complaint about files.

    left_out: what was passed over.
    """

    def __init__(self, tree: ModuleTree, *, ignore_commands: bool = False) -> None:
        super().__init__()
        self._tree = tree
        self._ignore_commands = ignore_commands
        self._root: Probed | None = None
        self._order: list[Probed] = []
        self.left_out: dict[LeftOut, None] = {}

    def leave_out(self, name: str, why: str, requirer: str = "", *, error: bool = False) -> None:
        """Note what was passed over."""
        self.left_out[LeftOut(name=name, why=why, requirer=requirer, error=error)] = None

    def lookup(self, name: str) -> list[Probed]:
        """Return what a name stands for, none if it is unknown; a module may come twice.

        Source: kmod, libkmod-module.c, kmod_module_new_from_lookup.
        """
        try:
            return list(self._lookup(normalise(name), "wanted", None))
        except OpenBracket:
            return []

    def insert(self, root: Probed, parameters: str = "") -> Iterator[Action]:
        """Yield what is done for a module."""
        self._visited.clear()
        self._order = []
        self._root = root
        take(self._probe(root))
        for module in self._order:
            action = self._action(module, parameters if self._is_root(module) else "")
            if action is not None:
                yield action
            else:
                self.leave_out(module.name, self._no_module(module), _requirer_of(module))

    def _no_module(self, module: Probed) -> str:
        if module.name == "off":
            return f"the alias {module.alias} is switched off"
        return "neither modules.dep nor modules.builtin has it"

    def _lookup(self, name: str, relation: Relation, requirer: Probed | None) -> Iterator[Probed]:
        for target, alias, builtin in self._targets(name):
            yield Probed(
                name=target, alias=alias, builtin=builtin, relation=relation, requirer=requirer
            )

    def _targets(self, name: str) -> list[tuple[str, str, bool]]:
        """Return (module, alias, whether it is builtin) of the first place that knows a name."""
        tree = self._tree
        of_user = [
            (module, pattern, False)
            for pattern, module in tree.modprobe_d.aliases
            if pattern_regex(pattern).fullmatch(name)
        ]
        if of_user:
            return of_user
        if name in tree.modules and ":" not in name:
            return [(name, "", False)]
        if name.startswith("symbol:") and (found := tree.symbols.matches(name)):
            return [(module, name, False) for _, _, module in found]
        if self._has_command(name):
            return [(name.partition(".")[0], "", False)]
        if found := tree.aliases.matches(name):
            return [(module, name, False) for _, _, module in found]
        if name in tree.builtin:
            return [(name, "", True)]
        found = sorted(tree.builtin_aliases.matches(name), key=_builtin_order)
        return [(module, name, True) for _, _, module in found]

    def _has_command(self, name: str) -> bool:
        commands = (*self._tree.modprobe_d.install, *self._tree.modprobe_d.remove)
        return any(module == name for module, _ in commands)

    def _modules_named(self, name: str, relation: Relation, requirer: Probed) -> list[Probed]:
        try:
            found = list(self._lookup(normalise(name), relation, requirer))
        except OpenBracket:
            found = []
        if not found:
            self.leave_out(name, f"{relation} that is nothing in this tree", requirer.name)
        return found

    def _as_requirer(self, module: Probed) -> Probed:
        return module

    def _identity(self, module: Probed) -> str:
        return f"{module.name}\\{module.alias}" if module.alias else module.name

    def _is_root(self, module: Probed) -> bool:
        return self._root is not None and self._identity(module) == self._identity(self._root)

    def _with_dependencies(self, module: Probed) -> Iterator[Probed]:
        for name in reversed(self._dependencies(module)):
            yield Probed(name=name, relation="depends", requirer=module)
        yield module

    def _dependencies(self, module: Probed) -> tuple[str, ...]:
        """Return the dependencies of a module, none at all if the file of one is absent.

        Source: kmod, libkmod-module.c, kmod_module_parse_depline, which gives the whole line up.
        """
        modules = self._tree.modules
        if module.name not in modules:
            return ()
        needs = modules.needs(module.name)
        for name in needs:
            if not self._tree.has_file(name):
                self.leave_out(
                    " ".join(needs), f"the file of {name} is absent", module.name, error=True
                )
                return ()
        return needs

    def _softdep(self, module: Probed) -> Softdep | None:
        # Not where it comes up again, as the dependency of a softdep of a dependency.
        if self._ignore_commands and module is self._root:
            return None
        lines = self._tree.softdep_lines_of(module.name)
        for line in lines[1:]:
            for name in (*line.pre, *line.post):
                self.leave_out(name, "only the first softdep line of a module counts", module.name)
        return lines[0] if lines else None

    def _place(self, module: Probed) -> None:
        self._order.append(module)

    def _action(self, module: Probed, parameters: str) -> Action | None:
        modprobe_d, modules = self._tree.modprobe_d, self._tree.modules
        options = _joined(modprobe_d.options_of(module.name, module.alias), parameters)
        command = self._command(module)
        if command is not None and not self._ignores_command(module):
            return Action(kind="install", module=module, command=command, options=options)
        # A dependency has its path from the line of who needs it.
        if module.name in modules or module.relation == "depends":
            path = f"{self._tree.directory}/{modules.relative(module.name)}"
            return Action(kind="insmod", module=module, path=path, options=options)
        if module.builtin or module.name in self._tree.builtin:
            return Action(kind="builtin", module=module)
        return None

    def _command(self, module: Probed) -> str | None:
        """Return the first install command for a module."""
        for pattern, command in self._tree.modprobe_d.install:
            if pattern_regex(pattern).fullmatch(module.name):
                return command
        return None

    def _ignores_command(self, module: Probed) -> bool:
        """Whether a module is inserted though it has an install command (kmod#446)."""
        if self._ignore_commands and self._is_root(module):
            return True
        softdep = self._softdep(module)
        return softdep is not None and any(
            self._modules_named(name, "softdep pre", module)
            for name in (*softdep.pre, *softdep.post)
        )


def _requirer_of(module: Probed) -> str:
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
