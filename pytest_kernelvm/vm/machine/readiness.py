"""The wait for a guest's agent to answer for the first time, after a boot or a restore."""

from __future__ import annotations

import os
import time
from collections.abc import Callable

from pytest_kernelvm.errors import KernelvmError
from pytest_kernelvm.guest.protocol import Batch
from pytest_kernelvm.process import tail
from pytest_kernelvm.vm.agent.channel import Channel, NoReply
from pytest_kernelvm.vm.machine.bootable import Bootable
from pytest_kernelvm.vm.qemu.launch import Launch
from pytest_kernelvm.vm.qemu.migration import add_refresh, load_state
from pytest_kernelvm.vm.qemu.snapshot import Snapshot, SnapshotUnusable
from pytest_kernelvm.vm.verdict.verdict_collector import VerdictCollector


class Readiness:
    """Waits until one guest is ready.

    Args:
        bootable: What the guest is made of.
        launch: Its QEMU.
        channel: Its agent's.
        collector: Says why it does not get ready.
        snapshot: What it is restored from; None if it boots.
        started: When QEMU was launched, on the monotonic clock.

    Attributes:
        is_ready: Whether its agent answered once.
        ready_s: Seconds from the launch until then; 0 before.
        on_failure: Called, before QEMU is ended, if the guest does not get ready.
    """

    def __init__(
        self,
        bootable: Bootable,
        launch: Launch,
        channel: Channel,
        collector: VerdictCollector,
        snapshot: Snapshot | None,
        *,
        started: float,
    ) -> None:
        self._started = started
        self._bootable = bootable
        self._launch = launch
        self._channel = channel
        self._collector = collector
        self._snapshot = snapshot
        self._refreshing = Batch()
        self.is_ready = False
        self.ready_s = 0.0
        self.on_failure: Callable[[], None] = lambda: None

    def begin_restore(self) -> None:
        """Have QEMU load the snapshot's state, and the guest refreshed as soon as it runs."""
        snapshot, descriptor = self._snapshot, self._launch.state_descriptor
        assert snapshot is not None
        assert descriptor is not None
        abi, byteorder = self._bootable.abi, self._bootable.boot.arch.endianness

        def first_frame() -> bytes:
            add_refresh(self._refreshing, abi, byteorder, snapshot.clock_offset_s)
            return self._channel.first_frame(self._refreshing)

        streams = self._launch.streams
        streams.begin(load_state(streams, descriptor, first_frame))

    def wait(self) -> None:
        """Wait for the agent's first answer; return at once if that came already.

        Raises SnapshotUnusable, where the guest is restored, if that is the snapshot's fault.

        Raises:
            KernelvmError: The error that says why the answer does not come.
        """
        if self.is_ready:
            return
        try:
            if self._snapshot:
                self._await_restored()
            else:
                self._await_booted()
        except KernelvmError:
            self.on_failure()
            raise
        self.note_ready()

    def note_ready(self) -> None:
        """Note that the guest can be used from now on."""
        self.is_ready = self._collector.ready = True
        self.ready_s = time.monotonic() - self._started

    def _await_booted(self) -> None:
        deadline = self._collector.boot_deadline(self._bootable.limits)
        try:
            self._channel.wait_ready(deadline)
        except NoReply:
            raise self._collector.verdict(deadline, "the agent to answer") from None

    def _await_restored(self) -> None:
        deadline = self._collector.boot_deadline(self._bootable.limits)
        try:
            reply = self._channel.collect(self._refreshing, deadline)
        except NoReply:
            troubles = "; ".join(self._launch.streams.troubles)
            said = tail(self._launch.qemu_log) or troubles or "the restored guest is silent"
            raise SnapshotUnusable(said) from None
        for step, result in zip(self._refreshing.steps, reply.results, strict=True):
            if result < 0:
                number = self._bootable.abi.host_errno(-result)
                raise SnapshotUnusable(f"{step.call} failed: {os.strerror(number)}")
