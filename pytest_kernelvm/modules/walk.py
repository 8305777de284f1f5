"""The walk from wanted names to modules in the order in which modprobe loads them.

The order is kmod's (libkmod-module.c, __kmod_module_get_probe_list and __kmod_module_fill_softdep):
a module's dependencies from the last of its modules.dep line to the first, each between its own
softdeps, then the module between its own. What a name stands for and what is done with a module is
up to the two subclasses: ClosureWalk (closure_walk.py) and ModprobeWalk (modprobe.py).
"""

from __future__ import annotations

import abc
from collections.abc import Iterable, Iterator
from typing import Generic, TypeVar

from pytest_kernelvm.modules.metadata import Softdep
from pytest_kernelvm.modules.provenance import Relation

M = TypeVar("M")
R = TypeVar("R")

# A step yields the steps to run before it goes on: recursion that Python's stack does not limit.
Step = Iterator["Step"]


class Walk(abc.ABC, Generic[M, R]):
    """One walk through a tree; M is the type of a module, R that of what requires one."""

    def __init__(self) -> None:
        self._visited: set[str] = set()

    def _probe_each(self, names: Iterable[str], relation: Relation, requirer: R) -> Step:
        for name in names:
            for module in self._modules_named(name, relation, requirer):
                yield self._probe(module)

    def _probe(self, module: M) -> Step:
        """Place a module that is wanted itself, or by a softdep."""
        key = self._identity(module)
        if key in self._visited:
            return
        self._visited.add(key)
        for each in self._with_dependencies(module):
            softdep = self._softdep(each)
            if softdep is None:
                self._place(each)
            else:
                yield self._probe_each(softdep.pre, "softdep pre", self._as_requirer(each))
                self._place(each)
                yield self._probe_each(softdep.post, "softdep post", self._as_requirer(each))

    @abc.abstractmethod
    def _modules_named(self, name: str, relation: Relation, requirer: R) -> Iterable[M]:
        """Return the modules that a name stands for."""

    @abc.abstractmethod
    def _as_requirer(self, module: M) -> R:
        """Return a module as one that requires others."""

    @abc.abstractmethod
    def _identity(self, module: M) -> str:
        """Return what tells a module from others.

        To kmod a module by an alias is another one than the same by its name, which in a loop of
        softdeps decides which comes first.
        """

    @abc.abstractmethod
    def _with_dependencies(self, module: M) -> Iterable[M]:
        """Return what a module depends on, each behind what it needs, then itself."""

    @abc.abstractmethod
    def _softdep(self, module: M) -> Softdep | None:
        """Return what is to be loaded before and after a module."""

    @abc.abstractmethod
    def _place(self, module: M) -> None:
        """Add a module to the load order."""


def run_steps(first: Step) -> None:
    """Run a step with all steps that it yields, however deep.

    Args:
        first: A generator that yields the steps that have to run before it goes on.
    """
    stack = [first]
    while stack:
        step = next(stack[-1], None)
        if step is None:
            stack.pop()
        else:
            stack.append(step)
