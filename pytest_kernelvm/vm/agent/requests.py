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

        Raises GuestPanic, GuestDied, GuestHang or GuestSplat, with evidence, if no reply comes or
        none that counts; CommandFailed if a program was killed.

        Args:
            batch: The calls and their data.
            timeout_s: Seconds of the guest's own time; None for the cell's timeout of a command.
            what: The request in words, for messages and the journal.
            program: Whether the batch runs a program, which is killed when its time is up.

        Returns:
            The result and the output of each call.
        """


def syscall_failed(abi: Abi, what: str, guest_number: int) -> NoReturn:
    """Raise the error of a system call.

    Args:
        abi: The numbers of the guest's kernel.
        what: The call in words.
        guest_number: Its errno, as the guest has it.

    Raises:
        SyscallFailed: Always, with the errno that means the same on the host.
    """
    number = abi.host_errno(guest_number)
    raise SyscallFailed(
        f"{what}: {os.strerror(number)}",
        Evidence(seen=errno.errorcode.get(number, str(number))),
        errno=number,
    )


def require_success(abi: Abi, reply: Reply, what: str, steps: int | None = None) -> Reply:
    """Return a reply in which no step failed.

    Raises SyscallFailed for the first of these steps that failed.

    Args:
        abi: The numbers of the guest's kernel.
        reply: What the agent answered.
        what: The request in words.
        steps: How many steps from the beginning must not fail; None for all.

    Returns:
        The reply.
    """
    for result in reply.results[:steps]:
        if result < 0 and result != NOT_MADE:
            syscall_failed(abi, what, -result)
    return reply


class Requests:
    """What can be asked of an agent.

    Args:
        agent: Carries the requests.
    """

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
        """Ask the agent for a sign of life.

        Raises GuestHang, GuestDied, GuestPanic or GuestSplat if there is none.

        Args:
            timeout_s: Seconds of the guest's own time; None for the cell's timeout of a command.
        """
        self._transact(Batch(), timeout_s, what="a sign of life")

    def syscall(self, name: str, *args: int | str | bytes) -> int:
        """Make one system call in the guest, as PID 1.

        Descriptors that it opens stay open.

        Raises SyscallFailed if the call failed, with its errno.

        Args:
            name: Of the call, as in `__NR_name` of the kernel's headers.
            *args: Numbers, or what is to be pointed at: bytes as they are, str zero-terminated.

        Returns:
            What the call returned, at least 0.
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
