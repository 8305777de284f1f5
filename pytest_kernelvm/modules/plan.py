"""Plans: what to insert into a kernel and what to remove again, step by step."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True, kw_only=True, slots=True)
class Insertion:
    """One module to insert. relative: its path below the tree. options: its parameters."""

    name: str
    relative: str
    options: str = ""


@dataclass(frozen=True, kw_only=True, slots=True)
class Plan:
    """How a closure gets into a kernel and out of it, for loaders that know nothing (insmod).

    directory: the tree. load: in order, each behind what it needs.
    unload: names, each before what it needs; a use count or another holder stops it.
    """

    directory: Path
    load: tuple[Insertion, ...] = ()
    unload: tuple[str, ...] = ()
