"""A closure as an indented tree for people."""

from __future__ import annotations

from collections.abc import Iterator

from pytest_kernelvm.modules.closure import Closure
from pytest_kernelvm.modules.provenance import ClosureModule, Relation

# A chain of 100,000 modules must not be indented by as many steps.
_DEEPEST_INDENT = 30


def tree_text(closure: Closure) -> str:
    """Return the closure as a tree: what was wanted, and below it what that needs.

    The needs of a module are shown where it comes first; later it is marked `(above)`.
    """
    lines = [*_tree_lines(closure), *_summary_lines(closure)]
    return "".join(f"{line}\n" for line in lines)


def direct_needs(closure: Closure) -> dict[str, list[tuple[Relation, str]]]:
    """Return what each module needs directly, in load order: (relation, module) pairs.

    Aliases that were wanted and builtin modules are keys too, if they lead to modules.

    Args:
        closure: The closure.
    """
    needs: dict[str, list[tuple[Relation, str]]] = {}
    for requirer, relation, name in closure.edges:
        if relation == "softdep pre":
            needs.setdefault(requirer, []).append((relation, name))
    for name, dependencies in _direct_dependencies(closure).items():
        needs.setdefault(name, []).extend(("depends", each) for each in dependencies)
    for requirer, relation, name in closure.edges:
        if relation != "softdep pre":
            needs.setdefault(requirer, []).append((relation, name))
    return needs


def _direct_dependencies(closure: Closure) -> dict[str, list[str]]:
    """Return the dependencies of each module that no other dependency of it needs."""
    files = {module.name: module.file for module in closure.modules}
    direct = {}
    for name, file in files.items():
        needed = [need for need in file.dependencies if need in files]
        indirect = {further for need in needed for further in files[need].dependencies}
        direct[name] = [need for need in reversed(needed) if need not in indirect]
    return direct


def _tree_lines(closure: Closure) -> Iterator[str]:
    modules = {module.name: module for module in closure.modules}
    needs = direct_needs(closure)
    shown: set[str] = set()
    # At the end come modules whose requirers were taken out (Closure.without).
    for root in dict.fromkeys((*closure.wanted, *closure.builtin, *modules)):
        if root in shown or (root not in modules and root not in needs):
            continue
        stack: list[tuple[int, Relation, str]] = [(0, "wanted", root)]
        while stack:
            depth, relation, name = stack.pop()
            module, is_first = modules.get(name), name not in shown
            if module is None:
                notes = _notes_without_file(relation, builtin=name in closure.builtin)
            else:
                notes = _notes(module, relation, is_first=is_first)
            yield _indent(depth) + _entry(name, notes, module, is_first=is_first)
            if is_first:
                shown.add(name)
                stack.extend((depth + 1, *need) for need in reversed(needs.get(name, ())))


def _entry(name: str, notes: list[str], module: ClosureModule | None, *, is_first: bool) -> str:
    parts = [name]
    if module is not None and is_first:
        parts.append(size_text(module.size_bytes))
    if not is_first:
        notes = [*notes, "above"]
    if notes:
        parts.append(f"({', '.join(notes)})")
    return "  ".join(parts)


def _notes_without_file(relation: Relation, *, builtin: bool) -> list[str]:
    return [*_relation_note(relation), "builtin" if builtin else "alias"]


def _notes(module: ClosureModule, relation: Relation, *, is_first: bool) -> list[str]:
    notes = _relation_note(relation)
    # The requirer of the module is the first one, below which it is shown first.
    if notes and is_first and module.relation == "alias" and module.requirer:
        notes = [f"{relation}, as {module.requirer.name}"]
    return [*notes, "on request"] if module.on_request else notes


def _relation_note(relation: Relation) -> list[str]:
    return [] if relation in ("wanted", "depends", "alias") else [relation]


def _summary_lines(closure: Closure) -> Iterator[str]:
    for what, names in (("builtin", closure.builtin), ("missing", closure.missing)):
        if names:
            yield f"{what}: {', '.join(names)}"
    for warning in closure.warnings:
        yield f"warning: {warning}"
    if files := closure.firmware.files:
        size = size_text(closure.firmware.size_bytes)
        yield f"firmware: {', '.join(file.relative for file in files)}  {size}"
    count = len(closure.modules)
    modules = "1 module" if count == 1 else f"{count} modules"
    yield f"{modules}, {size_text(closure.size_bytes)}"


def _indent(depth: int) -> str:
    if depth <= _DEEPEST_INDENT:
        return "  " * depth
    return "  " * _DEEPEST_INDENT + f"[{depth}] "


def size_text(size_bytes: int) -> str:
    """Return a size in B, KiB or MiB."""
    if size_bytes < 1024:
        return f"{size_bytes} B"
    if size_bytes < 1024 * 1024:
        return f"{size_bytes / 1024:.1f} KiB"
    return f"{size_bytes / 1024 / 1024:.1f} MiB"
