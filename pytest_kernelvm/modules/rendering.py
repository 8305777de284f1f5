"""A closure as text: for people, for programs, for Graphviz and for a shell without modprobe."""

from __future__ import annotations

import json
import re
import shlex
from collections.abc import Callable
from pathlib import PurePath
from typing import Literal

from pytest_kernelvm.modules.closure import Closure
from pytest_kernelvm.modules.provenance import ClosureModule
from pytest_kernelvm.modules.tree_text import direct_needs, size_text, tree_text

Form = Literal["tree", "list", "json", "dot", "sh"]


def render(closure: Closure, form: Form) -> str:
    """Return a closure in one form; it ends with a newline unless it is empty.

    Raises BadInput if a file is gone, in the forms that show sizes (tree, json, dot).

    Args:
        closure: The closure.
        form: `tree` for people; `list`, the load order, one name a line; `json`; `dot` for
            Graphviz; `sh`, the script that loads it.
    """
    return _FORMS[form](closure)


def name_list(closure: Closure) -> str:
    """Return the load order, one name a line."""
    return "".join(f"{name}\n" for name in closure.load_order)


def load_script(closure: Closure, directory: PurePath | None = None) -> str:
    """Return a shell script that loads the modules of a closure with insmod alone.

    It gives modules the parameters of the tree's modprobe.d, and stops at the first module that
    cannot be loaded.

    Args:
        closure: The closure.
        directory: Where the tree is when the script runs; None for where it is now.
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
    """Return a shell script that unloads the modules of a closure, dependents first."""
    return _script([f"rmmod {shlex.quote(name)}" for name in closure.plan.unload])


def _parameters(options: str) -> str:
    """Return parameters as words of a shell; blanks in quotes do not part them."""
    words = re.findall(r'(?:[^\s"]|"[^"]*"?)+', options)
    return "".join(f" {shlex.quote(word)}" for word in words)


def as_json(closure: Closure) -> str:
    """Return a closure as JSON.

    Each module has its direct requirer (null if the user wanted it), the relation to it and, if the
    requirer uses one, the alias. Sizes are in bytes, paths below `directory`.
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
    """Return a closure as a directed graph for Graphviz, from requirer to required.

    Each module has its size, wanted ones a thick frame. An edge is dashed and labelled if it is
    something else than a dependency.
    """
    lines = ["digraph modules {", "  node [shape=box];"]
    for module in closure.modules:
        label = _dot_text(f"{module.name}\n{size_text(module.size_bytes)}")
        frame = ", style=bold" if module.name in closure.wanted else ""
        lines.append(f"  {_dot_text(module.name)} [label={label}{frame}];")
    for requirer, needs in direct_needs(closure).items():
        for relation, name in needs:
            style = "" if relation == "depends" else f' [style=dashed, label="{relation}"]'
            lines.append(f"  {_dot_text(requirer)} -> {_dot_text(name)}{style};")
    return "\n".join([*lines, "}", ""])


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


def _dot_text(text: str) -> str:
    escaped = text.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")
    return f'"{escaped}"'


def _script(lines: list[str]) -> str:
    return "".join(f"{line}\n" for line in ("#!/bin/sh", "set -e", *lines))


_FORMS: dict[Form, Callable[[Closure], str]] = {
    "tree": tree_text,
    "list": name_list,
    "json": as_json,
    "dot": dot,
    "sh": load_script,
}
