"""QEMU's machine protocol, for tests that ask QEMU itself."""

from __future__ import annotations

from collections.abc import Coroutine
from typing import Any, TypeVar

from qemu.qmp import ConnectError, QMPError

from pytest_kernelvm.errors import Evidence, GuestDied, HarnessError
from pytest_kernelvm.vm.streams import Streams

QMP_TIMEOUT_S = 20.0

T = TypeVar("T")


class Qmp:
    """The QMP connection of one guest."""

    def __init__(self, streams: Streams) -> None:
        self._streams = streams

    def execute(self, command: str, **arguments: Any) -> Any:
        """Run a QMP command and return what it returns.

        arguments: with `_` for `-`. Raises HarnessError if QEMU refuses, GuestDied if it is gone.
        """
        given = {name.replace("_", "-"): value for name, value in arguments.items()}
        return self.perform(self._execute(command, given), command)

    def perform(self, coroutine: Coroutine[Any, Any, T], command: str = "a command") -> T:
        """Run a coroutine that speaks with QEMU and return what it returns; raises as `execute`."""
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
