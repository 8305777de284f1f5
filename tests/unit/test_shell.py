"""The prompt beside a console that talks."""

from __future__ import annotations

import signal
import sys

import pexpect

SHELL = """
import sys, threading
from types import SimpleNamespace
from pytest_kernelvm.shell.shell import GuestShell, interact

class Talking(GuestShell):
    "say: one piece at once, the others beside the prompt."

    def do_say(self, _arg):
        self.show_console("[ 1.0] in the mid")
        for after_s, text in ((0.5, "dle\\\\n[ 2.0] of a "), (1.0, "line\\\\n[ 3.0] the rest")):
            threading.Timer(after_s, self.show_console, [text]).start()

interact(Talking(SimpleNamespace(label="guest"), sys.stdout))
"""


def test_a_line_that_comes_in_pieces() -> None:
    child = pexpect.spawn(sys.executable, ["-c", SHELL.replace("\\\\", "\\")], encoding="utf-8")
    child.delaybeforesend = None
    child.expect_exact("guest> ")
    child.sendline("say")
    child.expect_exact("[ 1.0] in the mid")
    child.expect_exact("guest> ")
    child.send("typed")
    child.expect_exact("\r\x1b[K[ 1.0] in the middle\r\nguest> typed")
    child.expect_exact("\r\x1b[K[ 2.0] of a line\r\nguest> typed")
    child.send("\b" * 5)
    child.sendeof()
    child.expect_exact("[ 3.0] the rest")
    child.expect(pexpect.EOF)


ENDED = """
from pytest_kernelvm.process import signals_interrupt
try:
    with signals_interrupt():
        interact(Talking(SimpleNamespace(label="guest"), sys.stdout), intro="begun")
except KeyboardInterrupt as interrupt:
    print("ended by", *interrupt.args)
"""


def test_a_signal_just_before_the_prompt() -> None:
    program = SHELL.replace("\\\\", "\\").rpartition("interact(")[0] + ENDED
    for _time in range(10):
        child = pexpect.spawn(sys.executable, ["-c", program], encoding="utf-8")
        child.expect_exact("begun")
        child.kill(signal.SIGTERM)
        child.expect_exact("ended by SIGTERM")
        child.expect(pexpect.EOF)
