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
        """Return a file's bytes.

        Raises SyscallFailed: an OSError, if it cannot be opened or read.

        Args:
            path: In the guest.

        Returns:
            All that read(2) gives.
        """
        return b"".join(self._chunks(path, os.O_RDONLY, "read", until_empty=False))

    def read(self, path: str) -> str:
        """Return a file's text; bytes that are no UTF-8 are surrogates (PEP 383).

        Raises SyscallFailed: an OSError, if it cannot be opened or read.

        Args:
            path: In the guest.

        Returns:
            The text.
        """
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
        """Fill a file, which is made if need be.

        Up to 48 KiB are one write(2), as files in sysfs want it.

        Raises SyscallFailed: an OSError, with the guest's errno.

        Args:
            path: In the guest.
            content: Text is written as UTF-8 with surrogates as raw bytes.
            append: Whether it is added at the end, instead of being all that the file has.
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
        """Give the sorted names in a directory.

        Raises SyscallFailed: an OSError, if it cannot be read.

        Args:
            path: Of the directory, in the guest.

        Returns:
            The names, without `.` and `..`.
        """
        order = self._byteorder
        flags = os.O_RDONLY | os.O_DIRECTORY
        names: list[str] = []
        for raw in self._chunks(path, flags, "getdents64", until_empty=True):
            names += parse_directory(raw, order)
        return tuple(sorted(names))

    def stat(self, path: str, *, follow: bool = False) -> FileStatus:
        """Give a file's status, by statx(2).

        Raises SyscallFailed: an OSError, if there is no such file.

        Args:
            path: In the guest.
            follow: Whether it is the status of what a link leads to, not of the link.

        Returns:
            The status.
        """
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
        """Return whether there is a file; a link that leads nowhere counts.

        Args:
            path: In the guest.

        Returns:
            False if there is no such name.

        Raises:
            SyscallFailed: An OSError, if that cannot be found out.
        """
        try:
            self.stat(path)
        except SyscallFailed as error:
            if error.errno in (errno.ENOENT, errno.ENOTDIR):
                return False
            raise
        return True

    def mkdir(self, path: str, mode: int = 0o755) -> None:
        """Make a directory.

        Raises SyscallFailed: an OSError, if it cannot be made.

        Args:
            path: In the guest.
            mode: Its permissions.
        """
        self.syscall("mkdirat", AT_FDCWD, path, mode)

    def unlink(self, path: str) -> None:
        """Remove a file.

        Raises SyscallFailed: an OSError, if it cannot be removed.

        Args:
            path: In the guest.
        """
        self.syscall("unlinkat", AT_FDCWD, path, 0)

    def mount(self, source: str, where: str, kind: str, *, flags: int = 0, data: str = "") -> None:
        """Attach a file system to a directory.

        Raises SyscallFailed: an OSError, if the kernel refuses.

        Args:
            source: The device, or any word where there is none.
            where: The directory.
            kind: The file system's type.
            flags: MS_* of mount(2).
            data: Options for the file system.
        """
        self.syscall("mount", source, where, kind, flags, data)
