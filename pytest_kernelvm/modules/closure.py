"""The closure of a set of modules: everything that they may need at run time, and why."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from pytest_kernelvm.errors import BadInput, Evidence
from pytest_kernelvm.modules.closure_walk import ClosureWalk
from pytest_kernelvm.modules.fast_path import LazyModules
from pytest_kernelvm.modules.firmware import NO_FIRMWARE, Firmware, WhenMissing, find_firmware
from pytest_kernelvm.modules.names import checked_name
from pytest_kernelvm.modules.plan import InsmodStep, Plan
from pytest_kernelvm.modules.provenance import ClosureModule, Relation
from pytest_kernelvm.modules.tree import ModuleTree


@dataclass(frozen=True, kw_only=True, slots=True)
class Closure:
    """What a set of modules needs of one tree.

    Attributes:
        release: The release of the tree.
        directory: The tree.
        wanted: The names that were wanted, normalised, each once.
        modules: Every module file to pack. First come those that get loaded, in load order; then
            those that may only be requested at run time (`on_request`), dependencies first too.
        builtin: Required modules that are built into the kernel.
        missing: Missing names that may be missing.
        warnings: Sentences for people, such as about a softdep that does not exist.
        edges: (requirer, relation, module) for all that modules.dep does not say: softdeps,
            weakdeps and wanted aliases.
        firmware: The firmware that the modules may load.
        options: (module, parameters) from the tree's modprobe.d.
    """

    release: str
    directory: Path
    wanted: tuple[str, ...] = ()
    modules: Sequence[ClosureModule] = ()
    builtin: tuple[str, ...] = ()
    missing: tuple[str, ...] = ()
    warnings: tuple[str, ...] = ()
    edges: tuple[tuple[str, Relation, str], ...] = ()
    firmware: Firmware = NO_FIRMWARE
    options: tuple[tuple[str, str], ...] = ()

    @property
    def load_order(self) -> tuple[str, ...]:
        """The names of the modules to load, each behind what it needs; none is `on_request`."""
        if isinstance(self.modules, LazyModules):
            return self.modules.names
        return tuple(module.name for module in self.modules if not module.on_request)

    @property
    def unload_order(self) -> tuple[str, ...]:
        """The names of the loaded modules, each before what it needs."""
        return self.load_order[::-1]

    @property
    def plan(self) -> Plan:
        """What to insert, with which parameters, and what to remove, step by step."""
        options = dict(self.options)
        return Plan(
            directory=self.directory,
            load=tuple(
                InsmodStep(
                    name=module.name,
                    relative=module.file.relative,
                    options=options.get(module.name, ""),
                )
                for module in self.modules
                if not module.on_request
            ),
            unload=self.unload_order,
        )

    @property
    def files(self) -> tuple[Path, ...]:
        """The files to pack, in the order of `modules`."""
        return tuple(module.path for module in self.modules)

    @property
    def size_bytes(self) -> int:
        """The size of all files on disk. Raises BadInput if one is gone."""
        return sum(module.size_bytes for module in self.modules)

    def without(self, name: str) -> Closure:
        """Return the closure without one module, though others may need it.

        Its requirers stay, so that the kernel itself reports why they cannot be loaded.

        Args:
            name: One of `modules`.

        Raises:
            BadInput: If the closure does not have it.
        """
        gone = checked_name(name)
        kept = tuple(module for module in self.modules if module.name != gone)
        if len(kept) == len(self.modules):
            raise BadInput(
                f"the closure has no module {name!r} to take out",
                Evidence(
                    expected=f"one of {', '.join(module.name for module in self.modules)}",
                    seen=name,
                ),
            )
        edges = tuple(edge for edge in self.edges if gone not in (edge[0], edge[2]))
        return replace(self, modules=kept, edges=edges)


def resolve_closure(
    tree: ModuleTree,
    wanted: Iterable[str],
    *,
    allow_missing: Collection[str] = (),
    allow_empty: bool = False,
    firmware_directory: Path | None = None,
    missing_firmware: WhenMissing = "warning",
) -> Closure:
    """Return all that a set of modules may need at run time, in load order.

    All softdep lines of a module count, and weakdeps too. For the order see walk.py. Raises
    BadInput for a name that is invalid or that the tree does not have, for an absent file, for
    dependencies in a cycle, for a damaged tree and, without `allow_empty`, for a closure of no
    module.

    Args:
        tree: The module tree.
        wanted: Modules or aliases, as modprobe takes them.
        allow_missing: Names that may be missing, or without a file.
        allow_empty: Whether all wanted names may be builtin or missing.
        firmware_directory: A lib/firmware to find firmware in; None for a closure without firmware.
        missing_firmware: Whether missing firmware is a warning or an error.
    """
    names = _names(wanted, "wanted", tree)
    may_be_missing = _names(allow_missing, "allow_missing", tree) if allow_missing else ()
    if not names:
        return Closure(release=tree.release, directory=tree.directory)
    order = tree.fast_load_orders.of(names[0]) if len(names) == 1 else None
    if order is not None:
        modules = LazyModules(tree.modules, order)
        closure = Closure(
            release=tree.release, directory=tree.directory, wanted=names, modules=modules
        )
    else:
        closure = _walked(tree, names, frozenset(may_be_missing), allow_empty)
    if tree.modprobe_d.options:
        closure = replace(closure, options=_options(tree, closure))
    if firmware_directory is None:
        return closure
    firmware = find_firmware(
        tree, closure.modules, closure.builtin, firmware_directory, missing_firmware
    )
    warnings = (*closure.warnings, *firmware.warnings)
    return replace(closure, firmware=firmware, warnings=warnings)


def _walked(
    tree: ModuleTree,
    names: tuple[str, ...],
    allow_missing: frozenset[str],
    allow_empty: bool,
) -> Closure:
    walk = ClosureWalk(tree, allow_missing)
    for name in names:
        walk.add_wanted(name)
    walk.add_on_request()
    if not walk.placed and not allow_empty:
        raise _empty(tree, names, walk)
    return Closure(
        release=tree.release,
        directory=tree.directory,
        wanted=names,
        modules=tuple(walk.placed.values()),
        builtin=tuple(walk.builtin),
        missing=tuple(walk.missing),
        warnings=tuple(walk.warnings),
        edges=tuple(edge for edge in walk.edges if edge[2] in walk.placed),
    )


def _options(tree: ModuleTree, closure: Closure) -> tuple[tuple[str, str], ...]:
    """Return the parameters of modules; those for an alias count if it was asked for by that."""
    found = []
    for module in closure.modules:
        by = module.requirer
        names = (module.name, by.name) if by and module.relation == "alias" else (module.name,)
        if options := tree.modprobe_d.options_of(*names):
            found.append((module.name, options))
    return tuple(found)


def _names(names: Iterable[str], argument: str, tree: ModuleTree) -> tuple[str, ...]:
    if isinstance(names, str):
        raise BadInput(
            f"{argument} is a text, and not a sequence of names",
            Evidence(expected=f"[{names!r}]", seen=repr(names)),
        )
    names = tuple(names)
    # A name in modules.dep is valid, and normalised.
    if len(names) == 1 and tree.fast_load_orders.of(names[0]) is not None:
        return names
    return tuple(dict.fromkeys(checked_name(name) for name in names))


def _empty(tree: ModuleTree, names: tuple[str, ...], walk: ClosureWalk) -> BadInput:
    return BadInput(
        f"nothing to load for {', '.join(names)}: the closure is empty",
        Evidence(
            expected="at least one module file",
            seen="; ".join(
                f"{what}: {', '.join(found)}"
                for what, found in (("builtin", walk.builtin), ("missing", walk.missing))
                if found
            ),
            where=(str(tree.directory),),
            next_step="pass allow_empty=True if that is meant",
        ),
    )
