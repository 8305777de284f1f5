"""What the plugin's fixtures do, imported when the first test asks for a guest."""

from __future__ import annotations

import contextlib
import math
import socket
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field, fields, replace
from typing import Any, Protocol, TypedDict, Unpack

from pytest_kernelvm.config.model import USERLANDS
from pytest_kernelvm.config.roots import Root
from pytest_kernelvm.failures.bundle_writer import BundleWriter
from pytest_kernelvm.modules.closure import Closure
from pytest_kernelvm.plugin.marks import FRESH
from pytest_kernelvm.plugin.splat_policy import SplatPolicy
from pytest_kernelvm.report.observer import Observer
from pytest_kernelvm.session.cell import Cell
from pytest_kernelvm.session.guests import Guests
from pytest_kernelvm.vm.agent.network import USER_ADDRESS, USER_GATEWAY
from pytest_kernelvm.vm.machine.vm import Bootable, Vm

# What a test may ask to have its guest's card on; a link is asked for by asking for two guests.
CARDS = ("user", "outside")


@dataclass(frozen=True, kw_only=True, slots=True)
class GuestRequest:
    """What a test asks of its guest.

    modules: wanted ones, None for the vm-config's. closure: instead of them.
    userland: None for the vm-config's. external: modules beside the kernel's own, C by name.
    root: what file system it boots into, None for the vm-config's.
    options: module parameters by module.
    blacklist: modules. files: contents by path. cmdline: further words. cookie: whether the kernel
    heeds them. shared_console: whether the agent talks on the console, as where there is no second
    port. network: `user` or `outside` for a card on QEMU's own network, empty for none.
    boot_timeout_s: None for the vm-config's. fresh: `restore`, `boot` or `share`, None for the
    run's. clean: whether the test leaves its guest as it found it, so that it may be shared.
    """

    modules: tuple[str, ...] | None = None
    closure: Closure | None = None
    userland: str | None = None
    external: Mapping[str, str] | None = None
    root: Root | None = None
    options: Mapping[str, str] = field(default_factory=dict)
    blacklist: tuple[str, ...] = ()
    files: Mapping[str, bytes] = field(default_factory=dict)
    cmdline: str = ""
    cookie: bool = True
    shared_console: bool = False
    network: str = ""
    boot_timeout_s: float | None = None
    fresh: str | None = None
    clean: bool = False


def asked_by(**given: Any) -> GuestRequest:
    """Return what a marker's or a call's arguments ask for.

    Raises TypeError for what they cannot be.
    """
    asked = GuestRequest(**_with_tuples(given))
    _check_kinds(asked)
    for name, none, words in (
        ("fresh", None, FRESH),
        ("network", "", CARDS),
        ("userland", None, USERLANDS),
    ):
        value = getattr(asked, name)
        if value not in (none, *words):
            raise TypeError(f"{name} is one of {', '.join(words)}, not {value!r}")
    for names in (asked.modules or (), asked.blacklist, asked.external or ()):
        if not all(isinstance(name, str) for name in names):
            raise TypeError(f"not names of modules: {names!r}")
    return asked


def _with_tuples(given: Mapping[str, Any]) -> dict[str, Any]:
    """Return arguments with lists as tuples; None is what is left out, where that has no sense."""
    unknown = given.keys() - {each.name for each in fields(GuestRequest)}
    if unknown:
        raise TypeError(f"unexpected keyword argument {min(unknown)!r}")
    out = dict(given)
    for name, value in given.items():
        if isinstance(value, Iterator):
            raise TypeError(f"{name} is read more than once: give a list, not {value!r}")
        if name in ("options", "files") and value is None:
            del out[name]
        elif name in ("modules", "blacklist") and value is not None:
            if isinstance(value, str | bytes):
                raise TypeError(f"{name} is a list of names, not the text {value!r}")
            out[name] = tuple(value)
    return out


def _check_kinds(asked: GuestRequest) -> None:
    """Raise TypeError for a value of a wrong type, which a guest would be wrongly booted with."""
    for name, kind, words in _KINDS:
        value = getattr(asked, name)
        if not isinstance(value, kind):
            raise TypeError(f"{name} is {words}, not {value!r}")
    for name, kind, words in (
        ("external", str, "C by the name of the module"),
        ("options", str, "parameters by the name of the module, as in {'loop': 'max_loop=3'}"),
        ("files", bytes, "bytes by path"),
    ):
        for key, value in (getattr(asked, name) or {}).items():
            if not (isinstance(key, str) and isinstance(value, kind)):
                raise TypeError(f"{name} is {words}; not {key!r}: {value!r}")
    timeout_s = asked.boot_timeout_s
    # Whoever writes True means something else than one second.
    if timeout_s is not None and (isinstance(timeout_s, bool) or not 0 < timeout_s < math.inf):
        raise TypeError(f"boot_timeout_s is a number of seconds above 0, not {timeout_s!r}")


_KINDS: tuple[tuple[str, Any, str], ...] = (
    ("blacklist", tuple, "a list of names"),
    ("closure", Closure | None, "a Closure"),
    ("userland", str | None, "a text"),
    ("external", Mapping | None, "C by the name of the module"),
    ("root", Root | None, "a Root"),
    ("options", Mapping, "parameters by the name of the module"),
    ("files", Mapping, "bytes by path"),
    ("cmdline", str, "a text"),
    ("cookie", bool, "True or False"),
    ("shared_console", bool, "True or False"),
    ("network", str, "a text"),
    ("boot_timeout_s", int | float | None, "a number of seconds"),
    ("fresh", str | None, "a text"),
    ("clean", bool, "True or False"),
)


def cell_of(cell: Cell, asked: GuestRequest) -> Cell:
    """Return the cell as a test asks for it."""
    return cell.variant(userland=asked.userland, external=asked.external, root=asked.root)


class GuestOptions(TypedDict, total=False):
    """Arguments of `boot_vm` and `new_vm`: the marker's, and a closure instead of modules."""

    modules: Iterable[str] | None
    closure: Closure | None
    userland: str | None
    external: Mapping[str, str] | None
    root: Root | None
    options: Mapping[str, str]
    blacklist: Iterable[str]
    files: Mapping[str, bytes]
    cmdline: str
    cookie: bool
    shared_console: bool
    network: str
    boot_timeout_s: float | None


class BootVm(Protocol):
    """Gives a guest of the test's cell; it ends with the test."""

    def __call__(self, **options_over: Unpack[GuestOptions]) -> Vm:
        """Return the guest. Raises the error that says why it did not get ready."""


class LinkedVms(Protocol):
    """Gives two guests of the test's cell with a cable between them; they end with the test."""

    def __call__(self, one: str, other: str, **options_over: Unpack[GuestOptions]) -> tuple[Vm, Vm]:
        """Return the guests of these names. Raises the error that says why one is not ready."""


def bootable(cell: Cell, asked: GuestRequest) -> Bootable:
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
        network=asked.network,
        boot_timeout_s=asked.boot_timeout_s,
    )


@dataclass(kw_only=True, slots=True)
class GuestFactory:
    """The guests of one test.

    test: its id. asked: by its marker. fresh: how the run wants guests, unless that says otherwise.
    witness: sees the guests. leaving: what the test leaves if it fails. tolerance: how their
    splats count.
    made: the test's guests so far, those that did not get ready included. failed: whether the test
    has.
    """

    test: str
    cell: Cell
    asked: GuestRequest
    fresh: str
    stack: contextlib.ExitStack
    guests: Guests
    witness: Observer
    bundle_writer: BundleWriter
    splat_policy: SplatPolicy
    made: list[Vm] = field(default_factory=list)
    failed: bool = False

    def boot(self, **options_over: Unpack[GuestOptions]) -> Vm:
        """Boot a guest with the marker's wishes and these over them."""
        made_of = bootable(self.cell, self._options_with_marker(**options_over))
        return self._added(self.guests.booted(made_of, self._launched))

    def new(self, **options_over: Unpack[GuestOptions]) -> Vm:
        """Return a guest with the marker's wishes and these over them, restored or booted."""
        asked = self._options_with_marker(**options_over)
        match self._way(asked):
            case "boot":
                return self.boot(**options_over)
            case "share":
                vm = self.guests.shared(bootable(self.cell, asked), self._launched)
                self.stack.callback(lambda: self.guests.give_back(vm, usable=not self.failed))
                self.splat_policy.watch_over(vm)
                return vm
            case _:
                made_of = bootable(self.cell, asked)
                return self._added(self.guests.restored(made_of, self._launched))

    def _way(self, asked: GuestRequest) -> str:
        fresh = asked.fresh or self.fresh
        alone = asked.network or not asked.clean
        return "restore" if fresh == "share" and alone else fresh

    def linked(self, one: str, other: str, **options_over: Unpack[GuestOptions]) -> tuple[Vm, Vm]:
        """Return two guests with a cable between them, at 10.0.0.1 and 10.0.0.2."""
        if one == other:
            raise TypeError(f"two guests have two names, not {one!r} twice")
        asked = self._options_with_marker(**options_over)
        if asked.network:
            raise TypeError("the cards of linked guests are on the link, not on another network")
        made_of = bootable(self.cell, replace(asked, network="link"))
        get = self.guests.booted if self._way(asked) == "boot" else self.guests.restored
        vms = []
        with contextlib.ExitStack() as cable:
            ends = [cable.enter_context(end) for end in socket.socketpair()]
            for name, link in zip((one, other), ends, strict=True):
                named = replace(made_of, label=f"{made_of.label}-{name}")
                vms.append(self.stack.enter_context(get(named, self._launched, link=link)))
        for number, vm in enumerate(vms, start=1):
            self.splat_policy.watch_over(vm)
            vm.network.set_up(f"10.0.0.{number}/24")
        return vms[0], vms[1]

    def prepare(self, asked: GuestRequest) -> None:
        """Have the guest of the next test restored in the meantime."""
        if self._way(asked) == "restore":
            self.guests.prepare(bootable(self.cell, asked))

    def _options_with_marker(self, **options_over: Unpack[GuestOptions]) -> GuestRequest:
        marked = {each.name: getattr(self.asked, each.name) for each in fields(GuestRequest)}
        return asked_by(**(marked | options_over))

    def _launched(self, vm: Vm) -> None:
        """Have all that watch the test's guests see one before it is ready."""
        self.made.append(vm)
        self.splat_policy.launched.append(vm)
        self.witness.see(vm, self.test, self.stack)
        self.bundle_writer.prepare_for_failure(vm)

    def _added(self, vm: Vm) -> Vm:
        self.stack.push(vm)
        if vm.boot.network:
            vm.network.set_up(USER_ADDRESS, gateway=USER_GATEWAY)
        self.splat_policy.watch_over(vm)
        return vm
