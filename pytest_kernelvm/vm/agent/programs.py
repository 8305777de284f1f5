"""Programs that run in the guest."""

from __future__ import annotations

import abc
import errno
import os
import struct
from pathlib import Path

from pytest_kernelvm.arch.base import struct_order
from pytest_kernelvm.errors import CommandFailed, Evidence, HarnessError
from pytest_kernelvm.guest.protocol import NR_RUN, READ_BYTES, Batch, Reply, zero_terminated
from pytest_kernelvm.process import quoted
from pytest_kernelvm.vm.agent.files import AT_FDCWD, Files
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

# How much of a program's output comes with its status; the rest is fetched behind it.
FIRST_OUTPUT_BYTES = 32 * 1024
FIRST_ERRORS_BYTES = 8 * 1024


class Programs(Files):
    """Running programs and judging how they end.

    label: the guest's, for messages. terminal: what gives a program a terminal, None without.
    """

    label: str
    terminal: Path | None = None

    def run(
        self,
        *argv: str,
        stdin: bytes = b"",
        timeout_s: float | None = None,
        tty: bool = False,
    ) -> CommandResult:
        """Run a program to its end and return its status and output, whatever they are.

        argv: a path or a name looked for in /sbin, /bin, /usr/sbin and /usr/bin.
        tty: whether it has a pseudo terminal of 24 lines of 80 columns as input, output, errors
        and controlling terminal, instead of /dev/null and files. `stdin` is typed there, and the
        end of input behind it if there is any; output and errors are one. Nothing is echoed.
        Raises CommandFailed if it does not end in time; it is killed then. HarnessError, with
        `tty`, where the kernel has no pseudo terminals.
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
        assert self.terminal, "this guest's programs were compiled without one"
        words = (TERMINAL, path, *argv)
        content = self.terminal.read_bytes()
        try:
            ended, output, report = self._execute(TERMINAL, words, stdin, timeout_s, content)
        except CommandFailed:
            # It was killed before it could put things in order.
            if TERMINALS in self.read("/proc/mounts"):
                self.syscall("umount2", "/dev/pts", MNT_DETACH)
                self.syscall("unlinkat", AT_FDCWD, "/dev/pts", AT_REMOVEDIR)
            raise
        try:
            numbers = struct.unpack(f"{struct_order(self._byteorder)}iii", report)
        except struct.error:
            raise HarnessError(
                f"{self.label}: what gives {argv[0]} a terminal did not say how it ended",
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
        """Run a program; return the agent's word on its end, and what it wrote.

        content: the program itself, which lies at its path for so long; none if it is there.
        """
        batch = Batch()
        program = batch.text(path)
        words = batch.data(zero_terminated(argv))
        names = ("/.input" if stdin else "/dev/null", "/.output", "/.errors")
        files = [batch.text(name) for name in names]
        bytes_of_it = batch.data(content)
        buffers = batch.space(FIRST_OUTPUT_BYTES), batch.space(FIRST_ERRORS_BYTES)
        fresh = self.abi.guest_open_flags(os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC)
        existing = self.abi.guest_open_flags(os.O_RDONLY | os.O_CLOEXEC)
        opened = []
        if stdin:
            self.write(names[0], stdin)
        for name, file in zip(names, files, strict=True):
            flags = fresh if file in files[1:] else existing
            opened.append(batch.call("openat", AT_FDCWD, file, flags, 0o600))
            if name != "/dev/null":
                batch.call("unlinkat", AT_FDCWD, file, 0)
        if content:
            put = batch.call("openat", AT_FDCWD, program, fresh, 0o700)
            batch.call("write", put, bytes_of_it, len(content), loop=True)
            batch.call("close", put)
        ran = batch.call(NR_RUN, program, words, len(argv), *opened)
        if content:
            batch.call("unlinkat", AT_FDCWD, program, 0, always=True)
        reads = []
        for descriptor, buffer, size in zip(
            opened[1:], buffers, (FIRST_OUTPUT_BYTES, FIRST_ERRORS_BYTES), strict=True
        ):
            batch.call("lseek", descriptor, 0, SEEK_SET, always=True)
            reads.append(
                batch.call("read", descriptor, buffer, size, out=(1, None), always=True, loop=True)
            )
        shown = argv[2:] if content else argv
        reply = self._transact_program(batch, quoted(shown), timeout_s)
        for step in opened:
            if reply.results[step.step] < 0:
                self._syscall_failed(f"run {shown[0]}", -reply.results[step.step])
        descriptors = [reply.results[step.step] for step in opened]
        self._stale += descriptors
        streams = [
            self._rest(descriptor, reply.outputs[read.step], size)
            for descriptor, read, size in zip(
                descriptors[1:], reads, (FIRST_OUTPUT_BYTES, FIRST_ERRORS_BYTES), strict=True
            )
        ]
        return reply.results[ran.step], streams[0], streams[1]

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
            found.append(self.transact(batch, what="a program's output").outputs[0])
            self._stale.append(descriptor)
        return b"".join(found)

    @abc.abstractmethod
    def _transact_program(self, batch: Batch, what: str, timeout_s: float | None) -> Reply:
        """Transact a batch that runs a program; have that killed when its time is up."""

    def succeed(
        self,
        *argv: str,
        stdin: bytes = b"",
        timeout_s: float | None = None,
        tty: bool = False,
    ) -> str:
        """Run a program that must exit with status 0; return its output.

        Raises CommandFailed with its status and what it said.
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
        """Run a program that must not exit with status 0; return its result."""
        result = self.run(*argv, stdin=stdin, timeout_s=timeout_s, tty=tty)
        if result.status == 0:
            raise CommandFailed(
                f"{self.label}: {' '.join(argv)} succeeded",
                self._about(result, "a status other than 0"),
            )
        return result

    def modprobe(self, *args: str, timeout_s: float | None = None) -> str:
        """Run modprobe, which must succeed: `vm.modprobe("nft_ct")`, `vm.modprobe("-r", …)`."""
        return self.succeed("modprobe", *args, timeout_s=timeout_s)

    @staticmethod
    def _about(result: CommandResult, expected: str) -> Evidence:
        return Evidence(expected=expected, seen=result.ended, excerpt=result.output + result.errors)
