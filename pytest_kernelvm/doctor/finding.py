"""What the doctor found out about one thing that kernels or guests need."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, get_args

from pytest_kernelvm.doctor.probes import version_numbers

System = Literal["apt", "dnf", "pacman", "nix", "brew"]
SYSTEMS: tuple[System, ...] = get_args(System)


@dataclass(frozen=True, kw_only=True, slots=True)
class Finding:
    """One thing that the machine must or may have, and what was found.

    name: a program, a header or a package. path: where it is, None if it is missing.
    version: None if it is missing or does not tell. minimum: the oldest that does, empty for any.
    reason: what it is needed for. cells: ids of the cells that need it.
    required: whether those cells are impossible without it.
    packages: what to install, by package system. notes: what to do where no package will do.
    """

    name: str
    path: Path | None
    version: str | None
    minimum: str
    reason: str
    cells: tuple[str, ...]
    required: bool
    packages: Mapping[System, tuple[str, ...]]
    notes: Mapping[System, str]

    @property
    def outdated(self) -> bool:
        """Whether it is here, but older than the minimum."""
        if self.path is None or self.version is None:
            return False
        return version_numbers(self.version) < version_numbers(self.minimum)

    @property
    def satisfied(self) -> bool:
        """Whether it is here and new enough."""
        return self.path is not None and not self.outdated
