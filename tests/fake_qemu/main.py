"""The fake QEMU's process: argv as QEMU's, and `-act ACT` for each act of the boot.

The acts are in the docstring of tests/fake_guest.py.
"""

from __future__ import annotations

import json
import os
import signal
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from tests.fake_qemu.agent import FakeAgent
from tests.fake_qemu.kernel import FakeKernel
from tests.fake_qemu.qmp import FakeQmp

# include/uapi/linux/reboot.h
POWER_OFF, KEXEC = 0x4321FEDC, 0x45584543


def value_of(argv: list[str], beginning: str) -> str:
    """Return what comes behind a beginning of an argument."""
    return next(word[len(beginning) :] for word in argv if word.startswith(beginning))


class FakeQemu:
    """The process."""

    def __init__(self, argv: list[str]) -> None:
        console = value_of(argv, "pipe,id=console,path=")
        channel = value_of(argv, "pipe,id=channel,path=")
        self._console = os.open(f"{console}.out", os.O_WRONLY)
        self._is_incoming = "-incoming" in argv
        self._boot = [argv[at + 1] for at, word in enumerate(argv) if word == "-act"]
        self._is_stopped = self._is_incoming
        self._state = threading.Event()
        self._kernel = FakeKernel()
        self._agent = FakeAgent(
            self._kernel,
            os.open(f"{channel}.in", os.O_RDONLY),
            os.open(f"{channel}.out", os.O_WRONLY),
            self._act,
            self._reboot,
        )
        self._qmp = FakeQmp(
            int(value_of(argv, "socket,id=qmp,fd=")),
            {
                "stop": self._stop,
                "cont": self._cont,
                "query-status": self._status,
                "migrate": self._migrate,
                "migrate-incoming": self._migrate_incoming,
                "query-migrate": lambda _arguments: {"status": "completed"},
                "human-monitor-command": lambda _arguments: "PC=ffff800080010000\r\n",
            },
        )
        self._acts: dict[str, Callable[[str], object]] = {
            "console": self._say,
            "log": self._log,
            "say": self._log_and_say,
            "taint": lambda given: setattr(self._kernel, "taint", int(given)),
            "lose": lambda given: self._kernel.lose_records(int(given)),
            "unreadable": lambda given: setattr(self._kernel, "log_errno", int(given)),
            "refuse": self._refuse,
            "refuse-qmp": self._qmp.refused.add,
            "wait": lambda given: time.sleep(float(given)),
            "later": self._later,
            "hello": self._hello,
            "version": lambda given: setattr(self._agent, "version", int(given)),
            "mute": lambda _given: setattr(self._agent, "is_mute", True),
            "damage": lambda _given: setattr(self._agent, "is_damaging", True),
            "nonsense": lambda _given: setattr(self._agent, "is_talking_nonsense", True),
            "event": self._event,
            "exit": lambda given: os._exit(int(given)),
            "kill": lambda given: os.kill(os.getpid(), int(given)),
            "complain": lambda given: print(given, file=sys.stderr, flush=True),
            "output": lambda given: self._output(given.encode()),
            "flood": lambda given: self._output(b"x" * int(given)),
            "errors": self._errors,
            "status": lambda given: setattr(self._agent.program, "status", int(given) << 8),
            "die": lambda given: setattr(self._agent.program, "status", int(given)),
            "run-on": lambda _given: setattr(self._agent.program, "runs_on", True),
        }

    def run(self) -> None:
        """Boot, or wait for the state; then answer."""
        for act in self._boot:
            if act.startswith("refuse-qmp "):
                self._act(act)
        self._qmp.start()
        if self._is_incoming:
            self._state.wait()
        for act in [] if self._is_incoming else self._boot:
            self._act(act)
        self._agent.serve()

    def _act(self, act: str) -> None:
        name, _, given = act.partition(" ")
        self._acts[name](given)

    # What the guest does

    def _say(self, text: str, stamp: str = "") -> None:
        os.write(self._console, f"{stamp or self._kernel.stamp()}{text}\r\n".encode())

    def _log(self, text: str) -> None:
        self._kernel.stamp()
        self._kernel.log(text)

    def _log_and_say(self, text: str) -> None:
        stamp = self._kernel.stamp()
        self._kernel.log(text)
        self._say(text, stamp)

    def _later(self, given: str) -> None:
        seconds, _, act = given.partition(" ")
        threading.Timer(float(seconds), self._act, [act]).start()

    def _refuse(self, given: str) -> None:
        name, _, number = given.partition(" ")
        self._kernel.refused[name] = int(number)

    def _hello(self, boot_id: str) -> None:
        if boot_id:
            self._agent.boot_id = int(boot_id)
        self._agent.hello()

    def _event(self, given: str) -> None:
        name, _, reason = given.partition(" ")
        self._qmp.event(name, guest=True, reason=reason)

    def _output(self, content: bytes) -> None:
        self._agent.program.output += content

    def _errors(self, text: str) -> None:
        self._agent.program.errors += text.encode()

    def _reboot(self, command: int) -> None:
        if command == KEXEC:
            self._say("Linux version 6.12.1")
            self._hello(str(self._agent.boot_id + 1))
            return
        reason = "guest-shutdown" if command & 0xFFFFFFFF == POWER_OFF else "guest-reset"
        self._qmp.event("SHUTDOWN", guest=True, reason=reason)
        # The event is on its way.
        time.sleep(0.05)
        os._exit(0)

    # What QMP asks for

    def _stop(self, _arguments: dict[str, Any]) -> dict[str, Any]:
        self._is_stopped = True
        self._qmp.event("STOP")
        return {}

    def _cont(self, _arguments: dict[str, Any]) -> dict[str, Any]:
        self._is_stopped = False
        self._qmp.event("RESUME")
        return {}

    def _status(self, _arguments: dict[str, Any]) -> dict[str, Any]:
        status = "paused" if self._is_stopped else "running"
        return {"running": not self._is_stopped, "status": status}

    def _migrate(self, _arguments: dict[str, Any]) -> dict[str, Any]:
        state = json.dumps(self._kernel.saved()).encode()
        os.write(self._qmp.received[-1], state)
        return {}

    def _migrate_incoming(self, arguments: dict[str, Any]) -> dict[str, Any]:
        descriptor = int(str(arguments["uri"]).removeprefix("fd:"))
        raw = Path(f"/dev/fd/{descriptor}").read_bytes()
        try:
            self._kernel.restore(json.loads(raw))
        except ValueError:
            print("load of migration failed: Invalid argument", file=sys.stderr, flush=True)
            os._exit(1)
        self._is_stopped = False
        self._state.set()
        self._qmp.event("RESUME")
        return {}


def main() -> None:
    """Be the QEMU of the command line."""
    if "--version" in sys.argv:
        print("QEMU emulator version 7.2.0 (fake)")
        return
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    FakeQemu(sys.argv[1:]).run()


if __name__ == "__main__":
    main()
