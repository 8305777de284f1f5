"""A thread with an event loop of its own."""

from __future__ import annotations

import asyncio
import contextlib
import threading
from collections.abc import Callable, Coroutine
from typing import Any, TypeVar

from pytest_kernelvm.errors import LaunchFailed

T = TypeVar("T")

# Nothing that the thread does takes longer, but the machine may be too busy to run it.
_ROUND_S = 5.0
_END_S = 5.0


class LoopThread:
    """A thread that runs an event loop, and the tasks in it.

    Args:
        name: The thread's name.

    Attributes:
        loop: The loop; only its own thread may change its readers and writers.
    """

    def __init__(self, name: str) -> None:
        self.loop = asyncio.new_event_loop()
        self._name = name
        self._tasks: list[asyncio.Future[Any]] = []
        self._thread: threading.Thread | None = None

    def start(self, begin: Callable[[], None]) -> None:
        """Start the thread.

        Args:
            begin: Called in the thread before its loop runs.
        """

        def run() -> None:
            asyncio.set_event_loop(self.loop)
            begin()
            self.loop.run_forever()

        self._thread = threading.Thread(target=run, name=self._name, daemon=True)
        self._thread.start()

    @property
    def is_alive(self) -> bool:
        """Whether the thread runs."""
        return self._thread is not None and self._thread.is_alive()

    def wait_for_rounds(self) -> None:
        """Return when the loop has handled all descriptors that are readable by now."""
        if not self.is_alive:
            return
        # The first call may run in a round of the loop before that round's readers.
        for _round in range(2):
            done = threading.Event()
            self.loop.call_soon_threadsafe(done.set)
            done.wait(_ROUND_S)

    def call(self, coroutine: Coroutine[Any, Any, T], timeout_s: float) -> T:
        """Run a coroutine in the loop from another thread and return its result.

        Raises what the coroutine raises.

        Args:
            coroutine: What is run.
            timeout_s: Seconds until TimeoutError.

        Returns:
            The coroutine's result.
        """
        return asyncio.run_coroutine_threadsafe(coroutine, self.loop).result(timeout_s)

    def begin(
        self, coroutine: Coroutine[Any, Any, None], on_error: Callable[[BaseException], None]
    ) -> None:
        """Start a coroutine in the loop from another thread.

        Args:
            coroutine: What is run; it is cancelled at the latest by `close`.
            on_error: Called in the loop's thread with what it raises.
        """

        def note(done: asyncio.Future[Any]) -> None:
            error = None if done.cancelled() else done.exception()
            if error:
                on_error(error)

        self.loop.call_soon_threadsafe(lambda: self.create_task(coroutine).add_done_callback(note))

    def create_task(self, coroutine: Coroutine[Any, Any, T]) -> asyncio.Task[T]:
        """Start a coroutine in the loop, in its thread.

        Its exception may stay unread; asyncio does not report that.

        Args:
            coroutine: What is run; it is cancelled at the latest by `close`.

        Returns:
            Its task.
        """
        task = self.loop.create_task(coroutine)
        self._tasks.append(task)
        task.add_done_callback(lambda done: None if done.cancelled() else done.exception())
        return task

    def close(self, last: Callable[[], Coroutine[Any, Any, None]]) -> None:
        """Cancel the tasks, run a last coroutine, and end the thread.

        Args:
            last: Makes the last coroutine.

        Raises:
            LaunchFailed: The thread does not end.
        """
        if self._thread and self._thread.is_alive():
            with contextlib.suppress(Exception):
                self.call(self._finish(last), _END_S)
            self.loop.call_soon_threadsafe(self.loop.stop)
            self._thread.join(_END_S)
            if self._thread.is_alive():
                raise LaunchFailed("the thread that drains the console does not end")
        self.loop.close()

    async def _finish(self, last: Callable[[], Coroutine[Any, Any, None]]) -> None:
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await last()
