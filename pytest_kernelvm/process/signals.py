"""How this process ends: so that it cleans up, and soon after its parent."""

from __future__ import annotations

import contextlib
import os
import selectors
import signal
import threading
import time
from collections.abc import Iterator


@contextlib.contextmanager
def signals_interrupt() -> Iterator[None]:
    """Turn SIGTERM and SIGHUP into KeyboardInterrupt: by default they skip all cleaning up.

    Does nothing outside the main thread, which alone may set handlers.
    """

    def interrupt(number: int, _frame: object) -> None:
        raise KeyboardInterrupt(signal.Signals(number).name)

    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = {
        number: signal.signal(number, interrupt) for number in (signal.SIGTERM, signal.SIGHUP)
    }
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


@contextlib.contextmanager
def end_with_parent(grace_s: float = 1.0) -> Iterator[None]:
    """End this process, and with it its children, soon after its parent has ended.

    For the workers of pytest-xdist, whose execnet gives a running test 15 seconds when the other
    end of its pipe is gone. SIGTERM is sent at once, which `signals_interrupt` makes an interrupt.
    pidfd_open(2) reports the parent's end.

    Args:
        grace_s: Seconds until SIGKILL follows, whatever is still being cleaned up then.
    """
    watched = os.pidfd_open(os.getppid())
    over_read, over_write = os.pipe()

    def watch() -> None:
        with selectors.DefaultSelector() as selector:
            selector.register(watched, selectors.EVENT_READ)
            selector.register(over_read, selectors.EVENT_READ)
            if any(key.fd == over_read for key, _events in selector.select()):
                return
        os.kill(os.getpid(), signal.SIGTERM)
        time.sleep(grace_s)
        os.kill(os.getpid(), signal.SIGKILL)

    thread = threading.Thread(target=watch, name="kernelvm-parent", daemon=True)
    thread.start()
    try:
        yield
    finally:
        os.write(over_write, b".")
        thread.join()
        for descriptor in (watched, over_read, over_write):
            os.close(descriptor)
