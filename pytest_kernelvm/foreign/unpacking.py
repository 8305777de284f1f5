"""Archives of others unpacked by an allow-list: files, directories, and links that stay inside.

All formats come here as a tar stream, and what is written is written by us: no program is trusted
to leave out what it should not make. Nothing else is created, not for a moment: no device, no
FIFO, nothing outside of the directory. Symbolic links come last, so that nothing can be written
through one.
"""

from __future__ import annotations

import errno
import gzip
import os
import stat
import time
import zlib
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import BinaryIO, cast

from pytest_kernelvm.errors import BadInput, Evidence, HarnessError
from pytest_kernelvm.foreign.archive_rules import Names, Totals, Way, refuse, shown
from pytest_kernelvm.foreign.links import refuse_links_out
from pytest_kernelvm.foreign.tar_members import Damaged, Kind, Member, TarMembers
from pytest_kernelvm.process import piped

_CHUNK_BYTES = 1 << 20
# What the names in an archive can make the system say; anything else is the disk's.
_NAMES_FAULT = (errno.ENAMETOOLONG, errno.ELOOP, errno.ENOTDIR, errno.EISDIR, errno.EINVAL)


def _silent(_written_bytes: int) -> None:
    """Show nothing."""


def unpack(stream: BinaryIO, root: Path, way: Way, show: Callable[[int], None] = _silent) -> None:
    """Unpack a tar stream into a directory that only we write to, made if need be.

    show: told how many bytes have been written, now and then.
    Raises BadInput for a damaged archive or one that holds what is not allowed; the directory is of
    no use then.
    """
    try:
        _write(stream, root, way, show)
    except Damaged as error:
        raise _damaged(way, str(error)) from None


def unpack_output(
    argv: Sequence[str | Path],
    root: Path,
    way: Way,
    show: Callable[[int], None] = _silent,
    *,
    env: Mapping[str, str] | None = None,
    timeout_s: float,
) -> None:
    """Unpack the tar stream that a program writes, as `unpack` does.

    env: variables added to ours. timeout_s: seconds until it is killed.
    Raises ToolMissing if there is no such program.
    """
    damage = ""
    try:
        with piped(argv, env=env, timeout_s=timeout_s) as stream:
            try:
                _write(stream, root, way, show)
            except Damaged as error:
                damage = str(error)
    except HarnessError as error:
        raise _damaged(way, error.evidence.excerpt or damage or error.summary) from None
    if damage:
        raise _damaged(way, damage)


def unpack_gzip(archive: Path, root: Path, way: Way) -> None:
    """Unpack a .tar.gz as `unpack` does, without any program."""
    try:
        with gzip.open(archive) as stream:
            unpack(cast(BinaryIO, stream), root, way)
    except (gzip.BadGzipFile, zlib.error, EOFError) as error:
        raise _damaged(way, str(error)) from None


def _damaged(way: Way, said: str) -> BadInput:
    return BadInput(f"{way.what} cannot be unpacked", Evidence(excerpt=said, where=(way.what,)))


def _write(stream: BinaryIO, root: Path, way: Way, show: Callable[[int], None]) -> None:
    root.mkdir(exist_ok=True)
    try:
        _Unpacking(stream, root, way, show).all()
    except OSError as error:
        if error.errno not in _NAMES_FAULT:
            raise
        raise BadInput(
            f"{way.what} cannot be unpacked: {error.strerror}",
            Evidence(seen=repr(error.filename)[:200]),
        ) from None
    refuse_links_out(root, way.what, way.rules)


class _Unpacking:
    """One archive on its way into a directory."""

    def __init__(self, stream: BinaryIO, root: Path, way: Way, show: Callable[[int], None]) -> None:
        self._members = TarMembers(stream)
        self._root = os.fsencode(root)
        self._way = way
        self._show = show
        self._now_ns = time.time_ns()
        self._umask = _umask()
        self._totals = Totals(self._members, way)
        self._names = Names(way)
        self._shown_bytes = 0
        self._directories = {b""}
        self._files: set[bytes] = set()
        self._symlinks: dict[bytes, Member] = {}
        self._stamps: dict[bytes, Member] = {}

    def all(self) -> None:
        """Write everything; times of directories and links come when nothing changes them."""
        for member in self._members:
            self._totals.add(member)
            name = self._names.path(member.name, member)
            if name:
                self._put(member, name)
        if not self._totals:
            raise Damaged("it has no members")
        for name, member in self._symlinks.items():
            self._put_symlink(member, name)
        for name, member in reversed(self._stamps.items()):
            path = self._path(name)
            os.chmod(path, self._permissions(member, 0o700) & ~self._umask)
            os.utime(path, ns=self._times(member))

    def _path(self, name: bytes) -> bytes:
        return self._root + b"/" + name

    def _put(self, member: Member, name: bytes) -> None:
        if member.kind is Kind.DIRECTORY:
            self._make_directory(member, name, self._permissions(member, 0o700))
            self._stamps[name] = member
            return
        if name in self._files or name in self._symlinks or name in self._directories:
            refuse(self._way, member, "a name that is in it twice")
        self._make_parents(member, name)
        if member.kind is Kind.SYMLINK:
            self._symlinks[name] = member
            return
        if member.kind is Kind.HARD_LINK:
            aim = self._names.path(member.target, member)
            if aim not in self._files:
                refuse(
                    self._way, member, f"a hard link to {shown(member.target)}, no file before it"
                )
            self._make_room(member, name)
            os.link(self._path(aim), self._path(name), follow_symlinks=False)
        else:
            self._put_file(member, name)
        self._files.add(name)

    def _make_parents(self, member: Member, name: bytes) -> None:
        self._make_directory(member, name.rpartition(b"/")[0], 0o777)

    def _make_directory(self, member: Member, name: bytes, mode: int) -> None:
        if name in self._directories:
            return
        self._make_directory(member, name.rpartition(b"/")[0], 0o777)
        path = self._path(name)
        try:
            os.mkdir(path, mode)
        except FileExistsError:
            if not stat.S_ISDIR(os.lstat(path).st_mode):
                refuse(self._way, member, f"{shown(name)} is no directory")
        if name in self._symlinks:
            refuse(self._way, member, f"{shown(name)} is no directory")
        self._directories.add(name)

    def _make_room(self, member: Member, name: bytes) -> None:
        """Remove what an earlier package has put there; this archive has nothing there yet."""
        path = self._path(name)
        try:
            mode = os.lstat(path).st_mode
        except FileNotFoundError:
            return
        if stat.S_ISDIR(mode):
            refuse(self._way, member, "a name that is a directory's")
        os.unlink(path)

    def _put_file(self, member: Member, name: bytes) -> None:
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
        path, mode = self._path(name), self._permissions(member, 0o600)
        try:
            descriptor = os.open(path, flags, mode)
        except FileExistsError:
            self._make_room(member, name)
            descriptor = os.open(path, flags, mode)
        try:
            for offset, length in member.pieces or ((0, member.stored_bytes),):
                self._copy(descriptor, offset, length)
            if member.pieces is not None:
                os.truncate(descriptor, member.size_bytes)
            os.utime(descriptor, ns=self._times(member))
        finally:
            os.close(descriptor)
        self._shown_bytes += member.stored_bytes
        if self._shown_bytes >= _CHUNK_BYTES * 16:
            self._shown_bytes = 0
            self._show(self._totals.stored_bytes)

    def _copy(self, descriptor: int, offset: int, length: int) -> None:
        while length:
            data = self._members.content(min(length, _CHUNK_BYTES))
            length -= len(data)
            while data:
                written = os.pwrite(descriptor, data, offset)
                data, offset = data[written:], offset + written

    def _put_symlink(self, member: Member, name: bytes) -> None:
        target = self._names.target(member, name)
        self._make_room(member, name)
        path = self._path(name)
        os.symlink(target, path)
        os.utime(path, ns=self._times(member), follow_symlinks=False)

    def _times(self, member: Member) -> tuple[int, int]:
        """Return when it was read and written; make(1) can do nothing with files of tomorrow."""
        return self._now_ns, min(max(member.modified_ns, 0), self._now_ns)

    def _permissions(self, member: Member, least: int) -> int:
        """Return what the owner and others may do with it; nobody becomes another by running it."""
        if not self._way.rules.permissions:
            runs = member.kind is Kind.DIRECTORY or member.mode & 0o100
            return 0o755 if runs else 0o644
        return member.mode & 0o777 | least


def _umask() -> int:
    mask = os.umask(0o077)
    os.umask(mask)
    return mask
