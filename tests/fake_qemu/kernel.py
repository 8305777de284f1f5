"""What the fake guest's system calls do: files in a dictionary, and a log."""

from __future__ import annotations

import errno
import os
import struct
import time

from pytest_kernelvm.guest.protocol import LOG_BYTES, RECORD_BYTES

SYSCALL_NAMES = (
    "openat",
    "read",
    "write",
    "close",
    "lseek",
    "unlinkat",
    "mkdirat",
    "statx",
    "getdents64",
    "uname",
    "getpid",
    "ioctl",
    "syslog",
    "sync",
    "reboot",
    "mount",
    "umount2",
    "clock_gettime",
    "clock_settime",
    "clock_nanosleep",
    "kexec_file_load",
)
SYSCALLS = {name: number for number, name in enumerate(SYSCALL_NAMES, start=100)}
# These succeed and do nothing.
IDLE = (
    "ioctl",
    "syslog",
    "sync",
    "mount",
    "umount2",
    "clock_settime",
    "clock_nanosleep",
    "kexec_file_load",
)
LOG_DEVICE = "/dev/kmsg"
FIRST_DESCRIPTOR = 3
UTSNAME = ("Linux", "fake", "6.12.0", "#1", "aarch64", "(none)")


class Refused(Exception):
    """A system call that fails with an errno."""

    def __init__(self, number: int) -> None:
        super().__init__(os.strerror(number))
        self.number = number


class FakeKernel:
    """The state of the fake guest's kernel.

    files: contents by path; a directory is one whose path others begin with.
    """

    def __init__(self) -> None:
        self.files: dict[str, bytes] = {
            "/dev/urandom": b"",
            "/dev/null": b"",
            "/proc/version": b"Linux version 6.12.0\n",
            "/proc/modules": b"",
            "/proc/mounts": b"rootfs / rootfs rw 0 0\n",
            "/proc/meminfo": b"Slab:  1024 kB\n",
            "/proc/1/cmdline": b"/init\0",
        }
        self.records: list[tuple[int, bytes]] = []
        self.taint = 0
        # Errnos by the names of system calls that fail from now on.
        self.refused: dict[str, int] = {}
        self.log_errno = 0
        self._next_sequence = 0
        self._time_us = 0
        # How many records each reader of the log has read: the agent, and descriptors.
        self._agent_read = 0
        self._open: dict[int, tuple[str, int]] = {}

    def saved(self) -> dict[str, object]:
        """Return what a snapshot has of it, as JSON can hold it."""
        return {
            "files": {path: content.decode("latin-1") for path, content in self.files.items()},
            "records": [[sequence, raw.decode("latin-1")] for sequence, raw in self.records],
            "next": self._next_sequence,
            "time_us": self._time_us,
            "agent_read": self._agent_read,
            "refused": self.refused,
        }

    def restore(self, saved: dict[str, object]) -> None:
        """Be as a snapshot says."""
        files, records, refused = saved["files"], saved["records"], saved["refused"]
        assert isinstance(files, dict)
        assert isinstance(refused, dict)
        self.refused = refused
        assert isinstance(records, list)
        self.files = {path: content.encode("latin-1") for path, content in files.items()}
        self.records = [(sequence, raw.encode("latin-1")) for sequence, raw in records]
        self._next_sequence = int(str(saved["next"]))
        self._time_us = int(str(saved["time_us"]))
        self._agent_read = int(str(saved["agent_read"]))

    # The log

    def stamp(self) -> str:
        """Return the next time of the kernel's own clock, as consoles show it."""
        self._time_us += 1000
        return f"[{self._time_us / 1e6:12.6f}] "

    def log(self, text: str, *, facility: int = 0, level: int = 4) -> None:
        """Add a record, at the time of the last stamp."""
        raw = f"{facility << 3 | level},{self._next_sequence},{self._time_us},-;{text}\n".encode()
        self.records.append((self._next_sequence, raw))
        self._next_sequence += 1

    def lose_records(self, count: int) -> None:
        """Have records that nobody has read be written over."""
        self._next_sequence += count

    def read_log(self, mark: bytes, *, anew: bool) -> tuple[int, bytes]:
        """Return what the agent's step that reads the log returns, and its bytes."""
        if self.log_errno:
            return -self.log_errno, b""
        if mark:
            priority, _, text = mark[1:].partition(b">")
            self.log(text.decode().strip(), facility=int(priority) >> 3, level=int(priority) & 7)
        if anew:
            self._agent_read = 0
        out = b""
        while self._agent_read < len(self.records) and LOG_BYTES - len(out) >= RECORD_BYTES:
            out += self.records[self._agent_read][1]
            self._agent_read += 1
        return len(out), out

    # System calls

    def call(self, name: str, args: list[int], memory: bytearray) -> int:
        """Make a system call; return its result, minus an errno if it failed.

        args: pointers are offsets into the memory.
        """
        if name in self.refused:
            return -self.refused[name]
        if name in IDLE:
            return 0
        try:
            return int(getattr(self, f"_{name}")(args, memory))
        except Refused as refused:
            return -refused.number

    def content(self, descriptor: int) -> bytes:
        """Return the content of an open file."""
        return self.files[self._open[descriptor][0]]

    def append(self, descriptor: int, content: bytes) -> None:
        """Add to an open file, which may have no name any more."""
        path, _at = self._open[descriptor]
        self.files[path] = self.files.get(path, b"") + content

    def _openat(self, args: list[int], memory: bytearray) -> int:
        path, flags = text_at(memory, args[1]), args[2]
        if path != LOG_DEVICE and path not in self.files and not self._names(path):
            if not flags & os.O_CREAT:
                raise Refused(errno.ENOENT)
            self.files[path] = b""
        elif flags & os.O_TRUNC:
            self.files[path] = b""
        at = len(self.files[path]) if flags & os.O_APPEND else 0
        descriptor = max(self._open, default=FIRST_DESCRIPTOR - 1) + 1
        self._open[descriptor] = path, at
        return descriptor

    def _names(self, path: str) -> set[str]:
        """Return the names in a directory."""
        above = path.rstrip("/") + "/"
        return {
            file[len(above) :].partition("/")[0]
            for file in self.files
            if file.startswith(above) and len(file) > len(above)
        }

    def _read(self, args: list[int], memory: bytearray) -> int:
        path, at = self._of(args[0])
        if path == LOG_DEVICE:
            return self._read_log_device(args, memory)
        piece = self.files[path][at : at + args[2]]
        memory[args[1] : args[1] + len(piece)] = piece
        self._open[args[0]] = path, at + len(piece)
        return len(piece)

    def _read_log_device(self, args: list[int], memory: bytearray) -> int:
        path, at = self._open[args[0]]
        out = b""
        while at < len(self.records) and len(out) + len(self.records[at][1]) <= args[2]:
            out += self.records[at][1]
            at += 1
        self._open[args[0]] = path, at
        memory[args[1] : args[1] + len(out)] = out
        if not out:
            raise Refused(errno.EAGAIN)
        return len(out)

    def _of(self, descriptor: int) -> tuple[str, int]:
        if descriptor not in self._open:
            raise Refused(errno.EBADF)
        return self._open[descriptor]

    def _write(self, args: list[int], memory: bytearray) -> int:
        path, at = self._of(args[0])
        piece = bytes(memory[args[1] : args[1] + args[2]])
        old = self.files.get(path, b"")
        self.files[path] = old[:at] + piece + old[at + len(piece) :]
        self._open[args[0]] = path, at + len(piece)
        return len(piece)

    def _close(self, args: list[int], _memory: bytearray) -> int:
        self._of(args[0])
        del self._open[args[0]]
        return 0

    def _lseek(self, args: list[int], _memory: bytearray) -> int:
        path, _at = self._of(args[0])
        self._open[args[0]] = path, args[1]
        return args[1]

    def _unlinkat(self, args: list[int], memory: bytearray) -> int:
        path = text_at(memory, args[1])
        if path not in self.files:
            raise Refused(errno.ENOENT)
        content = self.files.pop(path)
        for descriptor, (name, at) in self._open.items():
            if name == path:
                # It has no name any more, and those who have it open have it alone.
                self._open[descriptor] = f"{name}\0{descriptor}", at
                self.files[f"{name}\0{descriptor}"] = content
        return 0

    def _mkdirat(self, args: list[int], memory: bytearray) -> int:
        self.files[f"{text_at(memory, args[1])}/"] = b""
        return 0

    def _statx(self, args: list[int], memory: bytearray) -> int:
        path = text_at(memory, args[1])
        is_directory = bool(self._names(path)) or f"{path}/" in self.files
        if path not in self.files and not is_directory:
            raise Refused(errno.ENOENT)
        mode = 0o040755 if is_directory else 0o100644
        size = len(self.files.get(path, b""))
        fields = struct.pack("<IIQIIIHHQQ", 0, 4096, 0, 1, 0, 0, mode, 0, 1, size)
        memory[args[4] : args[4] + len(fields)] = fields
        return 0

    def _getdents64(self, args: list[int], memory: bytearray) -> int:
        path, at = self._of(args[0])
        out = b""
        for name in () if at else sorted(self._names(path)):
            if "\0" not in name:
                length = 19 + len(name) + 1
                out += struct.pack("<QqHB", 1, 0, length, 8) + name.encode() + b"\0"
        self._open[args[0]] = path, 1
        memory[args[1] : args[1] + len(out)] = out
        return len(out)

    def _uname(self, args: list[int], memory: bytearray) -> int:
        raw = b"".join(field.encode().ljust(65, b"\0") for field in UTSNAME)
        memory[args[0] : args[0] + len(raw)] = raw
        return 0

    def _getpid(self, _args: list[int], _memory: bytearray) -> int:
        return 1

    def _clock_gettime(self, args: list[int], memory: bytearray) -> int:
        memory[args[1] : args[1] + 16] = struct.pack("<qq", *divmod(time.time_ns(), 10**9))
        return 0


def text_at(memory: bytearray, offset: int) -> str:
    """Return a zero-terminated text."""
    return bytes(memory[offset : memory.index(0, offset)]).decode("utf-8", "surrogateescape")
