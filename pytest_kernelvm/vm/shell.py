"""A booted guest at a person's fingertips: a prompt whose commands the agent carries out."""

from __future__ import annotations

import cmd
import contextlib
import shlex
import sys
import threading
from collections.abc import Callable, Iterator
from typing import TextIO

from pytest_kernelvm.errors import CommandFailed, SyscallFailed
from pytest_kernelvm.vm.vm import Vm

LEAVE = "`exit` or Ctrl-D ends the guest"


class GuestShell(cmd.Cmd):
    """The prompt of one guest. What it does not know is run as a program in the guest.

    vm: a booted guest. out: where answers go.
    """

    doc_header = (
        "Commands (`help cat`); all else is run as a program in the guest: modprobe, insmod"
    )

    def __init__(self, vm: Vm, out: TextIO) -> None:
        super().__init__(stdout=out)
        self._vm = vm
        self._out = out
        self.prompt = f"{vm.label}> " if sys.stdin.isatty() else ""

    def _show(self, text: str) -> None:
        if text:
            self._out.write(text if text.endswith("\n") else f"{text}\n")
            self._out.flush()

    def _words(self, line: str) -> list[str]:
        return shlex.split(line)

    def emptyline(self) -> bool:
        """Do nothing on an empty line."""
        return False

    def onecmd(self, line: str) -> bool:
        """Carry out one line; what the guest refuses is shown, and a dead guest ends the shell."""
        try:
            return bool(super().onecmd(line))
        except (SyscallFailed, CommandFailed) as error:
            self._show(str(error.summary))
        except ValueError as error:
            self._show(f"not a command: {error}")
        return False

    def default(self, line: str) -> bool:  # type: ignore[override]
        """Run a program in the guest."""
        if line == "EOF":
            self._show("")
            return True
        result = self._vm.run(*self._words(line))
        if result.errno:
            self._show(f"{line}: no such command or program; `help` lists the commands")
        else:
            self._show(result.output + result.errors)
            if result.status:
                self._show(f"status {result.status}")
        return False

    def do_cat(self, line: str) -> None:
        """cat FILE…: show files."""
        for path in self._words(line):
            self._show(self._vm.read(path))

    def do_ls(self, line: str) -> None:
        """ls [DIRECTORY]: list a directory."""
        self._show("  ".join(self._vm.list(line.strip() or "/")))

    def do_write(self, line: str) -> None:
        """write FILE TEXT: write a text with a newline into a file."""
        path, _, text = line.partition(" ")
        self._vm.write(path, f"{text}\n")

    def do_lsmod(self, _line: str) -> None:
        """lsmod: the loaded modules."""
        for module in self._vm.modules:
            self._show(f"{module.name:24} {module.size_bytes:8} {' '.join(module.holders)}")

    def do_dmesg(self, _line: str) -> None:
        """dmesg: the kernel's log."""
        self._show(str(self._vm.dmesg))

    def do_exit(self, _line: str) -> bool:
        """exit: end the guest."""
        return True


@contextlib.contextmanager
def following(vm: Vm, show: Callable[[str], None]) -> Iterator[None]:
    """Show the console's text as it comes, as long as the context lasts."""
    ended = threading.Event()

    def follow() -> None:
        shown = 0
        while not ended.is_set():
            text = vm.console.text
            if len(text) > shown:
                show(text[shown:])
                shown = len(text)
            ended.wait(0.05)

    thread = threading.Thread(target=follow, name="kernelvm-console", daemon=True)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join()


def interact(vm: Vm, out: TextIO) -> None:
    """Talk with a guest until the user leaves or the guest ends.

    Raises the error that says how a guest ended under the user's hands.
    """
    shell = GuestShell(vm, out)
    intro = f"{vm.label} is ready after {vm.ready_s:.2f} s; {LEAVE}; `help` lists the commands"
    while True:
        try:
            shell.cmdloop(intro)
            return
        except KeyboardInterrupt:
            intro = f"\n{LEAVE}"
