"""The guest's files."""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator

from pytest_kernelvm.errors import SyscallFailed
from pytest_kernelvm.guest.protocol import CHUNK_BYTES, READ_BYTES, Batch
from pytest_kernelvm.vm.agent.requests import Requests
from pytest_kernelvm.vm.agent.results import STATX_BYTES, FileStatus, parse_directory, parse_statx

AT_FDCWD = -100
AT_SYMLINK_NOFOLLOW = 0x100
STATX_BASIC_STATS = 0x7FF


class Files(Requests):
    """Reading, writing and looking at the guest's files."""

    def read_bytes(self, path: str) -> bytes:
        """Return a file's bytes. Raises SyscallFailed (an OSError) if it can't be read."""
        return b"".join(self._chunks(path, os.O_RDONLY, "read", until_empty=False))

    def read(self, path: str) -> str:
        """Return a file's text, undecodable bytes as surrogates."""
        return self.read_bytes(path).decode("utf-8", "surrogateescape")

    def _chunks(
        self, path: str, flags: int, call: str, *, until_empty: bool, size: int = READ_BYTES
    ) -> Iterator[bytes]:
        """Yield what read or getdents64 gives of a file until there is no more.

        until_empty: whether only an empty chunk is the end: devices end a read early.
        size: of a chunk, in bytes.
        """
        batch = Batch()
        where = batch.text(path)
        buffer = batch.space(size)
        opened = batch.call("openat", AT_FDCWD, where, self.abi.guest_open_flags(flags), 0)
        batch.call(call, opened, buffer, size, out=(1, None), loop=True)
        what = f"{call} {path}"
        reply = self._transact(batch, what=what)
        if reply.results[0] < 0:
            self._syscall_failed(f"open {path}", -reply.results[0])
        descriptor, step = reply.results[0], 1
        try:
            while True:
                step = 1 if len(batch.steps) > 1 and batch.steps[0].call == "openat" else 0
                result, data = reply.results[step], reply.outputs[step]
                if result < 0 and not (
                    until_empty and self.abi.host_errno(-result) == errno.EAGAIN
                ):
                    self._syscall_failed(what, -result)
                yield data
                if not data or (len(data) < size and not until_empty):
                    return
                batch = Batch()
                buffer = batch.space(size)
                batch.call(call, descriptor, buffer, size, out=(1, None), loop=True)
                reply, step = self._transact(batch, what=what), 0
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
            opened = batch.call("openat", AT_FDCWD, where, self.abi.guest_open_flags(flags), 0o644)
            batch.call("write", opened, data, len(chunk), loop=bool(chunk))
            batch.call("close", opened, always=True)
            reply = self._succeed(batch, f"write {path}", steps=2)
            if reply.results[1] < len(chunk):
                self._syscall_failed(f"write {path}", errno.ENOSPC)
            flags = os.O_WRONLY | os.O_APPEND

    def list(self, path: str) -> tuple[str, ...]:
        """Return the sorted names in a directory."""
        order = self._byteorder
        flags = os.O_RDONLY | os.O_DIRECTORY
        names: list[str] = []
        for raw in self._chunks(path, flags, "getdents64", until_empty=True):
            names += parse_directory(raw, order)
        return tuple(sorted(names))

    def stat(self, path: str, *, follow: bool = False) -> FileStatus:
        """Return a file's status. follow: that of what a link leads to."""
        batch = Batch()
        where = batch.text(path)
        buffer = batch.space(STATX_BYTES)
        batch.call(
            "statx",
            AT_FDCWD,
            where,
            0 if follow else AT_SYMLINK_NOFOLLOW,
            STATX_BASIC_STATS,
            buffer,
            out=(4, STATX_BYTES),
        )
        reply = self._succeed(batch, f"stat {path}")
        return parse_statx(reply.outputs[0], self._byteorder)

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
