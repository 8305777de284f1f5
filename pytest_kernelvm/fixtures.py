"""What the plugin's fixtures do, imported when the first test asks for a guest."""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, fields
from typing import Any, Protocol, TypedDict, Unpack

from pytest_kernelvm.config import USERLANDS
from pytest_kernelvm.modules.closure import Closure
from pytest_kernelvm.vm.cell import Cell
from pytest_kernelvm.vm.guests import Guests
from pytest_kernelvm.vm.vm import Bootable, Vm

# How `vm` comes to its state right after boot: from a snapshot, by booting, or by being left in
# that state by the test before.
FRESH = ("restore", "boot", "share")


@dataclass(frozen=True, kw_only=True, slots=True)
class Asked:
    """What a test asks of its guest.

    modules: wanted ones, None for the vm-config's. closure: instead of them.
    userland: None for the vm-config's. external: modules beside the kernel's own, C by name.
    options: module parameters by module.
    blacklist: modules. files: contents by path. cmdline: further words. cookie: whether the kernel
    heeds them. shared_console: whether the agent talks on the console, as where there is no second
    port. boot_timeout_s: None for the vm-config's. fresh: `restore`, `boot` or `share`, None for
    the run's. clean: whether the test leaves its guest as it found it, so that it may be shared.
    """

    modules: tuple[str, ...] | None = None
    closure: Closure | None = None
    userland: str | None = None
    external: Mapping[str, str] | None = None
    options: Mapping[str, str] = field(default_factory=dict)
    blacklist: tuple[str, ...] = ()
    files: Mapping[str, bytes] = field(default_factory=dict)
    cmdline: str = ""
    cookie: bool = True
    shared_console: bool = False
    boot_timeout_s: float | None = None
    fresh: str | None = None
    clean: bool = False


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
    if asked.fresh not in (None, *FRESH):
        raise TypeError(f"fresh is one of {', '.join(FRESH)}, not {asked.fresh!r}")
    if asked.userland not in (None, *USERLANDS):
        raise TypeError(f"userland is one of {', '.join(USERLANDS)}, not {asked.userland!r}")
    for names in (asked.modules or (), asked.blacklist, asked.external or ()):
        if not all(isinstance(name, str) for name in names):
            raise TypeError(f"not names of modules: {names!r}")
    return asked


def cell_of(cell: Cell, asked: Asked) -> Cell:
    """Return the cell as a test asks for it."""
    return cell.variant(userland=asked.userland, external=asked.external)


class Wishes(TypedDict, total=False):
    """Arguments of `boot_vm` and `new_vm`: the marker's, and a closure instead of modules."""

    modules: Iterable[str] | None
    closure: Closure | None
    userland: str | None
    external: Mapping[str, str] | None
    options: Mapping[str, str]
    blacklist: Iterable[str]
    files: Mapping[str, bytes]
    cmdline: str
    cookie: bool
    shared_console: bool
    boot_timeout_s: float | None


class BootVm(Protocol):
    """Gives a guest of the test's cell; it ends with the test."""

    def __call__(self, **wishes: Unpack[Wishes]) -> Vm:
        """Return the guest. Raises the error that says why it did not get ready."""


def bootable(cell: Cell, asked: Asked) -> Bootable:
    """Return what a guest is made of that is as asked for."""
    return cell_of(cell, asked).bootable(
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


@dataclass(kw_only=True, slots=True)
class GuestFactory:
    """The guests of one test.

    asked: by its marker. fresh: how the run wants guests, unless that says otherwise.
    made: the test's guests so far. failed: whether the test has.
    """

    cell: Cell
    asked: Asked
    fresh: str
    stack: contextlib.ExitStack
    guests: Guests
    made: list[Vm] = field(default_factory=list)
    failed: bool = False

    def boot(self, **wishes: Unpack[Wishes]) -> Vm:
        """Boot a guest with the marker's wishes and these over them."""
        return self._added(self.guests.booted(bootable(self.cell, self._wished(**wishes))))

    def new(self, **wishes: Unpack[Wishes]) -> Vm:
        """Return a guest with the marker's wishes and these over them, restored or booted."""
        asked = self._wished(**wishes)
        match self._way(asked):
            case "boot":
                return self.boot(**wishes)
            case "share":
                vm = self.guests.shared(bootable(self.cell, asked))
                self.stack.callback(lambda: self.guests.give_back(vm, usable=not self.failed))
                self.made.append(vm)
                return vm
            case _:
                return self._added(self.guests.restored(bootable(self.cell, asked)))

    def _way(self, asked: Asked) -> str:
        fresh = asked.fresh or self.fresh
        return "restore" if fresh == "share" and not asked.clean else fresh

    def prepare(self, asked: Asked) -> None:
        """Have the guest of the next test restored in the meantime."""
        if self._way(asked) == "restore":
            self.guests.prepare(bootable(self.cell, asked))

    def _wished(self, **wishes: Unpack[Wishes]) -> Asked:
        marked = {each.name: getattr(self.asked, each.name) for each in fields(Asked)}
        return asked_by(**(marked | wishes))

    def _added(self, vm: Vm) -> Vm:
        self.stack.push(vm)
        self.made.append(vm)
        return vm
