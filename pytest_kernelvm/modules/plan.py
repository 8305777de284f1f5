"""Plans: what to insert into a kernel and what to remove again, step by step."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True, kw_only=True, slots=True)
class InsmodStep:
    """One module to insert.

    Attributes:
        name: The module.
        relative: The path of its file below the tree.
        options: Its parameters, as insmod takes them.
    """

    name: str
    relative: str
    options: str = ""


@dataclass(frozen=True, kw_only=True, slots=True)
class Plan:
    """How to load and unload a closure with insmod and rmmod, which resolve nothing themselves.

    Attributes:
        directory: The tree.
        load: What to insert, in order; each module comes behind what it needs.
        unload: The modules to remove, in order; each comes before what it needs. The kernel
            refuses to remove a module that is in use.
    """

    directory: Path
    load: tuple[InsmodStep, ...] = ()
    unload: tuple[str, ...] = ()
