"""The walk that finds a closure.

It differs from modprobe: all softdep lines of a module count, each module is placed once, a
modules.dep that depmod did not write is completed and ordered, and what may be requested at run
time is placed too.
"""

from __future__ import annotations

from collections.abc import Iterator

from pytest_kernelvm.errors import BadInput
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
from pytest_kernelvm.modules.provenance import ClosureModule, Relation, RequiredName, Requirer
from pytest_kernelvm.modules.tree import Classification, ModuleTree
from pytest_kernelvm.modules.walk import Walk, run_steps


class ClosureWalk(Walk[ClosureModule, Requirer]):
    """One walk through a tree; each call of `add_wanted` adds to what it has found.

    Attributes:
        placed: The modules found, in load order.
        builtin: What was required and is built into the kernel.
        missing: Missing names that may be missing.
        warnings: Sentences for people.
        edges: (requirer, relation, module) for all that modules.dep does not say: softdeps,
            weakdeps and wanted aliases.
    """

    def __init__(self, tree: ModuleTree, allow_missing: frozenset[str]) -> None:
        """Start with no module.

        Args:
            tree: The module tree.
            allow_missing: Normalised names that may be missing, or without a file.
        """
        super().__init__()
        self._tree = tree
        self._modules = tree.modules
        self._softdeps = tree.softdeps
        self._allow_missing = allow_missing
        self._on_request = False
        self._requirers: list[Requirer] = []
        self.placed: dict[str, ClosureModule] = {}
        self.builtin: dict[str, RequiredName] = {}
        self.missing: dict[str, None] = {}
        self.warnings: dict[str, None] = {}
        self.edges: dict[tuple[str, Relation, str], None] = {}

    def add_wanted(self, name: str) -> None:
        """Place a module and all that modprobe would load with it.

        Raises BadInput if the module, a dependency or the file of either is missing, and for
        dependencies in a cycle.

        Args:
            name: A module or an alias.
        """
        for module in self._resolved(name, "wanted", None):
            if module.relation == "alias":
                self.edges[name, "alias", module.name] = None
            run_steps(self._probe(module))

    def add_on_request(self) -> None:
        """Place what the modules placed so far and the builtin ones may request at run time."""
        if not (self.builtin or self._tree.weakdeps):
            return
        self._on_request = True
        # The list grows while it is read: what is placed now may request modules too.
        for requirer in self._requirers:
            for relation, names in self._requests_of(requirer):
                run_steps(self._probe_each(names, relation, requirer))

    def _requests_of(self, requirer: Requirer) -> Iterator[tuple[Relation, tuple[str, ...]]]:
        tree = self._tree
        if isinstance(requirer, ClosureModule):
            yield "weakdep", tree.weakdeps.get(requirer.name, ())
        elif softdep := tree.builtin_softdeps.get(requirer.name):
            yield "softdep pre", softdep.pre
            yield "softdep post", softdep.post
        if isinstance(requirer, RequiredName):
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
            self._requirers.append(module)

    def _lacks_file(self, module: ClosureModule) -> bool:
        """Whether a module has no file and is allowed to have none; raise if it is not allowed."""
        if self._tree.has_file(module.name):
            return False
        if module.name not in self._allow_missing:
            raise file_absent(self._tree, module)
        self.missing[module.name] = None
        return True

    def _behind_dependencies(self, root: ClosureModule) -> Iterator[ClosureModule]:
        """Yield what a module needs and is not placed, each behind what it needs, then itself.

        That is depmod's own order, and also right for lists that are incomplete or in no order.
        """
        if not root.file.dependencies:
            yield root
            return
        modules = self._direct_requirers(root)
        entered, done = {root.name}, set[str]()
        stack = [(root, reversed(root.file.dependencies))]
        while stack:
            owner, names = stack[-1]
            name = next(names, None)
            if name is None:
                stack.pop()
                done.add(owner.name)
                yield owner
            elif name in done:
                continue
            elif name in self.placed:
                # In a loop of softdeps, softdeps of this one may not be placed yet.
                if owner is root and name in self._softdeps:
                    yield self.placed[name]
            elif name in entered:
                raise self._cycle([module.name for module, _ in stack], name)
            elif name not in self._modules:
                done.add(name)
                self._without_file(name, owner)
            else:
                module = modules.get(name) or self._module(name, "depends", owner)
                entered.add(name)
                stack.append((module, reversed(module.file.dependencies)))

    def _cycle(self, path: list[str], name: str) -> BadInput:
        """Return the error for a path of dependencies that comes back to a name in it."""
        return dependency_cycle(self._tree, path[path.index(name) :])

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
            by, how = RequiredName(name=name, relation=relation, requirer=requirer), "alias"
        known = False
        for target in found.targets:
            if target in self._modules:
                known = True
                yield self._module(target, how, by)
            elif target in self._tree.builtin:
                known = True
                self._builtin(target, how, by)
        if not known:
            self._not_found(found, relation, requirer)

    def _builtin(self, name: str, relation: Relation, requirer: Requirer | None) -> None:
        if name not in self.builtin:
            self.builtin[name] = RequiredName(name=name, relation=relation, requirer=requirer)
            self._requirers.append(self.builtin[name])

    def _not_found(
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
