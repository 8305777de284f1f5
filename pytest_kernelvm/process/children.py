"""Child processes: the one module that starts them, bounds them and makes sure that they end.

Every child dies with us, however we die: it is started through setpriv(1), whose --pdeathsig asks
the kernel for a signal when the thread that started it ends (prctl(2), PR_SET_PDEATHSIG).
"""

from __future__ import annotations

import contextlib
import fcntl
import io
import os
import selectors
import signal
import subprocess
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import IO, Any, BinaryIO

from pytest_kernelvm.errors import Evidence, HarnessError
from pytest_kernelvm.process.completed import Completed, failure, status_words, tail
from pytest_kernelvm.process.deadline import Deadline
from pytest_kernelvm.process.programs import environment, find_program, quoted

# How much of a program's error output is kept while its output is read.
_STDERR_BYTES = 65536
# With a pipe's default size of 64 KiB two processes wait for each other all the time.
_PIPE_BYTES = 1 << 20
_WAIT_S = 0.001


@contextlib.contextmanager
def _child(
    argv: Sequence[str | Path],
    *,
    cwd: Path | None = None,
    env: Mapping[str, str] | None,
    stdin: int = subprocess.DEVNULL,
    stderr: int | IO[bytes],
) -> Iterator[subprocess.Popen[bytes]]:
    """Give a child whose output is a pipe without a buffer.

    Leaving the context waits for it; leaving it with an error ends its whole group.

    Yields:
        The child.
    """
    with (
        subprocess.Popen(
            _ended_with_us(argv, "TERM"),
            cwd=cwd,
            env=environment(env),
            stdin=stdin,
            stdout=subprocess.PIPE,
            stderr=stderr,
            bufsize=0,
            start_new_session=True,
        ) as child,
        _group_ended_on_error(child),
    ):
        yield child


def _completed(
    argv: Sequence[str | Path],
    child: subprocess.Popen[bytes],
    started: float,
    stdout: bytes = b"",
    stderr: bytes = b"",
) -> Completed:
    return Completed(
        argv=tuple(str(word) for word in argv),
        status=child.returncode,
        raw_stdout=stdout,
        stderr=stderr.decode(errors="replace"),
        elapsed_s=time.monotonic() - started,
    )


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

    `stdin` and `log` exclude each other. Raises ToolMissing if there is no such program.

    Args:
        argv: The program, found in PATH, and its arguments.
        cwd: Its working directory; None for ours.
        env: Variables added to those of `environment`.
        timeout_s: Seconds until it is killed.
        check: Whether a status other than 0 is an error.
        stdin: Bytes that it reads.
        log: A file that its output and error output are appended to as they come.
        on_line: With `log`, called with each line of output.

    Returns:
        The completed child; with `log` without its output.

    Raises:
        HarnessError: It takes too long or, with `check`, fails.
    """
    assert not (stdin and log)
    try:
        if log:
            completed = _run_logged(argv, cwd, env, timeout_s, log, on_line)
        else:
            completed = _run_captured(argv, cwd, env, timeout_s, stdin)
    except subprocess.TimeoutExpired:
        summary = f"{argv[0]} did not end within {timeout_s:g} s"
        raise HarnessError(summary, _unfinished(argv, log)) from None
    if check and completed.status != 0:
        raise HarnessError(f"{argv[0]} {status_words(completed.status)}", failure(completed, log))
    return completed


def _unfinished(argv: Sequence[str | Path], log: Path | None) -> Evidence:
    return Evidence(
        command=quoted(argv),
        where=(str(log),) if log else (),
        excerpt=tail(log) if log else "",
    )


def _run_captured(
    argv: Sequence[str | Path],
    cwd: Path | None,
    env: Mapping[str, str] | None,
    timeout_s: float,
    stdin: bytes,
) -> Completed:
    started = time.monotonic()
    stdin_kind = subprocess.PIPE if stdin else subprocess.DEVNULL
    with _child(argv, cwd=cwd, env=env, stdin=stdin_kind, stderr=subprocess.PIPE) as child:
        stdout, stderr = child.communicate(stdin or None, timeout=timeout_s)
    return _completed(argv, child, started, stdout, stderr)


def _run_logged(
    argv: Sequence[str | Path],
    cwd: Path | None,
    env: Mapping[str, str] | None,
    timeout_s: float,
    log: Path,
    on_line: Callable[[str], None] | None,
) -> Completed:
    started = time.monotonic()
    deadline = Deadline(timeout_s)
    with (
        log.open("ab") as sink,
        _child(argv, cwd=cwd, env=env, stderr=subprocess.STDOUT) as child,
    ):
        _copy_lines(child, sink, on_line, deadline)
        child.wait(deadline.remaining_s)
    return _completed(argv, child, started)


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


class _Output(io.FileIO):
    """A child's output, read in large pieces: a switch between processes costs more than a wait.

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

    Leaving the context waits for the program; leaving it with an error ends the program. Raises
    ToolMissing if there is no such program.

    Args:
        argv: The program, found in PATH, and its arguments.
        env: Variables added to those of `environment`.
        timeout_s: Seconds until it is killed, which reads as the end of the output.

    Yields:
        Its standard output.

    Raises:
        HarnessError: It failed although all of its output was read; with its error output.
    """
    started = time.monotonic()
    with (
        tempfile.TemporaryFile() as errors,
        _child(argv, env=env, stderr=errors) as child,
        _killed_after(timeout_s, child),
    ):
        assert child.stdout is not None
        # A user who has many pipes may not have larger ones (pipe(7)).
        with contextlib.suppress(OSError):
            fcntl.fcntl(child.stdout.fileno(), fcntl.F_SETPIPE_SZ, _PIPE_BYTES)
        with _Output(child.stdout.fileno(), closefd=False) as output:
            yield output
        child.stdout.close()
        if child.wait() != 0:
            errors.seek(0)
            done = _completed(argv, child, started, stderr=errors.read(_STDERR_BYTES))
            raise HarnessError(f"{argv[0]} {status_words(child.returncode)}", failure(done))


@contextlib.contextmanager
def _killed_after(timeout_s: float, child: subprocess.Popen[bytes]) -> Iterator[None]:
    stop = threading.Timer(timeout_s, child.kill)
    stop.daemon = True
    stop.start()
    try:
        yield
    finally:
        stop.cancel()


def run_attached(argv: Sequence[str | Path]) -> int:
    """Run a program on our own terminal until it ends, however long that takes.

    Raises ToolMissing if there is no such program.

    Args:
        argv: The program, found in PATH, and its arguments.

    Returns:
        Its exit status, or minus the signal that ended it.
    """
    with subprocess.Popen(_ended_with_us(argv, "TERM"), env=environment()) as child:
        return child.wait()


class Spawned:
    """A child that runs beside us until it ends or `kill` is called.

    Attributes:
        argv: What was started.
        pid: Its process.
    """

    def __init__(self, child: subprocess.Popen[bytes], argv: tuple[str, ...]) -> None:
        self._child = child
        self.argv = argv
        self.pid = child.pid

    def poll(self) -> int | None:
        """Return the exit status (minus the signal), None as long as it runs."""
        return self._child.poll()

    def wait(self, timeout_s: float) -> int | None:
        """Wait up to `timeout_s` seconds for its end.

        Args:
            timeout_s: 0 only looks.

        Returns:
            The exit status, or None if it still runs.
        """
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

    Raises ToolMissing if there is no such program.

    Args:
        argv: The program, found in PATH, and its arguments.
        pass_fds: Descriptors that it inherits under the same numbers.
        output: A file that its output and error output are appended to.

    Yields:
        The running child.
    """
    with output.open("ab") as sink:
        child = subprocess.Popen(
            _ended_with_us(argv, "KILL", ["--no-new-privs"]),
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


def _ended_with_us(
    argv: Sequence[str | Path], death_signal: str, extra: Sequence[str] = ()
) -> list[str]:
    program = find_program(str(argv[0]))
    setpriv = find_program("setpriv", "install util-linux")
    words = (str(word) for word in argv[1:])
    return [setpriv, "--pdeathsig", death_signal, *extra, "--", program, *words]


@contextlib.contextmanager
def _group_ended_on_error(child: subprocess.Popen[bytes]) -> Iterator[None]:
    """Leave nothing of a child's group behind, even where the child itself has ended already."""
    try:
        yield
    except BaseException:
        _end_group(child.pid, child.poll)
        raise


def _end_group(pid: int, poll: Callable[[], int | None], grace_s: float = 2.0) -> None:
    """End a process and its group: SIGTERM, then SIGKILL for what is left.

    A group that is gone already is no error.

    Args:
        pid: The process, which leads its group.
        poll: Returns None as long as the process runs. Once it has ended, the rest of its group
            gets no more time.
        grace_s: Seconds between the two signals.
    """
    for number, wait_s in ((signal.SIGTERM, grace_s), (signal.SIGKILL, 10.0)):
        with contextlib.suppress(ProcessLookupError):
            os.killpg(pid, number)
        deadline = Deadline(wait_s)
        while poll() is None and not deadline.passed:
            time.sleep(0.005)
