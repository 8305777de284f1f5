"""The fast path for closures: load orders taken from one line of modules.dep, without a walk.

A line of modules.dep lists all that a module needs, hard dependencies of dependencies included.
For nearly all modules that is the whole closure, in reverse load order. All others (softdeps,
weakdeps, absent files, incomplete lines) take the walk of closure_walk.py.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from functools import cached_property
from typing import overload

from pytest_kernelvm.modules.deps import ModuleFile, ModulesDep
from pytest_kernelvm.modules.presence import Presence
from pytest_kernelvm.modules.provenance import ClosureModule

# From this many modules on, the load orders of all are computed at once.
_BATCH_THRESHOLD = 64

# Stands for an absent key in dictionaries whose values may be None; compared by identity.
_ABSENT = ("absent",)

_Names = tuple[str, ...]


class FastLoadOrders:
    """The load orders of modules that their line in modules.dep describes completely.

    Such a module has a line and a file and is not excluded, and the same holds for all that its
    line lists.
    """

    def __init__(self, modules: ModulesDep, excluded: Collection[str], presence: Presence) -> None:
        """Compute nothing yet.

        Args:
            modules: The modules.dep of a tree.
            excluded: The names of modules whose closure is more than their line, as those with
                softdeps.
            presence: The files of the tree.
        """
        self._modules = modules
        self._excluded = excluded
        self._presence = presence
        self._needs: dict[str, _Names | None] = {}
        self._orders: dict[str, _Names | None] = {}

    def of(self, name: str) -> tuple[str, ...] | None:
        """Return the load order of a module: its dependencies, the farthest first, and itself.

        Args:
            name: Any name.

        Returns:
            None if no line of modules.dep has the load order, or if the line is in a wrong order.
        """
        order = self._orders.get(name, _ABSENT)
        if order is _ABSENT:
            needs = self._needs_of(name)
            for each in needs or ():
                self._needs_of(each)
            order = None if needs is None else _load_order(self._needs, name, needs)
            self._orders[name] = order
            if len(self._orders) == _BATCH_THRESHOLD:
                self._compute_all()
        return order

    def _needs_of(self, name: str) -> _Names | None:
        needs = self._needs.get(name, _ABSENT)
        if needs is _ABSENT:
            modules = self._modules
            known = name in modules and name not in self._excluded
            if known and self._presence.has_file(modules.relative(name)):
                needs = modules.needs(name)
            else:
                needs = None
            self._needs[name] = needs
        return needs

    def _compute_all(self) -> None:
        """Compute the load orders of all modules, which costs half as much for each."""
        modules = self._modules
        complete = modules.whole_lines()
        present = self._presence.look_up(map(modules.relative, complete))
        absent = [name for name in complete if not present[modules.relative(name)]]
        for name in (*self._excluded, *absent):
            complete.pop(name, None)
        without_order = dict.fromkeys(modules)
        self._needs = {**without_order, **complete}
        orders = {name: _load_order(self._needs, name, needs) for name, needs in complete.items()}
        self._orders = {**without_order, **orders}


def _load_order(known: Mapping[str, _Names | None], name: str, needs: _Names) -> _Names | None:
    """Return the reversed needs with the module behind them, if that is a load order.

    It is one if each module in it comes once, has known needs, and stands behind all of them.
    """
    if not needs:
        return (name,)
    before: set[str] = set()
    for each in reversed(needs):
        its_needs = known[each]
        if its_needs is None or (its_needs and not before.issuperset(its_needs)):
            return None
        before.add(each)
    return (*reversed(needs), name) if len(before) == len(needs) and name not in before else None


class LazyModules(Sequence[ClosureModule]):
    """The modules of a closure in load order, which are made when somebody reads them.

    Attributes:
        names: The module names in load order; the last one is the wanted module.
    """

    def __init__(self, files: Mapping[str, ModuleFile], names: tuple[str, ...]) -> None:
        """Make no module yet.

        Args:
            files: The modules of the tree, by name.
            names: A load order, as `FastLoadOrders` has it.
        """
        self._files = files
        self.names = names

    @cached_property
    def _modules(self) -> tuple[ClosureModule, ...]:
        root = ClosureModule(file=self._files[self.names[-1]])
        # The direct requirer of a module is the last one, from near to far, that lists it.
        needed_by = dict.fromkeys(root.file.dependencies, root)
        found = [root]
        for name in root.file.dependencies:
            module = ClosureModule(
                file=self._files[name], relation="depends", requirer=needed_by[name]
            )
            needed_by.update(dict.fromkeys(module.file.dependencies, module))
            found.append(module)
        return tuple(reversed(found))

    @overload
    def __getitem__(self, at: int) -> ClosureModule: ...
    @overload
    def __getitem__(self, at: slice) -> tuple[ClosureModule, ...]: ...
    def __getitem__(self, at: int | slice) -> ClosureModule | tuple[ClosureModule, ...]:
        return self._modules[at]

    def __iter__(self) -> Iterator[ClosureModule]:
        return iter(self._modules)

    def __len__(self) -> int:
        return len(self.names)

    def __eq__(self, other: object) -> bool:
        if isinstance(other, Sequence):
            return self._modules == tuple(other)
        return NotImplemented

    def __hash__(self) -> int:
        return hash(self._modules)

    def __repr__(self) -> str:
        return repr(self._modules)
