"""The walk that finds a closure.

Beside what modprobe does it takes all softdep lines of a module, places each module once, completes
and orders a modules.dep that depmod did not write, and goes on to what is asked for at run time.
"""

from __future__ import annotations

from collections.abc import Iterator

from pytest_kernelvm.modules.diagnostics import (
    dependency_cycle,
    dependency_unlisted,
    file_absent,
    nothing_behind_alias,
    soft_name_missing,
    softdep_ignored,
    unknown_name,
)
from pytest_kernelvm.modules.metadata import Softdep
from pytest_kernelvm.modules.provenance import ClosureModule, Origin, Relation, Requirer
from pytest_kernelvm.modules.tree import Classification, ModuleTree
from pytest_kernelvm.modules.walk import Walk, take


class ClosureWalk(Walk[ClosureModule, Requirer]):
    """One walk through a tree; its findings grow with every name that it is sent for.

    tree: the tree. allow_missing: normalised names that may be missing, or without a file.
    placed: the modules found, in load order. builtin: what the kernel satisfies itself.
    missing: allowed names that are missing. warnings: sentences for people.
    edges: (requirer, relation, module) for what modules.dep does not say: softdeps, weakdeps and
        wanted aliases that lead to a module.
    """

    def __init__(self, tree: ModuleTree, allow_missing: frozenset[str]) -> None:
        super().__init__()
        self._tree = tree
        self._modules = tree.modules
        self._softdeps = tree.softdeps
        self._allow_missing = allow_missing
        self._on_request = False
        self._found: list[Requirer] = []
        self.placed: dict[str, ClosureModule] = {}
        self.builtin: dict[str, Origin] = {}
        self.missing: dict[str, None] = {}
        self.warnings: dict[str, None] = {}
        self.edges: dict[tuple[str, Relation, str], None] = {}

    def want(self, name: str) -> None:
        """Place a module and all that modprobe would load with it.

        name: a module's name or an alias. Raises BadInput if it, a dependency or the file of either
        is missing, and for dependencies in a cycle.
        """
        for module in self._resolved(name, "wanted", None):
            if module.relation == "alias":
                self.edges[name, "alias", module.name] = None
            take(self._probe(module))

    def want_on_request(self) -> None:
        """Place what the modules placed so far, and the builtin ones, may ask for at run time."""
        if not (self.builtin or self._tree.weakdeps):
            return
        self._on_request = True
        # The list grows while it is read: what comes in has wishes of its own.
        for requirer in self._found:
            for relation, names in self._wishes(requirer):
                take(self._probe_each(names, relation, requirer))

    def _wishes(self, requirer: Requirer) -> Iterator[tuple[Relation, tuple[str, ...]]]:
        tree = self._tree
        if isinstance(requirer, ClosureModule):
            yield "weakdep", tree.weakdeps.get(requirer.name, ())
        elif softdep := tree.builtin_softdeps.get(requirer.name):
            yield "softdep pre", softdep.pre
            yield "softdep post", softdep.post
        if isinstance(requirer, Origin):
            yield "weakdep", tree.builtin_weakdeps.get(requirer.name, ())

    def _modules_named(
        self, name: str, relation: Relation, requirer: Requirer
    ) -> Iterator[ClosureModule]:
        for module in self._resolved(name, relation, requirer):
            self.edges[requirer.name, relation, module.name] = None
            yield module

    def _as_requirer(self, module: ClosureModule) -> ClosureModule:
        return module

    def _identity(self, module: ClosureModule) -> str:
        by = module.requirer
        return f"{by.name} {module.name}" if by and module.relation == "alias" else module.name

    def _with_dependencies(self, module: ClosureModule) -> Iterator[ClosureModule]:
        root = self.placed.get(module.name) or module
        if not self._lacks_file(root):
            for each in self._behind_dependencies(root):
                if not self._lacks_file(each):
                    yield each

    def _softdep(self, module: ClosureModule) -> Softdep | None:
        softdep = self._softdeps.get(module.name)
        if softdep and softdep.ignored:
            self.warnings[softdep_ignored(module.name, softdep.ignored)] = None
        return softdep

    def _place(self, module: ClosureModule) -> None:
        if module.name not in self.placed:
            self.placed[module.name] = module
            self._found.append(module)

    def _lacks_file(self, module: ClosureModule) -> bool:
        """Tell whether a module has no file though it may be so; complain if it may not."""
        if self._tree.has_file(module.name):
            return False
        if module.name not in self._allow_missing:
            raise file_absent(self._tree, module)
        self.missing[module.name] = None
        return True

    def _behind_dependencies(self, root: ClosureModule) -> Iterator[ClosureModule]:
        """Yield what a module needs and is not placed, each behind what it needs, then itself.

        That is depmod's own order, and stays right for lists that are in none, or not complete.
        """
        if not root.file.dependencies:
            yield root
            return
        modules = self._direct_requirers(root)
        done: set[str] = set()
        path = {root.name: None}
        stack = [(root, reversed(root.file.dependencies))]
        while stack:
            owner, names = stack[-1]
            for name in names:
                if name in done:
                    continue
                if name in self.placed:
                    # In a loop of softdeps some of its own may still wait for their turn.
                    if owner is root and name in self._softdeps:
                        yield self.placed[name]
                    continue
                if name in path:
                    cycle = list(path)
                    raise dependency_cycle(self._tree, cycle[cycle.index(name) :])
                if name not in self._modules:
                    done.add(name)
                    self._without_file(name, owner)
                    continue
                if name not in modules:
                    modules[name] = self._module(name, "depends", owner)
                module = modules[name]
                if module.file.dependencies:
                    path[name] = None
                    stack.append((module, reversed(module.file.dependencies)))
                    break
                done.add(name)
                yield module
            else:
                stack.pop()
                del path[owner.name]
                done.add(owner.name)
                yield owner

    def _direct_requirers(self, root: ClosureModule) -> dict[str, ClosureModule]:
        """Return what a module's line in modules.dep lists, each with who needs it directly.

        The line goes from near to far: who needs a module directly is the last one before it that
        lists it too.
        """
        modules: dict[str, ClosureModule] = {}
        needed_by: dict[str, ClosureModule] = {}
        for name in root.file.dependencies:
            if name in self._modules and name not in self.placed:
                module = self._module(name, "depends", needed_by.get(name, root))
                modules[name] = module
                needed_by.update(dict.fromkeys(module.file.dependencies, module))
        return modules

    def _module(self, name: str, relation: Relation, requirer: Requirer | None) -> ClosureModule:
        return ClosureModule(
            file=self._modules[name],
            relation=relation,
            requirer=requirer,
            on_request=self._on_request,
        )

    def _without_file(self, name: str, owner: ClosureModule) -> None:
        """Note a dependency without a line in modules.dep: builtin, allowed, or an error."""
        if name in self._tree.builtin:
            self._builtin(name, "depends", owner)
        elif name in self._allow_missing:
            self.missing[name] = None
        else:
            raise dependency_unlisted(self._tree, owner, name)

    def _resolved(
        self, name: str, relation: Relation, requirer: Requirer | None
    ) -> Iterator[ClosureModule]:
        """Yield the modules that a name stands for; note what is builtin or missing."""
        found = self._tree.classify(name)
        by, how = requirer, relation
        if found.is_alias:
            by, how = Origin(name=name, relation=relation, requirer=requirer), "alias"
        known = False
        for target in found.targets:
            if target in self._modules:
                known = True
                yield self._module(target, how, by)
            elif target in self._tree.builtin:
                known = True
                self._builtin(target, how, by)
        if not known:
            self._nowhere(found, relation, requirer)

    def _builtin(self, name: str, relation: Relation, requirer: Requirer | None) -> None:
        if name not in self.builtin:
            self.builtin[name] = Origin(name=name, relation=relation, requirer=requirer)
            self._found.append(self.builtin[name])

    def _nowhere(
        self, found: Classification, relation: Relation, requirer: Requirer | None
    ) -> None:
        if found.name in self._allow_missing:
            self.missing[found.name] = None
        elif requirer is not None:
            warning = soft_name_missing(self._tree, requirer, relation, found)
            self.warnings[warning] = None
        elif found.is_alias:
            raise nothing_behind_alias(self._tree, found)
        else:
            raise unknown_name(self._tree, found.name)
