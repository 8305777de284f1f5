"""Child processes: the one place that starts them, bounds them and makes sure that they end.

Every child dies with us, however we die: it is started through setpriv(1), whose --pdeathsig asks
the kernel for a signal when the thread that started it ends (prctl(2), PR_SET_PDEATHSIG).
"""

from __future__ import annotations

import contextlib
import fcntl
import io
import os
import selectors
import shlex
import shutil
import signal
import subprocess
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

from pytest_kernelvm.errors import Evidence, HarnessError, ToolMissing

# A make that calls us, or that we are called by, must not share its job server or its variables.
# What conf takes from its environment would be in no key (Documentation/kbuild/kconfig.rst).
_NOT_INHERITED = (
    *("MAKEFLAGS", "MFLAGS", "MAKELEVEL", "MAKEOVERRIDES", "CDPATH"),
    *("KCONFIG_ALLCONFIG", "KCONFIG_CONFIG", "KCONFIG_DEFCONFIG_LIST", "KCONFIG_WERROR"),
)

TAIL_LINES = 30


@dataclass(frozen=True, kw_only=True, slots=True)
class Completed:
    """A child that ended.

    argv: what was run. status: exit status, or minus the signal that ended it.
    raw_stdout, stderr: its streams, empty where a log file took them. elapsed_s: wall time.
    """

    argv: tuple[str, ...]
    status: int
    raw_stdout: bytes
    stderr: str
    elapsed_s: float

    @property
    def stdout(self) -> str:
        """Standard output as text."""
        return self.raw_stdout.decode(errors="replace")


class Deadline:
    """A point in time on the monotonic clock.

    timeout_s: seconds from now.
    """

    def __init__(self, timeout_s: float) -> None:
        self.timeout_s = timeout_s
        self._at = time.monotonic() + timeout_s

    @property
    def remaining_s(self) -> float:
        """Seconds left, never below 0."""
        return max(0.0, self._at - time.monotonic())

    @property
    def passed(self) -> bool:
        """Whether the point lies behind us."""
        return time.monotonic() >= self._at


def quoted(argv: Sequence[str | Path]) -> str:
    """Return a command as one line to paste into a shell."""
    return shlex.join(str(word) for word in argv)


def environment(extra: Mapping[str, str] | None = None) -> dict[str, str]:
    """Return the environment of children: ours without make's, in the C locale, plus `extra`."""
    env = {key: value for key, value in os.environ.items() if key not in _NOT_INHERITED}
    env["LC_ALL"] = "C"
    env.update(extra or {})
    return env


# Where programs are on a system whose users do not have them in PATH; scripts/depmod.sh looks there
# too.
ADMIN_DIRECTORIES = ("/usr/sbin", "/sbin")


def find_program(name: str, install_hint: str = "", *, places: Sequence[str] = ()) -> str:
    """Return the full path of a program.

    install_hint: what the error tells the user to do. places: directories behind those of PATH.
    Raises ToolMissing if none of them has it.
    """
    path = shutil.which(name, path=os.pathsep.join([os.environ.get("PATH", os.defpath), *places]))
    if path is None:
        raise ToolMissing(
            f"the program {name!r} is not installed",
            Evidence(
                expected=f"{name} in PATH",
                next_step=install_hint or "`kernelvm doctor` names the packages to install",
            ),
        )
    return path


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
    end of its pipe is gone. This sends SIGTERM at once, which `signals_interrupt` makes an
    interrupt, and SIGKILL `grace_s` seconds later, whatever is still being cleaned up then.
    pidfd_open(2) tells of the parent's end.
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


def _bound_to_us(
    argv: Sequence[str | Path], death_signal: str, extra: Sequence[str] = ()
) -> list[str]:
    program = find_program(str(argv[0]))
    setpriv = find_program("setpriv", "install util-linux")
    words = (str(word) for word in argv[1:])
    return [setpriv, "--pdeathsig", death_signal, *extra, "--", program, *words]


def tail(path: Path, lines: int = TAIL_LINES) -> str:
    """Return the last lines of a text file; empty if there is none."""
    try:
        with path.open("rb") as file:
            file.seek(0, os.SEEK_END)
            file.seek(max(0, file.tell() - 400 * lines))
            text = file.read().decode(errors="replace")
    except OSError:
        return ""
    return "\n".join(text.splitlines()[-lines:])


def run(
    argv: Sequence[str | Path],
    *,
    cwd: Path | None = None,
    env: Mapping[str, str] | None = None,
    timeout_s: float,
    check: bool = True,
    stdin: bytes = b"",
    log: Path | None = None,
    on_line: Callable[[str], None] | None = None,
) -> Completed:
    """Run a program to its end.

    cwd: its working directory. env: variables added to ours.
    timeout_s: seconds until it is killed. stdin: bytes that it reads.
    check: whether a status other than 0 is an error.
    log: a file that gets its output and error output as they come; on_line gets each line.
    Returns the completed child. Raises ToolMissing if there is no such program, HarnessError if
    it takes too long or, with `check`, fails.
    stdin and log exclude each other.
    """
    assert not (stdin and log)
    started = time.monotonic()
    deadline = Deadline(timeout_s)
    with contextlib.ExitStack() as stack:
        sink = stack.enter_context(log.open("ab")) if log else None
        child = subprocess.Popen(
            _bound_to_us(argv, "TERM"),
            cwd=cwd,
            env=environment(env),
            stdin=subprocess.PIPE if stdin else subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT if log else subprocess.PIPE,
            start_new_session=True,
        )
        stack.enter_context(child)
        stack.enter_context(_group_ended_on_error(child))
        try:
            if sink:
                _copy_lines(child, sink, on_line, deadline)
                stdout = stderr = b""
                child.wait(deadline.remaining_s)
            else:
                stdout, stderr = child.communicate(stdin or None, timeout=timeout_s)
        except subprocess.TimeoutExpired:
            raise HarnessError(
                f"{argv[0]} did not end within {timeout_s:g} s",
                Evidence(
                    command=quoted(argv),
                    where=(str(log),) if log else (),
                    excerpt=tail(log) if log else "",
                ),
            ) from None
    completed = Completed(
        argv=tuple(str(word) for word in argv),
        status=child.returncode,
        raw_stdout=stdout,
        stderr=stderr.decode(errors="replace"),
        elapsed_s=time.monotonic() - started,
    )
    if check and completed.status != 0:
        raise HarnessError(f"{argv[0]} {said(completed.status)}", failure(completed, log))
    return completed


# Of what a program says while its output is read.
_SAID_BYTES = 65536
# A pipe's default of 64 KiB makes two processes wait for each other all the time.
_PIPE_BYTES = 1 << 20
_WAIT_S = 0.001


class _Output(io.FileIO):
    """What a child writes, read in large pieces: a switch between processes costs more than a wait.

    A reader that is faster than the child would be woken up for each few kilobytes.
    """

    def readinto(self, buffer: Any, /) -> int:
        """Read what there is, and give the child time to write as much again."""
        count = super().readinto(buffer)
        if 0 < count < memoryview(buffer).nbytes // 2:
            time.sleep(_WAIT_S)
        return count


@contextlib.contextmanager
def piped(
    argv: Sequence[str | Path], *, env: Mapping[str, str] | None = None, timeout_s: float
) -> Iterator[io.FileIO]:
    """Run a program and give its output as a stream that is read while it runs, without a buffer.

    env: variables added to ours. timeout_s: seconds until it is killed, which reads as the end.
    Leaving the context waits for it. Raises ToolMissing if there is no such program, HarnessError
    with what it said if it fails although all of its output was read. Whoever leaves with an error
    ends it.
    """
    with contextlib.ExitStack() as stack:
        said_file = stack.enter_context(tempfile.TemporaryFile())
        child = subprocess.Popen(
            _bound_to_us(argv, "TERM"),
            env=environment(env),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=said_file,
            bufsize=0,
            start_new_session=True,
        )
        stack.enter_context(child)
        stack.enter_context(_group_ended_on_error(child))
        stop = threading.Timer(timeout_s, child.kill)
        stop.daemon = True
        stop.start()
        stack.callback(stop.cancel)
        assert child.stdout is not None
        # Whoever has many pipes may not have larger ones (man 7 pipe).
        with contextlib.suppress(OSError):
            fcntl.fcntl(child.stdout.fileno(), fcntl.F_SETPIPE_SZ, _PIPE_BYTES)
        with _Output(child.stdout.fileno(), closefd=False) as output:
            yield output
        child.stdout.close()
        if child.wait() != 0:
            said_file.seek(0)
            text = said_file.read(_SAID_BYTES).decode(errors="replace")
            done = Completed(
                argv=tuple(str(word) for word in argv),
                status=child.returncode,
                raw_stdout=b"",
                stderr=text,
                elapsed_s=0.0,
            )
            raise HarnessError(f"{argv[0]} {said(child.returncode)}", failure(done))


def run_attached(argv: Sequence[str | Path]) -> int:
    """Run a program on our own terminal until it ends, however long that takes.

    Returns its exit status, minus the signal that ended it. Raises ToolMissing if there is no such
    program.
    """
    with subprocess.Popen(_bound_to_us(argv, "TERM"), env=environment()) as child:
        return child.wait()


def failure(completed: Completed, log: Path | None = None) -> Evidence:
    """Return the evidence of a child that failed: its last lines, its log, its command."""
    text = tail(log) if log else (completed.stderr or completed.stdout)
    return Evidence(
        seen=said(completed.status),
        where=(str(log),) if log else (),
        excerpt="\n".join(text.splitlines()[-TAIL_LINES:]),
        command=quoted(completed.argv),
    )


def said(status: int) -> str:
    """Return an exit status in words; below zero it is the signal that ended the process."""
    if status < 0:
        try:
            return f"was killed by {signal.Signals(-status).name}"
        except ValueError:
            return f"was killed by signal {-status}"
    return f"ended with status {status}"


def _copy_lines(
    child: subprocess.Popen[bytes],
    sink: BinaryIO,
    on_line: Callable[[str], None] | None,
    deadline: Deadline,
) -> None:
    assert child.stdout is not None
    rest = b""
    with selectors.DefaultSelector() as selector:
        selector.register(child.stdout, selectors.EVENT_READ)
        while True:
            if deadline.passed or not selector.select(deadline.remaining_s):
                raise subprocess.TimeoutExpired(child.args, deadline.timeout_s)
            data = os.read(child.stdout.fileno(), 65536)
            if not data:
                if rest and on_line:
                    on_line(rest.decode(errors="replace"))
                return
            sink.write(data)
            sink.flush()
            *lines, rest = (rest + data).split(b"\n")
            for line in lines if on_line else ():
                assert on_line is not None
                on_line(line.decode(errors="replace"))


@contextlib.contextmanager
def _group_ended_on_error(child: subprocess.Popen[bytes]) -> Iterator[None]:
    """Leave nothing of a child's group behind, even where the child itself has ended already."""
    try:
        yield
    except BaseException:
        end_group(child.pid, child.poll)
        raise


def end_group(pid: int, poll: Callable[[], int | None], grace_s: float = 2.0) -> None:
    """End a process and its group: SIGTERM, then SIGKILL for who is left after `grace_s` seconds.

    poll: returns None as long as the process runs; once it has ended, the rest of its group gets
    no more time. Groups that are gone are fine.
    """
    for number, wait_s in ((signal.SIGTERM, grace_s), (signal.SIGKILL, 10.0)):
        with contextlib.suppress(ProcessLookupError):
            os.killpg(pid, number)
        deadline = Deadline(wait_s)
        while poll() is None and not deadline.passed:
            time.sleep(0.005)


class Spawned:
    """A child that runs beside us until it ends or `kill` is called.

    argv: what was started. pid: its process.
    """

    def __init__(self, child: subprocess.Popen[bytes], argv: tuple[str, ...]) -> None:
        self._child = child
        self.argv = argv
        self.pid = child.pid

    def poll(self) -> int | None:
        """Return the exit status (minus the signal), None as long as it runs."""
        return self._child.poll()

    def wait(self, timeout_s: float) -> int | None:
        """Wait up to `timeout_s` seconds; return the exit status or None."""
        try:
            return self._child.wait(timeout_s)
        except subprocess.TimeoutExpired:
            return None

    def kill(self) -> int:
        """End it at once with SIGKILL if it still runs; return its exit status."""
        if self._child.poll() is None:
            self._child.kill()
        return self._child.wait()


@contextlib.contextmanager
def spawn(
    argv: Sequence[str | Path],
    *,
    pass_fds: Sequence[int] = (),
    output: Path,
) -> Iterator[Spawned]:
    """Start a program beside us; leaving the context kills it. It can gain no privileges.

    pass_fds: descriptors that it inherits under their numbers.
    output: a file that gets its output and error output.
    Raises ToolMissing if there is no such program.
    """
    with output.open("ab") as sink:
        child = subprocess.Popen(
            _bound_to_us(argv, "KILL", ["--no-new-privs"]),
            env=environment(),
            stdin=subprocess.DEVNULL,
            stdout=sink,
            stderr=sink,
            pass_fds=tuple(pass_fds),
            start_new_session=True,
        )
    spawned = Spawned(child, tuple(str(word) for word in argv))
    try:
        yield spawned
    finally:
        spawned.kill()
