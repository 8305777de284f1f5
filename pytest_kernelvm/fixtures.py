"""What the plugin's fixtures do, imported when the first test asks for a guest."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any, Protocol, TypedDict, Unpack

from pytest_kernelvm.modules.closure import Closure
from pytest_kernelvm.vm.cell import Cell
from pytest_kernelvm.vm.vm import Vm


@dataclass(frozen=True, kw_only=True, slots=True)
class Asked:
    """What a test asks of its guest.

    modules: wanted ones, None for the vm-config's. closure: instead of them.
    options: module parameters by module.
    blacklist: modules. files: contents by path. cmdline: further words. cookie: whether the kernel
    heeds them. shared_console: whether the agent talks on the console, as where there is no second
    port. boot_timeout_s: None for the vm-config's.
    """

    modules: tuple[str, ...] | None = None
    closure: Closure | None = None
    options: Mapping[str, str] = field(default_factory=dict)
    blacklist: tuple[str, ...] = ()
    files: Mapping[str, bytes] = field(default_factory=dict)
    cmdline: str = ""
    cookie: bool = True
    shared_console: bool = False
    boot_timeout_s: float | None = None


def asked_by(**given: Any) -> Asked:
    """Return what a marker's or a call's arguments ask for.

    Raises TypeError for what they cannot be.
    """
    for name in ("modules", "blacklist"):
        value = given.get(name)
        if isinstance(value, str):
            raise TypeError(f"{name} is a list of names, not the text {value!r}")
        if value is not None:
            given[name] = tuple(value)
    asked = Asked(**given)
    for names in (asked.modules or (), asked.blacklist):
        if not all(isinstance(name, str) for name in names):
            raise TypeError(f"not names of modules: {names!r}")
    return asked


class Wishes(TypedDict, total=False):
    """The arguments of `boot_vm`: those of the marker, and a closure instead of modules."""

    modules: Iterable[str] | None
    closure: Closure | None
    options: Mapping[str, str]
    blacklist: Iterable[str]
    files: Mapping[str, bytes]
    cmdline: str
    cookie: bool
    shared_console: bool
    boot_timeout_s: float | None


class BootVm(Protocol):
    """Boots a guest of the test's cell; it ends with the test."""

    def __call__(self, **wishes: Unpack[Wishes]) -> Vm:
        """Return the guest. Raises the error that says why it did not get ready."""


@dataclass(kw_only=True, slots=True)
class GuestFactory:
    """The `boot_vm` of one test. guests: those that it booted."""

    cell: Cell
    asked: Asked
    stack: contextlib.ExitStack
    new_directory: Callable[[], Path]
    guests: list[Vm] = field(default_factory=list)

    def __call__(self, **wishes: Unpack[Wishes]) -> Vm:
        """Boot a guest with the marker's wishes and these over them."""
        marked = {each.name: getattr(self.asked, each.name) for each in fields(Asked)}
        asked = asked_by(**(marked | wishes))
        guest = self.cell.vm(
            self.new_directory(),
            modules=asked.modules,
            closure=asked.closure,
            options=asked.options,
            blacklist=asked.blacklist,
            files=asked.files,
            cmdline=asked.cmdline,
            cookie=asked.cookie,
            shared_console=asked.shared_console,
            boot_timeout_s=asked.boot_timeout_s,
        )
        self.stack.enter_context(guest)
        self.guests.append(guest)
        return guest
