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

    Attributes:
        name: A program, a header or a package.
        path: Where it is; None if it is missing.
        version: Its version; None if it is missing or prints none.
        minimum: The oldest version that is new enough; empty if every version is.
        reason: What it is needed for.
        cells: The ids of the cells that need it.
        required: Whether those cells cannot be built or booted without it.
        packages: The packages to install, by package system.
        notes: What to do instead, by package system, where no package solves it.
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
