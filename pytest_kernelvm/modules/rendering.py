"""A closure as text: for people, for programs, for Graphviz and for a shell without modprobe."""

from __future__ import annotations

import json
import re
import shlex
from collections.abc import Callable
from pathlib import PurePath
from typing import Literal

from pytest_kernelvm.modules.closure import Closure
from pytest_kernelvm.modules.provenance import ClosureModule, Relation

Form = Literal["tree", "list", "json", "dot", "sh"]

_Children = dict[str, list[tuple[Relation, str]]]

# A chain of 100,000 modules must not be indented by as many steps.
_DEEPEST_INDENT = 30


def render(closure: Closure, form: Form) -> str:
    """Return a closure in one form, ending in a newline unless it is empty.

    form: `tree` for people; `list`, the load order, one name a line; `json`; `dot`, for Graphviz;
        `sh`, the script that loads it.
    Raises BadInput if a file has gone since, where sizes are shown (tree, json).
    """
    return _FORMS[form](closure)


def name_list(closure: Closure) -> str:
    """Return the load order, one name a line."""
    return "".join(f"{name}\n" for name in closure.load_order)


def load_script(closure: Closure, directory: PurePath | None = None) -> str:
    """Return a shell script that loads the closure's modules with insmod alone.

    directory: where the tree will be when the script runs; where it is now by default.
    The script gives modules the parameters of the tree's modprobe.d, and stops at the first module
    that does not load.
    """
    plan = closure.plan
    place = directory or plan.directory
    return _script(
        [
            f"insmod {shlex.quote(str(place / step.relative))}{_parameters(step.options)}"
            for step in plan.load
        ]
    )


def unload_script(closure: Closure) -> str:
    """Return a shell script that unloads the closure's modules, dependents first."""
    return _script([f"rmmod {shlex.quote(name)}" for name in closure.plan.unload])


def _parameters(options: str) -> str:
    """Return parameters as words of a shell; blanks in quotes do not part them."""
    words = re.findall(r'(?:[^\s"]|"[^"]*"?)+', options)
    return "".join(f" {shlex.quote(word)}" for word in words)


def as_json(closure: Closure) -> str:
    """Return the closure as JSON.

    Each module has its direct requirer (null if it was wanted itself), the relation to it and, if
    the requirer uses one, the alias; sizes are in bytes, paths below `directory`.
    """
    content = {
        "release": closure.release,
        "directory": str(closure.directory),
        "wanted": closure.wanted,
        "modules": [_module_fields(module) for module in closure.modules],
        "load_order": closure.load_order,
        "unload_order": closure.unload_order,
        "builtin": closure.builtin,
        "missing": closure.missing,
        "warnings": closure.warnings,
        "options": dict(closure.options),
        "firmware": [
            {"path": file.relative, "link": file.link or None, "wanted_by": file.wanted_by}
            for file in closure.firmware.files
        ],
        "missing_firmware": [
            {"module": module, "name": name} for module, name in closure.firmware.missing
        ],
        "size_bytes": closure.size_bytes,
    }
    return json.dumps(content, indent=2) + "\n"


def dot(closure: Closure) -> str:
    """Return the closure as a directed graph for Graphviz, from requirer to required.

    Each module has its size, what was asked for a thick frame; what is not a plain dependency is
    dashed and labelled.
    """
    lines = ["digraph modules {", "  node [shape=box];"]
    for module in closure.modules:
        label = _dot_text(f"{module.name}\n{size_text(module.size_bytes)}")
        frame = ", style=bold" if module.name in closure.wanted else ""
        lines.append(f"  {_dot_text(module.name)} [label={label}{frame}];")
    for requirer, needs in _children(closure).items():
        for relation, name in needs:
            style = "" if relation == "depends" else f' [style=dashed, label="{relation}"]'
            lines.append(f"  {_dot_text(requirer)} -> {_dot_text(name)}{style};")
    return "\n".join([*lines, "}", ""])


def indented(closure: Closure) -> str:
    """Return the closure as a tree: what was asked for, and under it what that needs.

    A module's own needs are shown where it first comes up; later it is marked `(above)`.
    """
    modules = {module.name: module for module in closure.modules}
    children = _children(closure)
    shown: set[str] = set()
    lines: list[str] = []
    # The requirers of what is left over were taken out (Closure.without).
    for root in dict.fromkeys((*closure.wanted, *closure.builtin, *modules)):
        if root in shown or (root not in modules and root not in children):
            continue
        stack: list[tuple[int, Relation, str]] = [(0, "wanted", root)]
        while stack:
            depth, relation, name = stack.pop()
            marks = _marks(
                modules.get(name), relation, builtin=name in closure.builtin, seen=name in shown
            )
            lines.append(_indent(depth) + "  ".join([name, *marks]))
            if name not in shown:
                shown.add(name)
                needs = reversed(children.get(name, ()))
                stack.extend((depth + 1, how, need) for how, need in needs)
    for what, names in (("builtin", closure.builtin), ("missing", closure.missing)):
        if names:
            lines.append(f"{what}: {', '.join(names)}")
    lines.extend(f"warning: {warning}" for warning in closure.warnings)
    if files := closure.firmware.files:
        size = size_text(closure.firmware.size_bytes)
        lines.append(f"firmware: {', '.join(file.relative for file in files)}  {size}")
    count = "1 module" if len(modules) == 1 else f"{len(modules)} modules"
    lines.append(f"{count}, {size_text(closure.size_bytes)}")
    return "".join(f"{line}\n" for line in lines)


def _children(closure: Closure) -> _Children:
    """Return who needs what directly, in the order in which it is loaded around its requirer."""
    files = {module.name: module.file for module in closure.modules}
    hard: _Children = {}
    for name, file in files.items():
        needed = [need for need in file.dependencies if need in files]
        indirect = {further for need in needed for further in files[need].dependencies}
        hard[name] = [("depends", need) for need in reversed(needed) if need not in indirect]
    children: _Children = {}
    for requirer, relation, name in closure.edges:
        if relation == "softdep pre":
            children.setdefault(requirer, []).append((relation, name))
    for name, needs in hard.items():
        children.setdefault(name, []).extend(needs)
    for requirer, relation, name in closure.edges:
        if relation != "softdep pre":
            children.setdefault(requirer, []).append((relation, name))
    return children


def _marks(
    module: ClosureModule | None, relation: Relation, *, builtin: bool, seen: bool
) -> list[str]:
    notes: list[str] = [] if relation in ("wanted", "depends", "alias") else [relation]
    if notes and module is not None and not seen and module.relation == "alias":
        # The first one who asked, which is shown first.
        notes = [f"{relation}, as {module.requirer.name}"] if module.requirer else notes
    if module is None:
        notes.append("builtin" if builtin else "alias")
    elif module.on_request:
        notes.append("on request")
    if seen:
        notes.append("above")
    size = [] if module is None or seen else [size_text(module.size_bytes)]
    return [*size, f"({', '.join(notes)})"] if notes else size


def _module_fields(module: ClosureModule) -> dict[str, object]:
    requirer, relation, alias = module.requirer, module.relation, None
    if requirer is not None and relation == "alias":
        alias = requirer.name
        relation, requirer = requirer.relation, requirer.requirer
    return {
        "name": module.name,
        "path": module.file.relative,
        "size_bytes": module.size_bytes,
        "relation": relation,
        "requirer": requirer and requirer.name,
        "alias": alias,
        "on_request": module.on_request,
    }


def _indent(depth: int) -> str:
    if depth <= _DEEPEST_INDENT:
        return "  " * depth
    return "  " * _DEEPEST_INDENT + f"[{depth}] "


def size_text(size_bytes: int) -> str:
    """Return a size as people read it."""
    if size_bytes < 1024:
        return f"{size_bytes} B"
    if size_bytes < 1024 * 1024:
        return f"{size_bytes / 1024:.1f} KiB"
    return f"{size_bytes / 1024 / 1024:.1f} MiB"


def _dot_text(text: str) -> str:
    escaped = text.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")
    return f'"{escaped}"'


def _script(lines: list[str]) -> str:
    return "".join(f"{line}\n" for line in ("#!/bin/sh", "set -e", *lines))


_FORMS: dict[Form, Callable[[Closure], str]] = {
    "tree": indented,
    "list": name_list,
    "json": as_json,
    "dot": dot,
    "sh": load_script,
}
