"""What a guest is made of."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from pytest_kernelvm.guest.programs import Abi
from pytest_kernelvm.process import quoted
from pytest_kernelvm.vm.agent.services import ServiceCatalogue
from pytest_kernelvm.vm.qemu.argv import ON_TERMINAL, Boot, qemu_argv
from pytest_kernelvm.vm.verdict.deadlines import TimeLimits


@dataclass(frozen=True, kw_only=True, slots=True)
class Bootable:
    """All that it takes to have a guest.

    Attributes:
        label: The guest's name in messages.
        boot: What QEMU boots.
        abi: The numbers of the kernel's headers.
        limits: How long the guest may take.
        boot_command: The command that boots the same guest interactively.
        services: Those of its cell.
        terminal: The program that gives others a terminal; None without.
    """

    label: str
    boot: Boot
    abi: Abi
    limits: TimeLimits
    boot_command: str
    services: ServiceCatalogue
    terminal: Path | None = None

    @property
    def quoted_argv(self) -> str:
        """The QEMU command that boots the same with its console on the terminal, for a shell."""
        return quoted(qemu_argv(self.boot, ON_TERMINAL))


class Bootables(Protocol):
    """What guests are made of: a cell."""

    def bootable(self, *, cmdline: str = "", cookie: bool = True) -> Bootable:
        """Return what a guest is made of.

        Args:
            cmdline: Words that are added to the command line.
            cookie: Whether the kernel obeys that line.

        Returns:
            What it is made of.
        """
