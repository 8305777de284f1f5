"""What became of the modules from one kernel to another."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from pytest_kernelvm.errors import BadInput
from pytest_kernelvm.modules.closure import Closure, resolve_closure
from pytest_kernelvm.modules.modinfo import read_modinfo
from pytest_kernelvm.modules.tree import ModuleTree

# How much of what a module is known by must come back under another name to call it renamed.
_RENAMED_SHARE = 0.5


@dataclass(frozen=True, kw_only=True, slots=True)
class ModuleChange:
    """What became of one module. was, now: what it had and has; what stayed is not among it."""

    name: str
    was: tuple[str, ...] = ()
    now: tuple[str, ...] = ()


@dataclass(frozen=True, kw_only=True, slots=True)
class Growth:
    """A module whose size changed. was_bytes, now_bytes: of the file, compressed if it is."""

    name: str
    was_bytes: int
    now_bytes: int


@dataclass(frozen=True, kw_only=True, slots=True)
class TreeDiff:
    """What differs between two trees; each module is in one of the first six at most.

    before, after: the releases. added, removed: modules. renamed, split: `was` and its heirs.
    turned_builtin, turned_loadable: modules. resized: by how much they grew, most first.
    aliases, firmware: of modules that are in both. dependencies: of modules that are in both, all
    that they need. closures: of the names that were asked for: files that they load.
    """

    before: str
    after: str
    added: tuple[str, ...] = ()
    removed: tuple[str, ...] = ()
    renamed: tuple[ModuleChange, ...] = ()
    split: tuple[ModuleChange, ...] = ()
    turned_builtin: tuple[str, ...] = ()
    turned_loadable: tuple[str, ...] = ()
    resized: tuple[Growth, ...] = ()
    aliases: tuple[ModuleChange, ...] = ()
    firmware: tuple[ModuleChange, ...] = ()
    dependencies: tuple[ModuleChange, ...] = ()
    closures: tuple[ClosureDiff, ...] = ()


@dataclass(frozen=True, kw_only=True, slots=True)
class ClosureDiff:
    """What became of one closure. error: why it is none in the later tree, if so."""

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
    """Return what became of a tree's modules.

    closures: names whose closures are compared. with_firmware: compare what the modules' files
        name, which takes reading all of them.
    A module is renamed if what it is known by (aliases, exported symbols) went for the greater
    part to one that is new, and split if it went to several, itself perhaps among them.
    Raises BadInput for a damaged tree.
    """
    traits = _traits(before), _traits(after)
    gone = [name for name in before.modules if name not in after.modules]
    new = [name for name in after.modules if name not in before.modules]
    builtin = [name for name in gone if name in after.builtin]
    loadable = [name for name in new if name in before.builtin]
    heirs = _heirs(*traits, [*before.modules], set(new) - set(loadable))
    split = {name: found for name, found in heirs.items() if len(found) > 1}
    renamed = {
        name: found
        for name, found in heirs.items()
        if name in gone and name not in builtin and len(found) == 1
    }
    known = {heir for found in (*split.values(), *renamed.values()) for heir in found}
    common = [name for name in before.modules if name in after.modules]
    return TreeDiff(
        before=before.release,
        after=after.release,
        added=tuple(sorted(set(new) - set(loadable) - known)),
        removed=tuple(sorted(set(gone) - set(builtin) - split.keys() - renamed.keys())),
        renamed=_changes(renamed),
        split=_changes(split),
        turned_builtin=tuple(sorted(builtin)),
        turned_loadable=tuple(sorted(loadable)),
        resized=_resized(before, after, common),
        aliases=_differences(traits[0].aliases, traits[1].aliases, common),
        firmware=_firmware(before, after, common) if with_firmware else (),
        dependencies=_differences(
            {name: set(before.modules.needs(name)) for name in common},
            {name: set(after.modules.needs(name)) for name in common},
            common,
        ),
        closures=tuple(_closure(before, after, name) for name in closures),
    )


@dataclass(frozen=True, kw_only=True, slots=True)
class _Traits:
    """What the modules of a tree are known by."""

    aliases: dict[str, set[str]] = field(default_factory=lambda: defaultdict(set))
    symbols: dict[str, set[str]] = field(default_factory=lambda: defaultdict(set))

    def of(self, name: str) -> set[str]:
        """Return all traits of a module."""
        return self.aliases.get(name, set()) | self.symbols.get(name, set())


def _traits(tree: ModuleTree) -> _Traits:
    traits = _Traits()
    for pattern, module in tree.aliases.lines():
        traits.aliases[module].add(pattern)
    for pattern, module in tree.symbols.lines():
        traits.symbols[module].add(pattern)
    return traits


def _heirs(
    was: _Traits, now: _Traits, modules: Iterable[str], new: set[str]
) -> dict[str, tuple[str, ...]]:
    """Return module → those that have its traits now, if a new one is among them."""
    owners: dict[str, set[str]] = defaultdict(set)
    for owned in (now.aliases, now.symbols):
        for name, traits in owned.items():
            for trait in traits:
                owners[trait].add(name)
    heirs: dict[str, tuple[str, ...]] = {}
    for module in modules:
        traits = was.of(module)
        inherited: dict[str, int] = defaultdict(int)
        for trait in traits:
            # What many have says nothing of where a module went.
            found = owners.get(trait, set()) & (new | {module})
            if len(found) == 1:
                inherited[next(iter(found))] += 1
        to_new = {name for name in inherited if name in new}
        if to_new and sum(inherited.values()) >= _RENAMED_SHARE * len(traits):
            heirs[module] = tuple(sorted(inherited))
    return heirs


def _changes(found: Mapping[str, tuple[str, ...]]) -> tuple[ModuleChange, ...]:
    return tuple(ModuleChange(name=name, now=found[name]) for name in sorted(found))


def _resized(before: ModuleTree, after: ModuleTree, names: Iterable[str]) -> tuple[Growth, ...]:
    changed = []
    for name in names:
        if before.has_file(name) and after.has_file(name):
            was, now = before.modules[name].size_bytes, after.modules[name].size_bytes
            if was != now:
                changed.append(Growth(name=name, was_bytes=was, now_bytes=now))
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
