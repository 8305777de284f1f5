"""System calls in the guest, one by one or in batches."""

from __future__ import annotations

import abc
import errno
import os
from typing import Literal, NoReturn

from pytest_kernelvm.errors import Evidence, SyscallFailed
from pytest_kernelvm.guest.programs import Abi
from pytest_kernelvm.guest.protocol import NOT_MADE, Batch, Reply


class Requests(abc.ABC):
    """What can be asked of an agent.

    abi: the numbers of the kernel's headers. byteorder: the guest's.
    """

    def __init__(self, abi: Abi, byteorder: Literal["big", "little"]) -> None:
        self.abi = abi
        self._byteorder = byteorder
        self._stale: list[int] = []

    @abc.abstractmethod
    def transact(self, batch: Batch, timeout_s: float | None = None, what: str = "") -> Reply:
        """Have the agent make a batch of system calls and return the reply.

        timeout_s: by default the cell's timeout of a command. what: the request in words.
        Raises GuestPanic, GuestDied or GuestHang, with evidence, if no reply comes.
        """

    def _close_stale(self, batch: Batch) -> None:
        """Close with this batch what earlier ones had to leave open."""
        for descriptor in self._stale:
            batch.call("close", descriptor, always=True)
        self._stale.clear()

    def ping(self, timeout_s: float | None = None) -> None:
        """Ask the agent for a sign of life. Raises GuestHang, GuestDied or GuestPanic."""
        self.transact(Batch(), timeout_s, what="a sign of life")

    def syscall(self, name: str, *args: int | str | bytes) -> int:
        """Make one system call in the guest, as PID 1, and return its result.

        args: numbers, or what is to be pointed at: bytes as they are, str zero-terminated.
        Descriptors that it opens stay open. Raises SyscallFailed with the guest's errno.
        """
        batch = Batch()
        placed = [
            arg
            if isinstance(arg, int)
            else (batch.text(arg) if isinstance(arg, str) else batch.data(arg))
            for arg in args
        ]
        batch.call(name, *placed)
        shown = ", ".join(repr(arg) for arg in args)
        result = self.transact(batch, what=f"{name}({shown})").results[0]
        if result < 0:
            self._syscall_failed(f"{name}({shown})", -result)
        return result

    def _syscall_failed(self, what: str, guest_number: int) -> NoReturn:
        number = self.abi.host_errno(guest_number)
        raise SyscallFailed(
            f"{what}: {os.strerror(number)}",
            Evidence(seen=errno.errorcode.get(number, str(number))),
            errno=number,
        )

    def _succeed(self, batch: Batch, what: str, steps: int | None = None) -> Reply:
        """Transact; the first step that failed is an error about `what`.

        steps: how many from the beginning must not fail, by default all.
        """
        reply = self.transact(batch, what=what)
        for result in reply.results[:steps]:
            if result < 0 and result != NOT_MADE:
                self._syscall_failed(what, -result)
        return reply
