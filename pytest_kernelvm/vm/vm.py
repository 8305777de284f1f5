"""A booted guest, as tests see it."""

from __future__ import annotations

import contextlib
import errno
import os
import signal
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import NoReturn

from pytest_kernelvm.errors import CommandFailed, Evidence, KernelvmError, SyscallFailed
from pytest_kernelvm.guest.programs import Abi
from pytest_kernelvm.guest.protocol import (
    CHUNK_BYTES,
    NOT_MADE,
    NR_RUN,
    Batch,
    Reply,
    zero_terminated,
)
from pytest_kernelvm.process import Deadline, quoted
from pytest_kernelvm.vm.channel import Channel, NoReply
from pytest_kernelvm.vm.console import Console
from pytest_kernelvm.vm.diagnosis import Symptoms, diagnose
from pytest_kernelvm.vm.launch import Launch, launch
from pytest_kernelvm.vm.qemu_argv import BY_HAND, Boot, qemu_argv
from pytest_kernelvm.vm.qmp import Qmp
from pytest_kernelvm.vm.results import (
    STATX_BYTES,
    UTSNAME_BYTES,
    CommandResult,
    FileStatus,
    KernelLog,
    LoadedModule,
    Uname,
    parse_directory,
    parse_kmsg,
    parse_proc_modules,
    parse_statx,
    parse_utsname,
)
from pytest_kernelvm.vm.transcript import HALTED, PANIC

AT_FDCWD = -100
AT_SYMLINK_NOFOLLOW = 0x100
STATX_BASIC_STATS = 0x7FF
SEEK_SET, SEEK_END = 0, 2

# include/uapi/linux/reboot.h
REBOOT_MAGIC = (0xFEE1DEAD, 672274793)
REBOOT_POWER_OFF = 0x4321FEDC
REBOOT_RESTART = 0x01234567

# Where a program without a slash in its name is looked for.
PROGRAM_DIRECTORIES = ("/sbin", "/bin", "/usr/sbin", "/usr/bin")

# How much of a program's output comes with its status; the rest is fetched behind it.
FIRST_OUTPUT_BYTES = 32 * 1024
FIRST_ERRORS_BYTES = 8 * 1024

# A panic's last lines arrive late; a killed program is reported within this.
GRACE_S = 1.0
# How long a guest may take to kill a program; a spinning one leaves it little time.
CANCEL_S = 5.0


@dataclass(frozen=True, kw_only=True, slots=True)
class Limits:
    """Seconds that a guest gets: launch to ready, and one command."""

    boot_s: float
    command_s: float


class Vm:
    """A guest under test; a context manager that boots it and leaves nothing behind.

    label: for messages. boot: what QEMU boots. abi: the numbers of the kernel's headers.
    directory: where its logs go. by_hand: the command that boots the same guest interactively.
    """

    def __init__(
        self,
        *,
        label: str,
        boot: Boot,
        abi: Abi,
        limits: Limits,
        directory: Path,
        by_hand: str,
    ) -> None:
        self.label = label
        self.boot = boot
        self.limits = limits
        self.by_hand = by_hand
        self.directory = directory
        self.ready_s = 0.0
        self._abi = abi
        self._stack = contextlib.ExitStack()
        self._stale: list[int] = []
        self._scanned = 0
        self._doomed = False
        self._ready = False
        self._launch: Launch
        self._channel: Channel
        self.console: Console
        self.qmp: Qmp

    # Life

    def __enter__(self) -> Vm:
        started = time.monotonic()
        self._launch = self._stack.enter_context(launch(self.boot, self.directory))
        streams = self._launch.streams
        self.console = Console(streams, self._launch.console_log, self.limits.command_s)
        self.qmp = Qmp(streams)
        self._channel = Channel(streams, self.boot.arch, self._abi.syscalls, self._gone)
        try:
            self._channel.wait_ready(Deadline(self.limits.boot_s))
        except NoReply:
            error = self._diagnosis(self.limits.boot_s, "the agent to answer")
            self._stack.close()
            raise error from None
        except BaseException:
            self._stack.close()
            raise
        self._ready = True
        self.ready_s = time.monotonic() - started
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        value: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._stack.close()

    @property
    def pid(self) -> int:
        """QEMU's process."""
        return self._launch.process.pid

    @property
    def logs(self) -> tuple[Path, ...]:
        """The console's and QEMU's log."""
        return self._launch.console_log, self._launch.qemu_log

    @property
    def argv_by_hand(self) -> str:
        """The QEMU command that boots the same with its console on the terminal."""
        return quoted(qemu_argv(self.boot, BY_HAND))

    def _gone(self) -> bool:
        """Whether the guest will never answer again; called with the streams' lock held."""
        streams = self._launch.streams
        if not self._doomed and len(streams.console_text) > self._scanned:
            fresh = streams.console_text[max(0, self._scanned - 200) :].decode(errors="replace")
            self._scanned = len(streams.console_text)
            self._doomed = bool(PANIC.search(fresh) or HALTED.search(fresh))
        return self._doomed or streams.console_ended

    def _diagnosis(self, waited_s: float, for_what: str) -> KernelvmError:
        streams = self._launch.streams
        if self._doomed or streams.console_ended:
            streams.wait_for(lambda: streams.console_ended or None, Deadline(GRACE_S))
        status = self._launch.process.wait(GRACE_S) if streams.console_ended else None
        return diagnose(
            Symptoms(
                label=self.label,
                ready=self._ready,
                console=self.console.text,
                console_log=self._launch.console_log,
                qemu_log=self._launch.qemu_log,
                status=status,
                waited_s=waited_s,
                for_what=for_what,
                damaged_frames=streams.damaged_frames,
                by_hand=self.by_hand,
                argv=self.argv_by_hand,
            )
        )

    # Requests

    def transact(self, batch: Batch, timeout_s: float | None = None, what: str = "") -> Reply:
        """Have the agent make a batch of system calls.

        timeout_s: by default the cell's timeout of a command. what: the request in words.
        Raises GuestPanic, GuestDied or GuestHang, with evidence, if no reply comes.
        """
        limit_s = self.limits.command_s if timeout_s is None else timeout_s
        for descriptor in self._stale:
            batch.call("close", descriptor, always=True)
        self._stale.clear()
        try:
            return self._channel.transact(batch, Deadline(limit_s))
        except NoReply:
            raise self._diagnosis(limit_s, what or "a system call") from None

    def ping(self, timeout_s: float | None = None) -> None:
        """Ask the agent for a sign of life. Raises GuestHang, GuestDied or GuestPanic."""
        self.transact(Batch(), timeout_s, what="a sign of life")

    def syscall(self, name: str, *args: int | str | bytes) -> int:
        """Make one system call in the guest, as PID 1, and return its result.

        args: numbers, or what is to be pointed at: bytes as they are, str zero-terminated.
        Descriptors that it opens stay open. Raises SyscallFailed with the guest's errno.
        """
        batch = Batch()
        placed = [
            arg
            if isinstance(arg, int)
            else (batch.text(arg) if isinstance(arg, str) else batch.data(arg))
            for arg in args
        ]
        batch.call(name, *placed)
        shown = ", ".join(repr(arg) for arg in args)
        result = self.transact(batch, what=f"{name}({shown})").results[0]
        if result < 0:
            self._syscall_failed(f"{name}({shown})", -result)
        return result

    def _syscall_failed(self, what: str, guest_number: int) -> NoReturn:
        number = self._abi.host_errno(guest_number)
        raise SyscallFailed(
            f"{what}: {os.strerror(number)}",
            Evidence(seen=errno.errorcode.get(number, str(number))),
            errno=number,
        )

    def _succeed(self, batch: Batch, what: str) -> Reply:
        """Transact; the first step that failed is an error about `what`."""
        reply = self.transact(batch, what=what)
        for result in reply.results:
            if result < 0 and result != NOT_MADE:
                self._syscall_failed(what, -result)
        return reply

    # Files

    def read_bytes(self, path: str) -> bytes:
        """Return a file's bytes. Raises SyscallFailed (an OSError) if it can't be read."""
        return b"".join(self._chunks(path, os.O_RDONLY, "read", until_empty=False))

    def read(self, path: str) -> str:
        """Return a file's text, undecodable bytes as surrogates."""
        return self.read_bytes(path).decode("utf-8", "surrogateescape")

    def _chunks(self, path: str, flags: int, call: str, *, until_empty: bool) -> Iterator[bytes]:
        """Yield what read or getdents64 gives of a file until there is no more.

        until_empty: whether only an empty chunk is the end: devices end a read early.
        """
        batch = Batch()
        where = batch.text(path)
        buffer = batch.space(CHUNK_BYTES)
        opened = batch.call("openat", AT_FDCWD, where, self._abi.guest_open_flags(flags), 0)
        batch.call(call, opened, buffer, CHUNK_BYTES, out=(1, None), loop=True)
        what = f"{call} {path}"
        reply = self.transact(batch, what=what)
        if reply.results[0] < 0:
            self._syscall_failed(f"open {path}", -reply.results[0])
        descriptor, step = reply.results[0], 1
        try:
            while True:
                step = 1 if len(batch.steps) > 1 and batch.steps[0].call == "openat" else 0
                result, data = reply.results[step], reply.outputs[step]
                if result < 0 and not (
                    until_empty and self._abi.host_errno(-result) == errno.EAGAIN
                ):
                    self._syscall_failed(what, -result)
                yield data
                if not data or (len(data) < CHUNK_BYTES and not until_empty):
                    return
                batch = Batch()
                buffer = batch.space(CHUNK_BYTES)
                batch.call(call, descriptor, buffer, CHUNK_BYTES, out=(1, None), loop=True)
                reply, step = self.transact(batch, what=what), 0
        finally:
            self._stale.append(descriptor)

    def write(self, path: str, content: str | bytes, *, append: bool = False) -> None:
        """Write a file, made if need be; up to 48 KiB are one write(2), as sysfs wants it.

        Raises SyscallFailed (an OSError) with the guest's errno.
        """
        raw = content.encode("utf-8", "surrogateescape") if isinstance(content, str) else content
        flags = os.O_WRONLY | os.O_CREAT | (os.O_APPEND if append else os.O_TRUNC)
        for at in range(0, max(1, len(raw)), CHUNK_BYTES):
            chunk = raw[at : at + CHUNK_BYTES]
            batch = Batch()
            where = batch.text(path)
            data = batch.data(chunk)
            opened = batch.call("openat", AT_FDCWD, where, self._abi.guest_open_flags(flags), 0o644)
            batch.call("write", opened, data, len(chunk), loop=bool(chunk))
            batch.call("close", opened, always=True)
            reply = self._succeed_upto(batch, 2, f"write {path}")
            if reply.results[1] < len(chunk):
                self._syscall_failed(f"write {path}", errno.ENOSPC)
            flags = os.O_WRONLY | os.O_APPEND

    def _succeed_upto(self, batch: Batch, count: int, what: str) -> Reply:
        reply = self.transact(batch, what=what)
        for result in reply.results[:count]:
            if result < 0 and result != NOT_MADE:
                self._syscall_failed(what, -result)
        return reply

    def list(self, path: str) -> tuple[str, ...]:
        """Return the sorted names in a directory."""
        order = self.boot.arch.endianness
        flags = os.O_RDONLY | os.O_DIRECTORY
        names: list[str] = []
        for raw in self._chunks(path, flags, "getdents64", until_empty=True):
            names += parse_directory(raw, order)
        return tuple(sorted(names))

    def stat(self, path: str) -> FileStatus:
        """Return a file's status; links are not followed."""
        batch = Batch()
        where = batch.text(path)
        buffer = batch.space(STATX_BYTES)
        batch.call(
            "statx",
            AT_FDCWD,
            where,
            AT_SYMLINK_NOFOLLOW,
            STATX_BASIC_STATS,
            buffer,
            out=(4, STATX_BYTES),
        )
        reply = self._succeed(batch, f"stat {path}")
        return parse_statx(reply.outputs[0], self.boot.arch.endianness)

    def exists(self, path: str) -> bool:
        """Return whether there is a file; a dangling link counts."""
        try:
            self.stat(path)
        except SyscallFailed as error:
            if error.errno in (errno.ENOENT, errno.ENOTDIR):
                return False
            raise
        return True

    def mkdir(self, path: str, mode: int = 0o755) -> None:
        """Make a directory."""
        self.syscall("mkdirat", AT_FDCWD, path, mode)

    def unlink(self, path: str) -> None:
        """Remove a file."""
        self.syscall("unlinkat", AT_FDCWD, path, 0)

    def mount(self, source: str, where: str, kind: str, *, flags: int = 0, data: str = "") -> None:
        """Mount a file system, as mount(2)."""
        self.syscall("mount", source, where, kind, flags, data)

    # Programs

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
        fresh = self._abi.guest_open_flags(os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC)
        existing = self._abi.guest_open_flags(os.O_RDONLY | os.O_CLOEXEC)
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
            errno=0 if started else self._abi.host_errno(-ended),
            raw_output=output,
            errors=errors.decode(errors="replace"),
        )

    def _rest(self, descriptor: int, first: bytes, size: int) -> bytes:
        """Fetch what did not come with the status."""
        found = [first]
        while len(found[-1]) == size:
            size = CHUNK_BYTES
            batch = Batch()
            buffer = batch.space(size)
            self._stale.remove(descriptor)
            batch.call("read", descriptor, buffer, size, out=(1, None), loop=True)
            found.append(self.transact(batch, what="a program's output").outputs[0])
            self._stale.append(descriptor)
        return b"".join(found)

    def _transact_program(self, batch: Batch, what: str, timeout_s: float | None) -> Reply:
        limit_s = self.limits.command_s if timeout_s is None else timeout_s
        for descriptor in self._stale:
            batch.call("close", descriptor, always=True)
        self._stale.clear()
        deadline = Deadline(limit_s)
        try:
            return self._channel.transact(batch, deadline)
        except NoReply:
            pass
        if not self._is_gone():
            self._cancel(what, limit_s)
        raise self._diagnosis(limit_s, what)

    def _is_gone(self) -> bool:
        return bool(self._launch.streams.wait_for(self._gone, Deadline(0)))

    def _cancel(self, what: str, limit_s: float) -> None:
        """Have the agent kill the program; return only if the guest does not even do that."""
        with contextlib.suppress(NoReply):
            self._channel.cancel(Deadline(CANCEL_S))
            raise CommandFailed(
                f"{self.label}: {what} did not end within {limit_s:g} s and was killed",
                Evidence(next_step="give it a longer timeout_s"),
            )

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

    # The kernel

    @property
    def modules(self) -> tuple[LoadedModule, ...]:
        """What /proc/modules says, latest loaded first."""
        return parse_proc_modules(self.read("/proc/modules"))

    @property
    def dmesg(self) -> KernelLog:
        """The kernel's log, record by record."""
        flags = os.O_RDONLY | os.O_NONBLOCK
        raw = b"".join(self._chunks("/dev/kmsg", flags, "read", until_empty=True))
        return parse_kmsg(raw.decode("utf-8", "replace"))

    @property
    def cmdline(self) -> tuple[str, ...]:
        """The words of /proc/cmdline."""
        return tuple(self.read("/proc/cmdline").split())

    @property
    def uname(self) -> Uname:
        """What uname(2) says."""
        batch = Batch()
        buffer = batch.space(UTSNAME_BYTES)
        batch.call("uname", buffer, out=(0, UTSNAME_BYTES))
        return parse_utsname(self._succeed(batch, "uname").outputs[0])

    # Ends

    def power_off(self, timeout_s: float = 20.0) -> None:
        """Switch the machine off; QEMU ends with status 0."""
        self._reboot(REBOOT_POWER_OFF, timeout_s, "power off")

    def reboot(self, timeout_s: float = 20.0) -> None:
        """Restart the machine; QEMU runs with -no-reboot and ends with status 0."""
        self._reboot(REBOOT_RESTART, timeout_s, "reboot")

    def _reboot(self, command: int, timeout_s: float, what: str) -> None:
        batch = Batch()
        batch.call("sync")
        batch.call("reboot", *REBOOT_MAGIC, command, 0)
        streams = self._launch.streams
        with contextlib.suppress(NoReply):
            reply = self._channel.transact(batch, Deadline(timeout_s))
            self._syscall_failed(what, -reply.results[1])
        ended = streams.wait_for(lambda: streams.console_ended or None, Deadline(timeout_s))
        status = self._launch.process.wait(GRACE_S) if ended else None
        if status != 0:
            raise self._diagnosis(timeout_s, what)

    def wait_end(self, timeout_s: float) -> int | None:
        """Wait for QEMU's end; return its status (minus the signal), None if it goes on."""
        return self._launch.process.wait(timeout_s)

    def kill(self, number: int = signal.SIGKILL) -> None:
        """Send QEMU a signal."""
        os.kill(self.pid, number)

    @staticmethod
    def _about(result: CommandResult, expected: str) -> Evidence:
        return Evidence(expected=expected, seen=result.ended, excerpt=result.output + result.errors)
