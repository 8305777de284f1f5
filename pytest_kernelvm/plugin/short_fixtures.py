"""The fixtures' short names: a plugin that `kernelvm_short_fixtures = false` switches off.

Any other fixture with such a name, of a project or of another plugin, takes precedence.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from pytest_kernelvm import BootVm, Cell, Closure, Initramfs, Kernel, LinkedVms, Vm

NAMES = (
    *("cell", "kernel", "closure", "initramfs", "vm"),
    *("new_vm", "boot_vm", "vms", "build_module"),
)


@pytest.fixture(scope="session")
def cell(kernelvm_cell: Cell) -> Cell:
    """Short for kernelvm_cell: the cell under test, one kernel on one machine."""
    return kernelvm_cell


@pytest.fixture
def kernel(kernelvm_kernel: Kernel) -> Kernel:
    """Short for kernelvm_kernel: the kernel under test, built if need be."""
    return kernelvm_kernel


@pytest.fixture
def closure(kernelvm_closure: Closure) -> Closure:
    """Short for kernelvm_closure: the closure of the modules that the test wants."""
    return kernelvm_closure


@pytest.fixture
def initramfs(kernelvm_initramfs: Initramfs) -> Initramfs:
    """Short for kernelvm_initramfs: the initramfs that `vm` boots with."""
    return kernelvm_initramfs


@pytest.fixture
def vm(kernelvm_vm: Vm) -> Vm:
    """Short for kernelvm_vm: a guest in its state right after boot."""
    return kernelvm_vm


@pytest.fixture
def new_vm(kernelvm_new_vm: BootVm) -> BootVm:
    """Short for kernelvm_new_vm: a function that gives a guest as `vm` is."""
    return kernelvm_new_vm


@pytest.fixture
def boot_vm(kernelvm_boot_vm: BootVm) -> BootVm:
    """Short for kernelvm_boot_vm: a function that boots a guest."""
    return kernelvm_boot_vm


@pytest.fixture
def vms(kernelvm_vms: LinkedVms) -> LinkedVms:
    """Short for kernelvm_vms: a function that gives two guests with a cable between them."""
    return kernelvm_vms


@pytest.fixture
def build_module(
    kernelvm_build_module: Callable[[str | Path], tuple[Path, ...]],
) -> Callable[[str | Path], tuple[Path, ...]]:
    """Short for kernelvm_build_module: a function that builds a directory's modules."""
    return kernelvm_build_module


def go_behind_others(session: pytest.Session) -> None:
    """Have fixtures of other plugins with the same names take precedence.

    pytest prefers the plugin that was registered last; other plugins may have been registered
    before.

    Args:
        session: pytest's session, after all plugins are registered.
    """
    manager = session._fixturemanager
    for name in NAMES:
        for definitions, lowest_first in _lists(manager, name, session):
            definitions.sort(
                key=lambda each: (each.func.__module__ == __name__) is not lowest_first
            )


def _lists(manager: Any, name: str, session: pytest.Session) -> list[tuple[list[Any], bool]]:
    """Return pytest's lists of the plugins' fixtures of a name, and whether its choice is last.

    Source: _pytest/fixtures.py, FixtureManager; pytest 9.1 has changed the first to the second.
    """
    old = getattr(manager, "_arg2fixturedefs", {}).get(name)
    new = getattr(manager, "_arg2node2fixturedefs", {}).get(name, {}).get(session)
    return [(found, first) for found, first in ((old, True), (new, False)) if found]
