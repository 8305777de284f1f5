"""Programs that run in the guest."""

from __future__ import annotations

import abc
import errno
import os

from pytest_kernelvm.errors import CommandFailed, Evidence
from pytest_kernelvm.guest.protocol import NR_RUN, READ_BYTES, Batch, Reply, zero_terminated
from pytest_kernelvm.process import quoted
from pytest_kernelvm.vm.files import AT_FDCWD, Files
from pytest_kernelvm.vm.results import CommandResult

SEEK_SET = 0

# Where a program without a slash in its name is looked for.
PROGRAM_DIRECTORIES = ("/sbin", "/bin", "/usr/sbin", "/usr/bin")

# How much of a program's output comes with its status; the rest is fetched behind it.
FIRST_OUTPUT_BYTES = 32 * 1024
FIRST_ERRORS_BYTES = 8 * 1024


class Programs(Files):
    """Running programs and judging how they end. label: the guest's, for messages."""

    label: str

    def run(self, *argv: str, stdin: bytes = b"", timeout_s: float | None = None) -> CommandResult:
        """Run a program to its end and return its status and output, whatever they are.

        argv: a path or a name looked for in /sbin, /bin, /usr/sbin and /usr/bin.
        Raises CommandFailed if it does not end in time; it is killed then.
        """
        if not argv:
            raise TypeError("run() wants a program")
        name = argv[0]
        paths = [name] if "/" in name else [f"{where}/{name}" for where in PROGRAM_DIRECTORIES]
        for path in paths:
            result = self._run_path(path, argv, stdin, timeout_s)
            if result.errno != errno.ENOENT:
                break
        return result

    def _run_path(
        self, path: str, argv: tuple[str, ...], stdin: bytes, timeout_s: float | None
    ) -> CommandResult:
        batch = Batch()
        program = batch.text(path)
        words = batch.data(zero_terminated(argv))
        names = ("/.input" if stdin else "/dev/null", "/.output", "/.errors")
        files = [batch.text(name) for name in names]
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
        ran = batch.call(NR_RUN, program, words, len(argv), *opened)
        reads = []
        for descriptor, buffer, size in zip(
            opened[1:], buffers, (FIRST_OUTPUT_BYTES, FIRST_ERRORS_BYTES), strict=True
        ):
            batch.call("lseek", descriptor, 0, SEEK_SET, always=True)
            reads.append(
                batch.call("read", descriptor, buffer, size, out=(1, None), always=True, loop=True)
            )
        reply = self._transact_program(batch, quoted(argv), timeout_s)
        for step in opened:
            if reply.results[step.step] < 0:
                self._syscall_failed(f"run {argv[0]}", -reply.results[step.step])
        descriptors = [reply.results[step.step] for step in opened]
        self._stale += descriptors
        streams = [
            self._rest(descriptor, reply.outputs[read.step], size)
            for descriptor, read, size in zip(
                descriptors[1:], reads, (FIRST_OUTPUT_BYTES, FIRST_ERRORS_BYTES), strict=True
            )
        ]
        return self._command_result(argv, reply.results[ran.step], *streams)

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

    def succeed(self, *argv: str, stdin: bytes = b"", timeout_s: float | None = None) -> str:
        """Run a program that must exit with status 0; return its output.

        Raises CommandFailed with its status and what it said.
        """
        result = self.run(*argv, stdin=stdin, timeout_s=timeout_s)
        if result.status != 0:
            raise CommandFailed(
                f"{self.label}: {' '.join(argv)} failed",
                self._about(result, "status 0"),
            )
        return result.output

    def fail(self, *argv: str, stdin: bytes = b"", timeout_s: float | None = None) -> CommandResult:
        """Run a program that must not exit with status 0; return its result."""
        result = self.run(*argv, stdin=stdin, timeout_s=timeout_s)
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
