"""Test Linux kernels the way Python is tested.

Names for annotations in tests: Cell, Closure, CommandResult, Initramfs, Kernel, Vm,
BootVm and LinkedVms. Root and Pseudofile are arguments of the fixtures; KernelvmWarning is for
`filterwarnings`.
They are imported when first used, as the plugin is loaded in every pytest run.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pytest_kernelvm.config.roots import Pseudofile, Root
    from pytest_kernelvm.errors import KernelvmWarning
    from pytest_kernelvm.guest.initramfs import Initramfs
    from pytest_kernelvm.kernel.build.build import Kernel
    from pytest_kernelvm.modules.closure import Closure
    from pytest_kernelvm.plugin.guest_factory import BootVm, LinkedVms
    from pytest_kernelvm.session.cell import Cell
    from pytest_kernelvm.vm.agent.results import CommandResult
    from pytest_kernelvm.vm.machine.vm import Vm

__version__ = "0.1.0"

__all__ = [
    "BootVm",
    "Cell",
    "Closure",
    "CommandResult",
    "Initramfs",
    "Kernel",
    "KernelvmWarning",
    "LinkedVms",
    "Pseudofile",
    "Root",
    "Vm",
]

_HOMES = {
    "BootVm": "plugin.guest_factory",
    "Cell": "session.cell",
    "Closure": "modules.closure",
    "CommandResult": "vm.agent.results",
    "Initramfs": "guest.initramfs",
    "Kernel": "kernel.build.build",
    "KernelvmWarning": "errors",
    "LinkedVms": "plugin.guest_factory",
    "Pseudofile": "config.roots",
    "Root": "config.roots",
    "Vm": "vm.machine.vm",
}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"{__name__}.{_HOMES[name]}"), name)
