"""Closures that are one line of modules.dep, which nearly all are."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import cached_property
from typing import overload

from pytest_kernelvm.modules.provenance import ClosureModule
from pytest_kernelvm.modules.tree import ModuleTree


class Line(Sequence[ClosureModule]):
    """The modules of such a closure in load order, made when somebody looks at them.

    tree: the tree. names: the module's dependencies, the farthest first, and itself.
    """

    def __init__(self, tree: ModuleTree, names: tuple[str, ...]) -> None:
        self._tree = tree
        self.names = names

    @cached_property
    def _modules(self) -> tuple[ClosureModule, ...]:
        files = self._tree.modules
        root = ClosureModule(file=files[self.names[-1]])
        # Who needs a module directly is the last one, going from near to far, that lists it.
        needed_by = dict.fromkeys(root.file.dependencies, root)
        found = [root]
        for name in root.file.dependencies:
            module = ClosureModule(file=files[name], relation="depends", requirer=needed_by[name])
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


def plain_line(tree: ModuleTree, names: tuple[str, ...]) -> Line | None:
    """Return the closure of one module that its line of modules.dep tells; None for any other.

    names: what is wanted. None too if somebody wants something softly, a file is absent, or the
    line is not complete or in a wrong order: then ClosureWalk knows better.
    """
    if len(names) > 1 or tree.weakdeps or tree.modprobe_d.aliases:
        return None
    order = tree.plain_lines.order(names[0])
    return None if order is None else Line(tree, order)
