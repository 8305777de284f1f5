"""System calls in the guest, one by one or in batches."""

from __future__ import annotations

import errno
import os
from typing import Literal, NoReturn, Protocol

from pytest_kernelvm.errors import Evidence, SyscallFailed
from pytest_kernelvm.guest.programs import Abi
from pytest_kernelvm.guest.protocol import NOT_MADE, Batch, Reply


class Agent(Protocol):
    """Carries requests to the agent of one guest, and says what became of the guest."""

    @property
    def label(self) -> str:
        """The guest's name in messages."""

    @property
    def abi(self) -> Abi:
        """The numbers of the headers of the kernel that runs."""

    @property
    def byteorder(self) -> Literal["big", "little"]:
        """The guest's byte order."""

    def transact(
        self,
        batch: Batch,
        timeout_s: float | None = None,
        what: str = "",
        *,
        program: bool = False,
    ) -> Reply:
        """Have the agent make a batch of system calls and return the reply.

        timeout_s: by default the cell's timeout of a command. what: the request in words.
        program: whether the batch runs a program, which is killed when its time is up.
        Raises GuestPanic, GuestDied, GuestHang or GuestSplat, with evidence, if no reply comes or
        none that counts; CommandFailed if a program was killed.
        """


def syscall_failed(abi: Abi, what: str, guest_number: int) -> NoReturn:
    """Raise SyscallFailed about a system call.

    what: the call in words. guest_number: its errno, as the guest has it.
    """
    number = abi.host_errno(guest_number)
    raise SyscallFailed(
        f"{what}: {os.strerror(number)}",
        Evidence(seen=errno.errorcode.get(number, str(number))),
        errno=number,
    )


def require_success(abi: Abi, reply: Reply, what: str, steps: int | None = None) -> Reply:
    """Return a reply; raise SyscallFailed about `what` for the first step in it that failed.

    steps: how many from the beginning must not fail, by default all.
    """
    for result in reply.results[:steps]:
        if result < 0 and result != NOT_MADE:
            syscall_failed(abi, what, -result)
    return reply


class Requests:
    """What can be asked of an agent."""

    def __init__(self, agent: Agent) -> None:
        self._agent = agent
        self._byteorder = agent.byteorder
        # Descriptors that earlier batches had to leave open in the guest.
        self._stale: list[int] = []

    @property
    def abi(self) -> Abi:
        """The numbers of the headers of the kernel that runs."""
        return self._agent.abi

    @property
    def label(self) -> str:
        """The guest's name in messages."""
        return self._agent.label

    def _transact(
        self,
        batch: Batch,
        timeout_s: float | None = None,
        what: str = "",
        *,
        program: bool = False,
    ) -> Reply:
        """Transact as the agent does, and close what earlier batches left open."""
        for descriptor in self._stale:
            batch.call("close", descriptor, always=True)
        self._stale.clear()
        return self._agent.transact(batch, timeout_s, what, program=program)

    def ping(self, timeout_s: float | None = None) -> None:
        """Ask the agent for a sign of life. Raises GuestHang, GuestDied or GuestPanic."""
        self._transact(Batch(), timeout_s, what="a sign of life")

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
        result = self._transact(batch, what=f"{name}({shown})").results[0]
        if result < 0:
            self._syscall_failed(f"{name}({shown})", -result)
        return result

    def _syscall_failed(self, what: str, guest_number: int) -> NoReturn:
        syscall_failed(self.abi, what, guest_number)

    def _succeed(self, batch: Batch, what: str, steps: int | None = None) -> Reply:
        """Transact; the first step that failed is an error about `what`; see require_success."""
        return require_success(self.abi, self._transact(batch, what=what), what, steps)
