"""The guests of one test, as its fixtures hand them out."""

from __future__ import annotations

import contextlib
import socket
from dataclasses import dataclass, field, replace
from typing import Protocol, Unpack

from pytest_kernelvm.failures.bundle_writer import BundleWriter
from pytest_kernelvm.plugin.splat_policy import SplatPolicy
from pytest_kernelvm.report.observer import Observer
from pytest_kernelvm.session.cell import Cell
from pytest_kernelvm.session.guest_options import GuestOptions
from pytest_kernelvm.session.guest_request import GuestRequest
from pytest_kernelvm.session.guests import Guests
from pytest_kernelvm.vm.agent.network import USER_ADDRESS, USER_GATEWAY
from pytest_kernelvm.vm.machine.vm import Vm


class BootVm(Protocol):
    """Gives a guest of the test's cell; it ends with the test."""

    def __call__(self, **options: Unpack[GuestOptions]) -> Vm:
        """Return the guest.

        Args:
            **options: What is asked of it, over what the test's marker `kernelvm` asks.

        Raises:
            KernelvmError: The guest did not get ready; the error says why.
            TypeError: One of the options has a wrong value.
        """


class LinkedVms(Protocol):
    """Gives two guests of the test's cell with a cable between them; they end with the test."""

    def __call__(self, one: str, other: str, **options: Unpack[GuestOptions]) -> tuple[Vm, Vm]:
        """Return the guests.

        Args:
            one: The name of the first guest, at 10.0.0.1.
            other: The name of the second guest, at 10.0.0.2.
            **options: What is asked of both, over what the test's marker `kernelvm` asks.

        Raises:
            KernelvmError: One of the guests did not get ready; the error says why.
            TypeError: The names are the same, or one of the options has a wrong value.
        """


@dataclass(kw_only=True, slots=True)
class GuestFactory:
    """The guests of one test.

    Attributes:
        test: The test's id.
        cell: What its guests are made of.
        request: What its marker asks of its guests.
        fresh: How guests get their state right after boot, unless the marker says otherwise.
        stack: Ends the guests when the test is over.
        guests: Where they come from.
        observer: Shows and records their consoles.
        bundle_writer: Writes what is left of the test if it fails.
        splat_policy: Says how the splats of their kernels count.
        vms: The test's guests so far, with those that did not get ready.
        failed: Whether the test has failed.
    """

    test: str
    cell: Cell
    request: GuestRequest
    fresh: str
    stack: contextlib.ExitStack
    guests: Guests
    observer: Observer
    bundle_writer: BundleWriter
    splat_policy: SplatPolicy
    vms: list[Vm] = field(default_factory=list)
    failed: bool = False

    def boot(self, **options: Unpack[GuestOptions]) -> Vm:
        """Return a guest that was booted; see BootVm for arguments and errors."""
        bootable = self.cell.bootable(self.request, **options)
        return self._add(self.guests.booted(bootable, self._launched))

    def new(self, **options: Unpack[GuestOptions]) -> Vm:
        """Return a guest, restored, booted or shared; see BootVm for arguments and errors."""
        request = self.request.with_options(**options)
        bootable = self.cell.bootable(request)
        match self._way(request):
            case "boot":
                return self._add(self.guests.booted(bootable, self._launched))
            # The second guest of a test is another one than the first.
            case "share" if not self.guests.is_shared_lent:
                vm = self.guests.shared(bootable, self._launched)
                self.stack.callback(lambda: self.guests.give_back(vm, usable=not self.failed))
                self.splat_policy.watch_over(vm)
                return vm
            case _:
                return self._add(self.guests.restored(bootable, self._launched))

    def _way(self, request: GuestRequest) -> str:
        fresh = request.fresh or self.fresh
        alone = request.network or not request.clean
        return "restore" if fresh == "share" and alone else fresh

    def linked(self, one: str, other: str, **options: Unpack[GuestOptions]) -> tuple[Vm, Vm]:
        """Return two guests with a cable between them; see LinkedVms for arguments and errors."""
        if one == other:
            raise TypeError(f"two guests have two names, not {one!r} twice")
        request = self.request.with_options(**options)
        if request.network:
            raise TypeError("the cards of linked guests are on the link, not on another network")
        bootable = self.cell.bootable(replace(request, network="link"))
        get = self.guests.booted if self._way(request) == "boot" else self.guests.restored
        vms = []
        with contextlib.ExitStack() as cable:
            ends = [cable.enter_context(end) for end in socket.socketpair()]
            for name, link in zip((one, other), ends, strict=True):
                named = replace(bootable, label=f"{bootable.label}-{name}")
                vms.append(self.stack.enter_context(get(named, self._launched, link=link)))
        for number, vm in enumerate(vms, start=1):
            self.splat_policy.watch_over(vm)
            vm.network.set_up(f"10.0.0.{number}/24")
        return vms[0], vms[1]

    def restore_ahead(self, request: GuestRequest) -> None:
        """Have the guest of the next test restored while this test runs.

        What the guest is made of may be missing or wrong; then a KernelvmError says so.

        Args:
            request: What the next test's marker asks.
        """
        if self._way(request) == "restore":
            self.guests.restore_ahead(self.cell.bootable(request))

    def _launched(self, vm: Vm) -> None:
        """Have all that watch the test's guests see one before it is ready."""
        self.vms.append(vm)
        self.splat_policy.launched.append(vm)
        self.observer.see(vm, self.test, self.stack)
        self.bundle_writer.prepare_for_failure(vm)

    def _add(self, guest: contextlib.AbstractContextManager[Vm]) -> Vm:
        """Return a guest that ends with the test."""
        vm = self.stack.enter_context(guest)
        if vm.boot.network:
            vm.network.set_up(USER_ADDRESS, gateway=USER_GATEWAY)
        self.splat_policy.watch_over(vm)
        return vm
