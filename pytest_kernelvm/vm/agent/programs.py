"""Programs that run in the guest."""

from __future__ import annotations

import errno
import os
import struct
from pathlib import Path

from pytest_kernelvm.arch.base import struct_order
from pytest_kernelvm.errors import CommandFailed, Evidence, HarnessError
from pytest_kernelvm.guest.programs import Abi
from pytest_kernelvm.guest.protocol import (
    NR_RUN,
    READ_BYTES,
    Batch,
    DataPointer,
    StepResult,
    zero_terminated,
)
from pytest_kernelvm.process import quoted
from pytest_kernelvm.vm.agent.files import AT_FDCWD, Files
from pytest_kernelvm.vm.agent.requests import Agent, require_success
from pytest_kernelvm.vm.agent.results import CommandResult

SEEK_SET = 0

# Where the program that gives others a terminal lies while it runs.
TERMINAL = "/.terminal"
# What it mounts, as /proc/mounts has it.
TERMINALS = "terminal /dev/pts devpts "
# include/linux/fs.h and include/uapi/linux/fcntl.h
MNT_DETACH = 2
AT_REMOVEDIR = 0x200

# Where a program without a slash in its name is looked for.
PROGRAM_DIRECTORIES = ("/sbin", "/bin", "/usr/sbin", "/usr/bin")

# A program's streams in the guest; they have no name any more when it runs.
INPUT, OUTPUT, ERRORS, NO_INPUT = "/.input", "/.output", "/.errors", "/dev/null"
# How much of a program's output and errors comes with its status; the rest is fetched behind it.
FIRST_BYTES = 32 * 1024, 8 * 1024


class _ProgramRequest:
    """The batch that runs one program, and where in its reply the answers are.

    opened: the steps that open its input, output and errors. ran: the step that runs it.
    reads: the steps that read the beginnings of its output and errors.
    """

    def __init__(
        self, abi: Abi, path: str, argv: tuple[str, ...], *, has_input: bool, content: bytes
    ) -> None:
        self.batch = Batch()
        self._fresh = abi.guest_open_flags(os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC)
        self._existing = abi.guest_open_flags(os.O_RDONLY | os.O_CLOEXEC)
        program = self.batch.text(path)
        words = self.batch.data(zero_terminated(argv))
        names = (INPUT if has_input else NO_INPUT, OUTPUT, ERRORS)
        files = [self.batch.text(name) for name in names]
        given = self.batch.data(content)
        buffers = [self.batch.space(size) for size in FIRST_BYTES]
        self.opened = self._open(names, files)
        if content:
            self._put(program, given, len(content))
        self.ran = self.batch.call(NR_RUN, program, words, len(argv), *self.opened)
        if content:
            self.batch.call("unlinkat", AT_FDCWD, program, 0, always=True)
        self.reads = [
            self._read(descriptor, buffer, size)
            for descriptor, buffer, size in zip(self.opened[1:], buffers, FIRST_BYTES, strict=True)
        ]

    def _open(self, names: tuple[str, ...], files: list[DataPointer]) -> list[StepResult]:
        opened = []
        for name, file in zip(names, files, strict=True):
            flags = self._existing if file is files[0] else self._fresh
            opened.append(self.batch.call("openat", AT_FDCWD, file, flags, 0o600))
            if name != NO_INPUT:
                self.batch.call("unlinkat", AT_FDCWD, file, 0)
        return opened

    def _put(self, program: DataPointer, given: DataPointer, size: int) -> None:
        """Add the steps that write the program itself into the guest."""
        put = self.batch.call("openat", AT_FDCWD, program, self._fresh, 0o700)
        self.batch.call("write", put, given, size, loop=True)
        self.batch.call("close", put)

    def _read(self, descriptor: StepResult, buffer: DataPointer, size: int) -> StepResult:
        self.batch.call("lseek", descriptor, 0, SEEK_SET, always=True)
        return self.batch.call(
            "read", descriptor, buffer, size, out=(1, None), always=True, loop=True
        )


class Programs(Files):
    """Running programs, and errors for those that do not end as expected.

    Args:
        agent: Carries the requests.
        terminal: The program that gives others a terminal; None where the guest has none.
    """

    def __init__(self, agent: Agent, terminal: Path | None = None) -> None:
        super().__init__(agent)
        self._terminal = terminal

    def _forget_other_kernel(self, terminal: Path | None) -> None:
        """Go on with an agent that knows nothing of what was opened; terminal: as in the class."""
        self._stale.clear()
        self._terminal = terminal

    def run(
        self,
        *argv: str,
        stdin: bytes = b"",
        timeout_s: float | None = None,
        tty: bool = False,
    ) -> CommandResult:
        """Run a program to its end, whatever its status is.

        Raises CommandFailed if it does not end in time, when it is killed, and HarnessError, with
        `tty`, where the kernel has no pseudo terminals.

        Args:
            *argv: A path, or a name that is looked for in /sbin, /bin, /usr/sbin and /usr/bin; then
                the arguments.
            stdin: What the program reads; nothing is /dev/null.
            timeout_s: Seconds of the guest's own time; None for the cell's timeout of a command.
            tty: Whether it has a pseudo terminal of 24 lines of 80 columns as input, output, errors
                and controlling terminal, instead of /dev/null and files. `stdin` is typed there,
                and the end of input behind it if there is any; output and errors are one. Nothing
                is echoed.

        Returns:
            Status and output; status 127 if it could not be started.

        Raises:
            TypeError: Without a program.
        """
        if not argv:
            raise TypeError("run() wants a program")
        name = argv[0]
        paths = [name] if "/" in name else [f"{where}/{name}" for where in PROGRAM_DIRECTORIES]
        for path in paths:
            if tty:
                result = self._run_on_terminal(path, argv, stdin, timeout_s)
            else:
                result = self._run_path(path, argv, stdin, timeout_s)
            if result.errno != errno.ENOENT:
                break
        return result

    def _run_path(
        self, path: str, argv: tuple[str, ...], stdin: bytes, timeout_s: float | None
    ) -> CommandResult:
        return self._command_result(argv, *self._execute(path, argv, stdin, timeout_s))

    def _run_on_terminal(
        self, path: str, argv: tuple[str, ...], stdin: bytes, timeout_s: float | None
    ) -> CommandResult:
        """Run a program by way of guest/c/terminal.c, which says in the end how that went."""
        assert self._terminal, "this guest's programs were compiled without one"
        words = (TERMINAL, path, *argv)
        content = self._terminal.read_bytes()
        try:
            ended, output, report = self._execute(TERMINAL, words, stdin, timeout_s, content)
        except CommandFailed:
            # It was killed before it could undo its mount.
            if TERMINALS in self.read("/proc/mounts"):
                self.syscall("umount2", "/dev/pts", MNT_DETACH)
                self.syscall("unlinkat", AT_FDCWD, "/dev/pts", AT_REMOVEDIR)
            raise
        try:
            numbers = struct.unpack(f"{struct_order(self._byteorder)}iii", report)
        except struct.error:
            raise HarnessError(
                f"{self.label}: the program that gives {argv[0]} a terminal did not report its end",
                Evidence(expected="12 bytes", seen=f"{report!r}, wait(2)'s status {ended}"),
            ) from None
        no_terminal, not_started, ended = numbers
        if no_terminal:
            number = self.abi.host_errno(no_terminal)
            raise HarnessError(
                f"{self.label}: no terminal for {argv[0]}: {os.strerror(number)}",
                Evidence(
                    expected="/dev/ptmx, and devpts to mount",
                    seen=errno.errorcode.get(number, str(number)),
                    next_step="the kernel needs UNIX98_PTYS=y and DEVTMPFS=y",
                ),
            )
        return self._command_result(argv, -not_started or ended, output, b"")

    def _execute(
        self,
        path: str,
        argv: tuple[str, ...],
        stdin: bytes,
        timeout_s: float | None,
        content: bytes = b"",
    ) -> tuple[int, bytes, bytes]:
        """Run a program.

        Args:
            path: Of the program.
            argv: Its words.
            stdin: What it reads.
            timeout_s: As `run` takes it.
            content: The program itself, which lies at its path for so long; none if it is there.

        Returns:
            The agent's word on its end, its output and its errors.
        """
        request = _ProgramRequest(self.abi, path, argv, has_input=bool(stdin), content=content)
        if stdin:
            self.write(INPUT, stdin)
        shown = argv[2:] if content else argv
        reply = self._transact(request.batch, timeout_s, quoted(shown), program=True)
        require_success(self.abi, reply, f"run {shown[0]}", request.ran.step)
        descriptors = [reply.results[step.step] for step in request.opened]
        self._stale += descriptors
        streams = [
            self._rest(descriptor, reply.outputs[read.step], size)
            for descriptor, read, size in zip(
                descriptors[1:], request.reads, FIRST_BYTES, strict=True
            )
        ]
        return reply.results[request.ran.step], streams[0], streams[1]

    def _command_result(
        self, argv: tuple[str, ...], ended: int, output: bytes, errors: bytes
    ) -> CommandResult:
        """Translate the agent's word (wait(2)'s status, or minus errno) into a result."""
        started = ended >= 0
        return CommandResult(
            argv=argv,
            status=os.waitstatus_to_exitcode(ended) if started else 127,
            errno=0 if started else self.abi.host_errno(-ended),
            raw_output=output,
            errors=errors.decode(errors="replace"),
        )

    def _rest(self, descriptor: int, first: bytes, size: int) -> bytes:
        """Fetch what did not come with the status."""
        found = [first]
        while len(found[-1]) == size:
            size = READ_BYTES
            batch = Batch()
            buffer = batch.space(size)
            self._stale.remove(descriptor)
            batch.call("read", descriptor, buffer, size, out=(1, None), loop=True)
            found.append(self._transact(batch, what="a program's output").outputs[0])
            self._stale.append(descriptor)
        return b"".join(found)

    def succeed(
        self,
        *argv: str,
        stdin: bytes = b"",
        timeout_s: float | None = None,
        tty: bool = False,
    ) -> str:
        """Run a program that must exit with status 0.

        Args:
            *argv: As `run` takes it.
            stdin: As `run` takes it.
            timeout_s: As `run` takes it.
            tty: As `run` takes it.

        Returns:
            Its output.

        Raises:
            CommandFailed: With another status, and what it said; else as `run`.
        """
        result = self.run(*argv, stdin=stdin, timeout_s=timeout_s, tty=tty)
        if result.status != 0:
            raise CommandFailed(
                f"{self.label}: {' '.join(argv)} failed",
                self._about(result, "status 0"),
            )
        return result.output

    def fail(
        self,
        *argv: str,
        stdin: bytes = b"",
        timeout_s: float | None = None,
        tty: bool = False,
    ) -> CommandResult:
        """Run a program that must not exit with status 0.

        Args:
            *argv: As `run` takes it.
            stdin: As `run` takes it.
            timeout_s: As `run` takes it.
            tty: As `run` takes it.

        Returns:
            Its result.

        Raises:
            CommandFailed: With status 0; else as `run`.
        """
        result = self.run(*argv, stdin=stdin, timeout_s=timeout_s, tty=tty)
        if result.status == 0:
            raise CommandFailed(
                f"{self.label}: {' '.join(argv)} succeeded",
                self._about(result, "a status other than 0"),
            )
        return result

    def modprobe(self, *args: str, timeout_s: float | None = None) -> str:
        """Run modprobe, which must succeed: `vm.modprobe("nft_ct")`, `vm.modprobe("-r", …)`.

        Raises CommandFailed if it fails, with what it said.

        Args:
            *args: Of modprobe(8).
            timeout_s: As `run` takes it.

        Returns:
            Its output.
        """
        return self.succeed("modprobe", *args, timeout_s=timeout_s)

    @staticmethod
    def _about(result: CommandResult, expected: str) -> Evidence:
        return Evidence(expected=expected, seen=result.ended, excerpt=result.output + result.errors)
