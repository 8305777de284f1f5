"""The prompt of a booted guest, whose commands the agent carries out."""

from __future__ import annotations

import cmd
import contextlib
import shlex
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TextIO

from pytest_kernelvm.errors import CommandFailed, KernelvmError, SyscallFailed
from pytest_kernelvm.printable import printable
from pytest_kernelvm.shell.prompting import PromptState, signals_get_through
from pytest_kernelvm.vm.machine.vm import Vm

EXIT_HINT = "`exit` or Ctrl-D ends the guest; `help` lists the commands"
HISTORY_LINES = 1000


class GuestShell(cmd.Cmd):
    """The prompt of one guest. What is no command of the prompt is run as a program in the guest.

    Args:
        vm: A booted guest.
        out: Where answers go.
    """

    def __init__(self, vm: Vm, out: TextIO) -> None:
        super().__init__(stdout=out)
        self._vm = vm
        self._out = out
        self._terminal = sys.stdin.isatty()
        self._prompting = PromptState()
        # The part of a console's line that has come so far, and how much of it is shown.
        self._begun = ""
        self._visible = 0
        self.prompt = f"{vm.label}> " if self._terminal else ""

    def show_console(self, text: str) -> None:
        """Show what the console said, and again what the user is typing.

        While a prompt is shown, a line of the console appears when it is complete.

        Args:
            text: Safe to show, as `following` gives it.
        """
        with self._prompting.held() as prompted:
            said = self._begun + text
            complete, end, begun = said.rpartition("\n")
            if not prompted:
                self._out.write(said[self._visible :])
                self._visible = len(begun)
            elif end:
                self._out.write(f"\r\x1b[K{complete}\n{self.prompt}{_typed()}")
                self._visible = 0
            self._begun = begun
            self._out.flush()

    def _begin_prompt(self) -> None:
        if self._terminal:
            self._prompting.begin()

    def preloop(self) -> None:
        """Note that the prompt is about to be shown."""
        self._begin_prompt()

    def precmd(self, line: str) -> str:
        """Note that a line was given."""
        self._prompting.end()
        return line

    def postcmd(self, stop: bool, _line: str) -> bool:
        """Note that the prompt is about to be shown again."""
        if not stop:
            self._begin_prompt()
        return stop

    def postloop(self) -> None:
        """Show what is left of the console."""
        self.show_console("")

    def _show(self, text: str) -> None:
        """Show what the guest or QEMU said; nothing in it commands the terminal."""
        text = printable(text)
        if text:
            self._out.write(text if text.endswith("\n") else f"{text}\n")
            self._out.flush()

    def _words(self, line: str) -> list[str]:
        return shlex.split(line)

    def emptyline(self) -> bool:
        """Do nothing on an empty line."""
        return False

    def onecmd(self, line: str) -> bool:
        """Carry out one line; what the guest refuses is shown, and QEMU's end ends the shell."""
        try:
            return bool(super().onecmd(line))
        except (SyscallFailed, CommandFailed) as error:
            self._show(str(error.summary))
        except KernelvmError as error:
            if self._vm.control.ended:
                raise
            self._show(f"{error.verdict}: {error.summary}; QEMU runs: `monitor info registers`")
        except ValueError as error:
            self._show(f"not a command: {error}")
        return False

    def do_help(self, arg: str) -> None:
        """`help`: this list."""
        if arg:
            super().do_help(arg)
            return
        lines = (getattr(self, name).__doc__ for name in self.get_names() if name[:3] == "do_")
        pairs = [str(line).removeprefix("`").split("`: ", 1) for line in lines]
        width = max(len(usage) for usage, _ in pairs)
        for usage, what in sorted(pairs):
            self._show(f"{usage:{width}}  {what.rstrip('.')}")
        self._show(f"{'PROGRAM [WORD…]':{width}}  run a program in the guest: modprobe, insmod, …")

    def completenames(self, text: str, *_ignored: object) -> list[str]:
        """Complete the name of a command or of a program in the guest."""
        programs: list[str] = []
        with contextlib.suppress(KernelvmError):
            programs = [f"{name} " for name in self._names("/sbin") if name.startswith(text)]
        return [f"{name} " for name in super().completenames(text)] + programs

    def _names(self, directory: str) -> list[str]:
        """Return the names in a directory of the guest that can be offered on a terminal."""
        return [name for name in self._vm.list(directory) if name.isprintable()]

    def completedefault(self, text: str, line: str, _begin: int, end: int) -> list[str]:
        """Complete the path of a file in the guest.

        Args:
            text: What readline completes: what is behind the last delimiter.
            line: The whole line.
            end: Where in the line `text` ends.

        Returns:
            What can stand in place of `text`.
        """
        directory, _, beginning = line[:end].split(" ")[-1].rpartition("/")
        try:
            names = self._names(f"{directory}/")
        except KernelvmError:
            return []
        return [text + name[len(beginning) :] for name in names if name.startswith(beginning)]

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
        """`cat FILE…`: show files."""
        for path in self._words(line):
            self._show(self._vm.read(path))

    def do_ls(self, line: str) -> None:
        """`ls [DIRECTORY]`: list a directory."""
        self._show("  ".join(self._vm.list(line.strip() or "/")))

    def do_write(self, line: str) -> None:
        """`write FILE TEXT`: write a text with a newline into a file."""
        path, _, text = line.partition(" ")
        self._vm.write(path, f"{text}\n")

    def do_mkdir(self, line: str) -> None:
        """`mkdir DIRECTORY…`: make directories."""
        for path in self._words(line):
            self._vm.mkdir(path)

    def do_rm(self, line: str) -> None:
        """`rm FILE…`: remove files."""
        for path in self._words(line):
            self._vm.unlink(path)

    def do_mount(self, line: str) -> None:
        """`mount SOURCE DIRECTORY TYPE`: mount a file system."""
        words = self._words(line)
        if len(words) == 3:
            self._vm.mount(*words)
        else:
            self._show(self._vm.read("/proc/mounts"))

    def do_uname(self, _line: str) -> None:
        """`uname`: the kernel."""
        name = self._vm.uname
        self._show(f"{name.sysname} {name.release} {name.version} {name.machine}")

    def do_console(self, _line: str) -> None:
        """`console`: the end of the console, from the first splat on."""
        self._show(self._vm.console.tail())

    def do_monitor(self, line: str) -> None:
        """`monitor COMMAND`: ask QEMU: info registers, stop, cont, x/8i $pc."""
        self._show(self._vm.qmp.monitor(line))

    def do_lsmod(self, _line: str) -> None:
        """`lsmod`: the loaded modules."""
        for module in self._vm.modules:
            self._show(f"{module.name:24} {module.size_bytes:8} {' '.join(module.holders)}")

    def do_dmesg(self, _line: str) -> None:
        """`dmesg`: the kernel's log."""
        self._show(str(self._vm.dmesg))

    def do_exit(self, _line: str) -> bool:
        """`exit`: end the guest."""
        return True


def _typed() -> str:
    """Return what is typed so far."""
    try:
        import readline
    except ImportError:
        return ""
    return readline.get_line_buffer()


@contextlib.contextmanager
def _history(file: Path | None) -> Iterator[None]:
    """Have readline know the lines of earlier sessions, where there is a readline."""
    try:
        import readline
    except ImportError:
        yield
        return
    if file is None or not sys.stdin.isatty():
        yield
        return
    with contextlib.suppress(OSError):
        readline.read_history_file(file)
    readline.set_history_length(HISTORY_LINES)
    try:
        yield
    finally:
        with contextlib.suppress(OSError):
            file.parent.mkdir(parents=True, exist_ok=True)
            readline.write_history_file(file)


def interact(shell: GuestShell, *, history: Path | None = None, intro: str = "") -> None:
    """Let the user give commands until he leaves or QEMU ends.

    Raises also the error of a guest that ends under the user's hands.

    Args:
        shell: The guest's prompt.
        history: The file with the lines of earlier sessions; None for none.
        intro: What is said first.

    Raises:
        KeyboardInterrupt: SIGTERM or SIGHUP came.
    """
    with _history(history), signals_get_through():
        while True:
            try:
                shell.cmdloop(intro)
                return
            except KeyboardInterrupt as interrupt:
                # SIGTERM and SIGHUP, which have their name as argument, end it; Ctrl-C does not.
                if interrupt.args:
                    raise
                intro = f"\n{EXIT_HINT}"
