"""A prompt of readline's while another thread writes, and signals that arrive meanwhile."""

from __future__ import annotations

import cmd
import contextlib
import signal
import socket
import sys
import threading
import time
from collections.abc import Iterator

# Signals that end the shell or a line.
END_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
RESEND_AFTER_S = 0.1
# The longest that readline may take to show a prompt.
DRAW_TIMEOUT_S = 1.0


class PromptState:
    """Whether a prompt is on the terminal's last line.

    readline draws piece by piece: what somebody else writes in between tears the prompt up. Without
    readline a prompt counts as shown as soon as it is asked for.
    """

    def __init__(self) -> None:
        self._asking = False
        self._undrawn = threading.Lock()
        # Held while somebody writes, so that the answer of `held` stays true.
        self._turn = threading.Lock()

    def begin(self) -> None:
        """Note that readline will show a prompt."""
        with contextlib.suppress(ImportError):
            import readline

            self._undrawn.acquire(blocking=False)
            # Not a Python function: a signal could raise in it, and readline drops the exception.
            readline.set_pre_input_hook(self._undrawn.release)
        with self._turn:
            self._asking = True

    def end(self) -> None:
        """Note that a line was given."""
        with self._turn:
            self._asking = False

    @contextlib.contextmanager
    def held(self) -> Iterator[bool]:
        """Give whether a prompt is shown, which does not change within this context."""
        if self._asking and self._undrawn.acquire(timeout=DRAW_TIMEOUT_S):
            self._undrawn.release()
        with self._turn:
            yield self._asking


@contextlib.contextmanager
def signals_get_through() -> Iterator[None]:
    """Handle signals at once that arrive just before readline waits for a key; in the main thread.

    Such a signal would be handled only when a key is pressed (CPython's Modules/readline.c: it
    arrives between the last look at signals and select(2)). It is sent again, which ends that wait.
    """
    main = threading.get_ident()
    ours, theirs = socket.socketpair()
    theirs.setblocking(False)

    def send_again() -> None:
        while numbers := ours.recv(64):
            time.sleep(RESEND_AFTER_S)
            # Only while it waits for a line does cmdloop() have no frame above its own.
            frame = sys._current_frames().get(main)
            if frame and frame.f_code is cmd.Cmd.cmdloop.__code__ and numbers[-1] in END_SIGNALS:
                signal.pthread_kill(main, numbers[-1])

    thread = threading.Thread(target=send_again, name="kernelvm-signals", daemon=True)
    before = signal.set_wakeup_fd(theirs.fileno(), warn_on_full_buffer=False)
    thread.start()
    try:
        yield
    finally:
        signal.set_wakeup_fd(before)
        theirs.close()
        thread.join()
        ours.close()
