"""What differs between the module trees of two kernels."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from pytest_kernelvm.errors import BadInput
from pytest_kernelvm.modules.closure import Closure, resolve_closure
from pytest_kernelvm.modules.modinfo import read_modinfo
from pytest_kernelvm.modules.tree import ModuleTree

# A module is renamed or split if this share of its aliases and symbols belongs to others now.
_MOVED_SHARE = 0.5


@dataclass(frozen=True, kw_only=True, slots=True)
class ModuleChange:
    """What changed about one module.

    Attributes:
        name: The module.
        was: What it had and has no more.
        now: What it has and did not have.
    """

    name: str
    was: tuple[str, ...] = ()
    now: tuple[str, ...] = ()


@dataclass(frozen=True, kw_only=True, slots=True)
class SizeChange:
    """A module whose size changed.

    Attributes:
        name: The module.
        was_bytes: The size of its file before, compressed if the file is.
        now_bytes: The size after.
    """

    name: str
    was_bytes: int
    now_bytes: int


@dataclass(frozen=True, kw_only=True, slots=True)
class TreeDiff:
    """What differs between two trees; each module is in one of the first six parts at most.

    Attributes:
        before: The release of the first tree.
        after: The release of the second tree.
        added: New modules.
        removed: Modules that are gone.
        renamed: Modules with other names, in `now`.
        split: Modules that became several, in `now`; the module itself may be among these.
        turned_builtin: Modules that the kernel has built in now.
        turned_loadable: Modules that the kernel had built in.
        resized: Modules of both trees whose size changed; those that grew most come first.
        aliases: Changed aliases of modules of both trees.
        firmware: Changed firmware names of modules of both trees.
        dependencies: Changes in all that modules of both trees need.
        closures: The closures that were asked for.
    """

    before: str
    after: str
    added: tuple[str, ...] = ()
    removed: tuple[str, ...] = ()
    renamed: tuple[ModuleChange, ...] = ()
    split: tuple[ModuleChange, ...] = ()
    turned_builtin: tuple[str, ...] = ()
    turned_loadable: tuple[str, ...] = ()
    resized: tuple[SizeChange, ...] = ()
    aliases: tuple[ModuleChange, ...] = ()
    firmware: tuple[ModuleChange, ...] = ()
    dependencies: tuple[ModuleChange, ...] = ()
    closures: tuple[ClosureDiff, ...] = ()


@dataclass(frozen=True, kw_only=True, slots=True)
class ClosureDiff:
    """What changed in one closure.

    Attributes:
        name: The name that was asked for.
        change: The modules that it lost and got.
        was_bytes: The size of its files in the first tree.
        now_bytes: The size in the second tree.
        error: Why it cannot be resolved in the second tree, empty if it can.
    """

    name: str
    change: ModuleChange
    was_bytes: int = 0
    now_bytes: int = 0
    error: str = ""


def diff_trees(
    before: ModuleTree,
    after: ModuleTree,
    *,
    closures: Iterable[str] = (),
    with_firmware: bool = False,
) -> TreeDiff:
    """Return what differs between two module trees.

    A module is renamed if at least half of its aliases and exported symbols belong to one new
    module now, and split if they belong to several, perhaps itself among them. Raises BadInput for
    a damaged tree.

    Args:
        before: The first tree.
        after: The second tree.
        closures: Names whose closures are compared.
        with_firmware: Whether to compare the firmware names too, for which all module files have to
            be read.
    """
    was, now = _identifiers(before), _identifiers(after)
    moved = _moved(before, after, was, now)
    common = [name for name in before.modules if name in after.modules]
    return TreeDiff(
        before=before.release,
        after=after.release,
        added=moved.added,
        removed=moved.removed,
        renamed=_changes(moved.renamed),
        split=_changes(moved.split),
        turned_builtin=moved.turned_builtin,
        turned_loadable=moved.turned_loadable,
        resized=_resized(before, after, common),
        aliases=_differences(was.aliases, now.aliases, common),
        firmware=_firmware(before, after, common) if with_firmware else (),
        dependencies=_differences(_needs(before, common), _needs(after, common), common),
        closures=tuple(_closure(before, after, name) for name in closures),
    )


@dataclass(frozen=True, kw_only=True, slots=True)
class _Identifiers:
    """The aliases and exported symbols of each module of a tree."""

    aliases: dict[str, set[str]] = field(default_factory=lambda: defaultdict(set))
    symbols: dict[str, set[str]] = field(default_factory=lambda: defaultdict(set))

    def of(self, name: str) -> set[str]:
        return self.aliases.get(name, set()) | self.symbols.get(name, set())


def _identifiers(tree: ModuleTree) -> _Identifiers:
    found = _Identifiers()
    for pattern, module in tree.aliases.lines():
        found.aliases[module].add(pattern)
    for pattern, module in tree.symbols.lines():
        found.symbols[module].add(pattern)
    return found


@dataclass(frozen=True, kw_only=True, slots=True)
class _Moved:
    """The first six parts of a TreeDiff."""

    added: tuple[str, ...]
    removed: tuple[str, ...]
    renamed: Mapping[str, tuple[str, ...]]
    split: Mapping[str, tuple[str, ...]]
    turned_builtin: tuple[str, ...]
    turned_loadable: tuple[str, ...]


def _moved(before: ModuleTree, after: ModuleTree, was: _Identifiers, now: _Identifiers) -> _Moved:
    gone, new = before.modules.keys() - after.modules, after.modules.keys() - before.modules
    builtin, loadable = gone & after.builtin.keys(), new & before.builtin.keys()
    successors = _successors(was, now, before.modules, new - loadable)
    split = {name: found for name, found in successors.items() if len(found) > 1}
    renamed = {
        name: found
        for name, found in successors.items()
        if len(found) == 1 and name in gone - builtin
    }
    known = {successor for found in (*split.values(), *renamed.values()) for successor in found}
    return _Moved(
        added=tuple(sorted(new - loadable - known)),
        removed=tuple(sorted(gone - builtin - split.keys() - renamed.keys())),
        renamed=renamed,
        split=split,
        turned_builtin=tuple(sorted(builtin)),
        turned_loadable=tuple(sorted(loadable)),
    )


def _successors(
    was: _Identifiers, now: _Identifiers, modules: Iterable[str], new: set[str]
) -> dict[str, tuple[str, ...]]:
    """Return module → those that have its identifiers now, if a new one is among them."""
    owners: dict[str, set[str]] = defaultdict(set)
    for owned in (now.aliases, now.symbols):
        for name, identifiers in owned.items():
            for identifier in identifiers:
                owners[identifier].add(name)
    successors: dict[str, tuple[str, ...]] = {}
    for module in modules:
        identifiers = was.of(module)
        # An identifier that several modules have does not tell where the module went.
        candidates = (owners.get(each, set()) & (new | {module}) for each in identifiers)
        inherited = Counter(name for found in candidates if len(found) == 1 for name in found)
        if inherited.keys() & new and inherited.total() >= _MOVED_SHARE * len(identifiers):
            successors[module] = tuple(sorted(inherited))
    return successors


def _needs(tree: ModuleTree, names: Iterable[str]) -> dict[str, set[str]]:
    return {name: set(tree.modules.needs(name)) for name in names}


def _changes(found: Mapping[str, tuple[str, ...]]) -> tuple[ModuleChange, ...]:
    return tuple(ModuleChange(name=name, now=found[name]) for name in sorted(found))


def _resized(before: ModuleTree, after: ModuleTree, names: Iterable[str]) -> tuple[SizeChange, ...]:
    changed = []
    for name in names:
        if before.has_file(name) and after.has_file(name):
            was, now = before.modules[name].size_bytes, after.modules[name].size_bytes
            if was != now:
                changed.append(SizeChange(name=name, was_bytes=was, now_bytes=now))
    return tuple(sorted(changed, key=lambda each: (each.was_bytes - each.now_bytes, each.name)))


def _differences(
    was: Mapping[str, set[str]], now: Mapping[str, set[str]], names: Iterable[str]
) -> tuple[ModuleChange, ...]:
    changes = []
    for name in sorted(names):
        had, has = was.get(name, set()), now.get(name, set())
        if had != has:
            changes.append(
                ModuleChange(name=name, was=tuple(sorted(had - has)), now=tuple(sorted(has - had)))
            )
    return tuple(changes)


def _firmware(
    before: ModuleTree, after: ModuleTree, names: Iterable[str]
) -> tuple[ModuleChange, ...]:
    both = [name for name in names if before.has_file(name) and after.has_file(name)]
    return _differences(_named_firmware(before, both), _named_firmware(after, both), both)


def _named_firmware(tree: ModuleTree, names: Iterable[str]) -> dict[str, set[str]]:
    return {
        name: {value for key, value in read_modinfo(tree.modules[name].path) if key == "firmware"}
        for name in names
    }


def _closure(before: ModuleTree, after: ModuleTree, name: str) -> ClosureDiff:
    was, _ = _closed(before, name)
    now, error = _closed(after, name)
    had = set() if was is None else {module.name for module in was.modules}
    has = set() if now is None else {module.name for module in now.modules}
    return ClosureDiff(
        name=name,
        change=ModuleChange(name=name, was=tuple(sorted(had - has)), now=tuple(sorted(has - had))),
        was_bytes=0 if was is None else was.size_bytes,
        now_bytes=0 if now is None else now.size_bytes,
        error=error,
    )


def _closed(tree: ModuleTree, name: str) -> tuple[Closure | None, str]:
    try:
        return resolve_closure(tree, [name], allow_empty=True), ""
    except BadInput as error:
        return None, error.summary
