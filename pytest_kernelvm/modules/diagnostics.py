"""The errors and warnings about names: what is missing, where, and what was perhaps meant."""

from __future__ import annotations

import difflib
from collections.abc import Sequence

from pytest_kernelvm.errors import BadInput, Evidence
from pytest_kernelvm.modules.provenance import ClosureModule, Requirer
from pytest_kernelvm.modules.tree import Classification, ModuleTree


def unknown_name(tree: ModuleTree, name: str) -> BadInput:
    """Return the error for a name that the tree does not have, with similar names.

    Without modules.builtin it says that the module may be builtin.

    Args:
        tree: The module tree.
        name: The name.
    """
    if tree.knows_builtin:
        summary = f"no module {name!r} in {tree.release}"
        seen = "neither a module, nor an alias, nor built into the kernel"
    else:
        summary = f"no module {name!r} in {tree.release}, unless the kernel has it built in"
        seen = "neither a module nor an alias; without modules.builtin nobody knows what is builtin"
    return BadInput(
        summary,
        Evidence(
            expected="a module or an alias of this tree",
            seen=seen,
            where=(str(tree.directory),),
            next_step=_near(tree, name) or "set its symbol to m in the kernel's configuration",
        ),
    )


def nothing_behind_alias(tree: ModuleTree, alias: Classification) -> BadInput:
    """Return the error for an alias of modules that the tree does not have, such as `off`.

    Args:
        tree: The tree that was searched.
        alias: The name, and what it is in the tree.
    """
    targets = ", ".join(alias.targets)
    seen = (
        "it is switched off (`alias … off`)"
        if alias.targets == ("off",)
        else f"it stands for {targets}, which the tree does not have"
    )
    return BadInput(
        f"the alias {alias.name!r} leads to no module of {tree.release}",
        Evidence(
            expected="an alias of a module that modules.dep or modules.builtin lists",
            seen=seen,
            where=(str(tree.directory / "modules.alias"),),
            next_step="ask for the module itself, or run depmod again for this tree",
        ),
    )


def file_absent(tree: ModuleTree, module: ClosureModule) -> BadInput:
    """Return the error for a module of modules.dep whose file is absent or unreadable.

    Args:
        tree: The tree that lists it.
        module: The module, with the reason why it is needed.
    """
    return BadInput(
        f"the file of module {module.name} is absent",
        Evidence(
            expected=f"{module.path}, because: {' '.join(module.reason)}",
            seen="no such file, or not a readable one",
            where=(str(module.path), tree.line_of(module.name)),
            next_step="install the modules again and run depmod",
        ),
    )


def dependency_unlisted(tree: ModuleTree, owner: ClosureModule, name: str) -> BadInput:
    """Return the error for a dependency that has no line in modules.dep.

    Args:
        tree: The module tree.
        owner: The module that needs it.
        name: The dependency.
    """
    return BadInput(
        f"module {owner.name} depends on {name}, which modules.dep does not list",
        Evidence(
            expected="a line of modules.dep for each module",
            seen=f"none for {name}, because: {' '.join(owner.reason)}",
            where=(tree.line_of(owner.name),),
            next_step="install the module and run depmod again for this tree",
        ),
    )


def dependency_cycle(tree: ModuleTree, names: Sequence[str]) -> BadInput:
    """Return the error for modules that need each other.

    Args:
        tree: The module tree.
        names: The cycle; its first name is not repeated at the end.
    """
    shown = [*names, names[0]]
    if len(shown) > 12:
        shown = [*shown[:6], "…", *shown[-5:]]
    return BadInput(
        f"modules depend on each other: {' → '.join(shown)}",
        Evidence(
            expected="a module that can be loaded first",
            seen=f"a cycle of {len(names)} in modules.dep",
            where=tuple(tree.line_of(name) for name in names[:10]),
            next_step="break the cycle in the modules' sources; depmod refuses it too",
        ),
    )


def soft_name_missing(
    tree: ModuleTree, requirer: Requirer, relation: str, found: Classification
) -> str:
    """Return the warning for a softdep or weakdep that does not exist.

    Args:
        tree: The module tree.
        requirer: What has the softdep or weakdep.
        relation: Which of both it is.
        found: The name that does not exist.
    """
    return (
        f"{requirer.name}: {relation} {found.name} is neither a module, nor an alias of one, "
        f"nor builtin in {tree.release}"
    )


def softdep_ignored(name: str, ignored: Sequence[str]) -> str:
    """Return the warning for softdeps behind neither `pre:` nor `post:`."""
    return (
        f"{name}: softdep {' '.join(ignored)} stands behind neither pre: nor post:, "
        "so that modprobe ignores it"
    )


def _near(tree: ModuleTree, name: str) -> str:
    known = {known.lower(): known for known in (*tree.builtin, *tree.modules)}
    near = difflib.get_close_matches(name.lower(), known, n=3, cutoff=0.7)
    if not near:
        return ""
    return f"did you mean {' or '.join(known[match] for match in near)}?"
