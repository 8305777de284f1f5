"""QEMU's machine protocol, for tests that ask QEMU itself."""

from __future__ import annotations

from collections.abc import Callable, Coroutine
from typing import Any, TypeVar

from qemu.qmp import ConnectError, QMPError

from pytest_kernelvm.errors import Evidence, GuestDied, HarnessError
from pytest_kernelvm.vm.qemu.streams import Streams

QMP_TIMEOUT_S = 20.0

T = TypeVar("T")


class Qmp:
    """The QMP connection of one guest.

    Args:
        streams: The guest's.
        on_command: Called with each command that `execute` runs, and its arguments.
    """

    def __init__(
        self,
        streams: Streams,
        on_command: Callable[[str, dict[str, Any]], None] = lambda _command, _given: None,
    ) -> None:
        self._streams = streams
        self._on_command = on_command

    def execute(self, command: str, /, **arguments: Any) -> Any:
        """Run a QMP command and return what it returns.

        Raises HarnessError if QEMU refuses, GuestDied if it is gone.

        Args:
            command: Its name.
            **arguments: Its arguments, with `_` for `-` in their names.

        Returns:
            What it returns.
        """
        given = {name.replace("_", "-"): value for name, value in arguments.items()}
        self._on_command(command, given)
        return self.query(command, **given)

    def query(self, command: str, /, **given: Any) -> Any:
        """Run a QMP command as `execute` does, without noting that a test asked for it.

        Args:
            command: Its name.
            **given: Its arguments, under QEMU's names.

        Returns:
            What it returns.
        """
        return self.perform(self._execute(command, given), command)

    def monitor(self, line: str) -> str:
        """Return what a line of QEMU's monitor for people, such as `info registers`, prints.

        Args:
            line: As one types it at QEMU's monitor.
        """
        answer: str = self.query("human-monitor-command", **{"command-line": line})
        return answer.replace("\r\n", "\n")

    def perform(self, coroutine: Coroutine[Any, Any, T], command: str = "a command") -> T:
        """Run a coroutine that talks to QEMU and return what it returns.

        Args:
            coroutine: What is run.
            command: What it does, for the error.

        Returns:
            The coroutine's result.

        Raises:
            GuestDied: QEMU is gone, or did not answer within QMP_TIMEOUT_S.
            HarnessError: QEMU refuses.
        """
        try:
            return self._streams.call(coroutine, QMP_TIMEOUT_S)
        except (EOFError, OSError, TimeoutError, ConnectError) as error:
            raise GuestDied(
                f"QEMU did not answer {command}", Evidence(seen=f"{type(error).__name__} {error}")
            ) from None
        except QMPError as error:
            raise HarnessError(f"QEMU refused {command}", Evidence(seen=str(error))) from None

    async def _execute(self, command: str, arguments: dict[str, Any]) -> Any:
        client = await self._streams.qmp_client()
        return await client.execute(command, arguments or None)

    @property
    def events(self) -> tuple[dict[str, Any], ...]:
        """The events that came since the launch."""
        return tuple(self._streams.qmp_events)
