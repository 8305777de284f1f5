"""What a guest is made of."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from pytest_kernelvm.guest.programs import Abi
from pytest_kernelvm.process import quoted
from pytest_kernelvm.vm.agent.services import ServiceCatalogue
from pytest_kernelvm.vm.qemu.argv import ON_TERMINAL, Boot, qemu_argv
from pytest_kernelvm.vm.verdict.deadlines import Limits


@dataclass(frozen=True, kw_only=True, slots=True)
class Bootable:
    """All that it takes to have a guest.

    label: for messages. boot: what QEMU boots. abi: the numbers of the kernel's headers.
    by_hand: the command that boots the same guest interactively. services: its cell's.
    terminal: the program that gives others a terminal, None without.
    """

    label: str
    boot: Boot
    abi: Abi
    limits: Limits
    by_hand: str
    services: ServiceCatalogue
    terminal: Path | None = None

    @property
    def argv_by_hand(self) -> str:
        """The QEMU command that boots the same with its console on the terminal, for a shell."""
        return quoted(qemu_argv(self.boot, ON_TERMINAL))


class Bootables(Protocol):
    """What guests are made of: a cell."""

    def bootable(self, *, cmdline: str = "", cookie: bool = True) -> Bootable:
        """Return what one is made of."""
