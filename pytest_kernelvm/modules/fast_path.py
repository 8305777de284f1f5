"""Modules whose line of modules.dep tells their load order, which nearly all do."""

from __future__ import annotations

from collections.abc import Collection, Mapping

from pytest_kernelvm.modules.deps import ModulesDep
from pytest_kernelvm.modules.presence import Presence

# How many questions about modules make all be learnt at once.
_MANY = 64

# What is in no dictionary, told apart by its identity.
_UNKNOWN = ("unknown",)

_Needs = tuple[str, ...]


class PlainLines:
    """What is plain: has a line and a file, no softdeps, and needs nothing that is otherwise.

    modules: of a tree. softly: the names of modules with softdeps. presence: of the tree's files.
    """

    def __init__(self, modules: ModulesDep, softly: Collection[str], presence: Presence) -> None:
        self._modules = modules
        self._softly = softly
        self._presence = presence
        self._needs: dict[str, _Needs | None] = {}
        self._orders: dict[str, _Needs | None] = {}

    def order(self, name: str) -> tuple[str, ...] | None:
        """Return a plain module's dependencies, the farthest first, and itself.

        None for any other, and where the line is not complete or in a wrong order.
        """
        order = self._orders.get(name, _UNKNOWN)
        if order is _UNKNOWN:
            needs = self._needs_of(name)
            for each in needs or ():
                self._needs_of(each)
            order = None if needs is None else _in_order(self._needs, name, needs)
            self._orders[name] = order
            if len(self._orders) == _MANY:
                self._learn()
        return order

    def _needs_of(self, name: str) -> _Needs | None:
        needs = self._needs.get(name, _UNKNOWN)
        if needs is _UNKNOWN:
            plain = name in self._modules and name not in self._softly
            if plain and self._presence.has(self._modules.relative(name)):
                needs = self._modules.needs(name)
            else:
                needs = None
            self._needs[name] = needs
        return needs

    def _learn(self) -> None:
        """Take all modules at once: many questions came, more will, and so each costs half."""
        modules = self._modules
        known = modules.whole_lines()
        there = self._presence.learn(map(modules.relative, known))
        for name in (*self._softly, *(name for name in known if not there[modules.relative(name)])):
            known.pop(name, None)
        nothing = dict.fromkeys(modules)
        self._needs = {**nothing, **known}
        orders = {name: _in_order(self._needs, name, needs) for name, needs in known.items()}
        self._orders = {**nothing, **orders}


def _in_order(known: Mapping[str, _Needs | None], name: str, needs: _Needs) -> _Needs | None:
    """Return a load order if each of it is plain, comes once, and behind all that it needs.

    known: what each plain module needs.
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
