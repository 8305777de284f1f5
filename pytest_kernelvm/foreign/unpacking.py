"""Archives of others, unpacked by an allow-list: files, directories, and links that stay inside.

All formats come here as a tar stream, and we write the files: no program is trusted to leave out
what must not be made. Nothing else is created, not even for a moment: no device, no FIFO, nothing
outside of the directory. Symbolic links come last, so that nothing can be written through one.
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
from typing import NoReturn

from pytest_kernelvm.errors import BadInput, Evidence, HarnessError
from pytest_kernelvm.foreign.archive_rules import (
    ArchiveTotals,
    MemberNames,
    UnpackOptions,
    refuse,
    shown,
)
from pytest_kernelvm.foreign.links import refuse_links_out
from pytest_kernelvm.foreign.tar_headers import DIRECTORY, HARD_LINK, SYMLINK
from pytest_kernelvm.foreign.tar_members import Damaged, Member, Stream, TarMembers
from pytest_kernelvm.process import piped

_NEW_FILE = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
_SHOWN_EACH_BYTES = 16 << 20
# Errors that names in an archive can cause; all others are faults of the disk.
_NAMES_FAULT = (errno.ENAMETOOLONG, errno.ELOOP, errno.ENOTDIR, errno.EISDIR, errno.EINVAL)


def _silent(_written_bytes: int) -> None:
    """Show nothing."""


def unpack(
    stream: Stream, root: Path, options: UnpackOptions, show: Callable[[int], None] = _silent
) -> None:
    """Unpack a tar stream into a directory.

    Raises BadInput for a damaged archive, and for one that has what is not allowed; the directory
    is incomplete then.

    Args:
        stream: The archive.
        root: The directory, made if need be. Nobody else may write to it meanwhile.
        options: What is allowed.
        show: Called now and then with the number of bytes written so far.
    """
    try:
        _write(stream, root, options, show)
    except Damaged as error:
        _refuse_damaged(options, str(error))


def unpack_output(
    argv: Sequence[str | Path],
    root: Path,
    options: UnpackOptions,
    show: Callable[[int], None] = _silent,
    *,
    env: Mapping[str, str] | None = None,
    timeout_s: float,
) -> None:
    """Unpack the tar stream that a program writes, as `unpack` does.

    Raises BadInput as `unpack` and if the program fails, ToolMissing if there is no such program.

    Args:
        argv: The program.
        root: As for `unpack`.
        options: As for `unpack`.
        show: As for `unpack`.
        env: Variables that are added to ours.
        timeout_s: After this many seconds the program is killed.
    """
    damage = ""
    try:
        with piped(argv, env=env, timeout_s=timeout_s) as stream:
            try:
                _write(stream, root, options, show)
            except Damaged as error:
                damage = str(error)
    except HarnessError as error:
        _refuse_damaged(options, error.evidence.excerpt or damage or error.summary)
    if damage:
        _refuse_damaged(options, damage)


def unpack_gzip(archive: Path, root: Path, options: UnpackOptions) -> None:
    """Unpack a .tar.gz as `unpack` does, without any program. Raises BadInput as `unpack`.

    Args:
        archive: The file.
        root: As for `unpack`.
        options: As for `unpack`.
    """
    try:
        with gzip.open(archive) as stream:
            unpack(stream, root, options)
    except (gzip.BadGzipFile, zlib.error, EOFError) as error:
        _refuse_damaged(options, str(error))


def _refuse_damaged(options: UnpackOptions, said: str) -> NoReturn:
    raise BadInput(
        f"{options.what} cannot be unpacked", Evidence(excerpt=said, where=(options.what,))
    ) from None


def _write(stream: Stream, root: Path, options: UnpackOptions, show: Callable[[int], None]) -> None:
    root.mkdir(exist_ok=True)
    descriptor = os.open(root, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        is_empty = not os.listdir(descriptor)
        extraction = _Extraction(stream, descriptor, options, show)
        extraction.run()
    except OSError as error:
        if error.errno not in _NAMES_FAULT:
            raise
        raise BadInput(
            f"{options.what} cannot be unpacked: {error.strerror}",
            Evidence(seen=repr(error.filename)[:200]),
        ) from None
    finally:
        os.close(descriptor)
    # Links of an earlier archive may lead elsewhere now, so that all links are checked.
    refuse_links_out(root, options.what, options.rules, extraction.symlinks if is_empty else None)


# A member with its path, permissions, times and content.
_File = tuple[Member, bytes, int, tuple[int, int], memoryview]


class _Extraction:
    """The unpacking of one archive into a directory; all paths are relative to its descriptor."""

    def __init__(
        self, stream: Stream, root: int, options: UnpackOptions, show: Callable[[int], None]
    ) -> None:
        self._members = TarMembers(stream, self._write_buffered)
        self._root = root
        self._options = options
        self._show = show
        self._now_ns = time.time_ns()
        self._umask = _umask()
        self._totals = ArchiveTotals(self._members, options)
        self._names = MemberNames(options)
        self._shown_bytes = 0
        # The paths written so far, symbolic links not included; the directories; the links.
        self._made = {b"": DIRECTORY}
        self._directories: dict[bytes, Member] = {}
        self.symlinks: dict[bytes, Member] = {}
        self._last_times = 0, (self._now_ns, 0)
        self._buffered: list[_File] = []

    def run(self) -> None:
        """Write everything; times of directories and links come when nothing changes them."""
        for member in self._members:
            self._totals.add(member)
            name = self._names.path(member.name, member)
            if name:
                self._put(member, name)
        self._write_buffered()
        if not self._totals:
            raise Damaged("it has no members")
        for name, member in self.symlinks.items():
            self._put_symlink(member, name)
        for name, member in reversed(self._directories.items()):
            mode = self._permissions(member, 0o700) & ~self._umask
            os.chmod(name, mode, dir_fd=self._root)
            os.utime(name, ns=self._times(member), dir_fd=self._root)

    def _put(self, member: Member, name: bytes) -> None:
        if member.kind is DIRECTORY:
            self._make_directory(member, name, self._permissions(member, 0o700))
            self._directories[name] = member
            return
        if name in self._made:
            refuse(self._options, member, "a name that is in it twice")
        above = name.rpartition(b"/")[0]
        if self._made.get(above) is not DIRECTORY:
            self._make_directory(member, above, 0o777)
        if member.kind is SYMLINK:
            self.symlinks[name] = member
        elif member.kind is HARD_LINK:
            self._put_hard_link(member, name)
        else:
            self._put_file(member, name)
        self._made[name] = member.kind

    def _put_hard_link(self, member: Member, name: bytes) -> None:
        aim = self._names.path(member.target, member)
        if self._made.get(aim) in (None, DIRECTORY, SYMLINK):
            seen = f"a hard link to {shown(member.target)}, no file before it"
            refuse(self._options, member, seen)
        self._write_buffered()
        self._remove_earlier(member, name)
        os.link(aim, name, src_dir_fd=self._root, dst_dir_fd=self._root, follow_symlinks=False)

    def _make_directory(self, member: Member, name: bytes, mode: int) -> None:
        made = self._made.get(name)
        if made is DIRECTORY:
            return
        if made:
            refuse(self._options, member, f"{shown(name)} is no directory")
        self._make_directory(member, name.rpartition(b"/")[0], 0o777)
        try:
            os.mkdir(name, mode, dir_fd=self._root)
        except FileExistsError:
            if not stat.S_ISDIR(os.lstat(name, dir_fd=self._root).st_mode):
                refuse(self._options, member, f"{shown(name)} is no directory")
        self._made[name] = DIRECTORY

    def _remove_earlier(self, member: Member, name: bytes) -> None:
        """Remove what an earlier package has put there."""
        try:
            mode = os.lstat(name, dir_fd=self._root).st_mode
        except FileNotFoundError:
            return
        if stat.S_ISDIR(mode):
            refuse(self._options, member, "a name that is a directory's")
        os.unlink(name, dir_fd=self._root)

    def _put_file(self, member: Member, name: bytes) -> None:
        mode, times = self._permissions(member, 0o600), self._times(member)
        if member.pieces is None and self._members.is_buffered:
            data = self._members.content(member.stored_bytes)
            self._buffered.append((member, name, mode, times, data))
            return
        descriptor = self._new_file(member, name, mode)
        try:
            for offset, length in member.pieces or ((0, member.stored_bytes),):
                os.lseek(descriptor, offset, os.SEEK_SET)
                self._copy(descriptor, length)
            if member.pieces is not None:
                os.truncate(descriptor, member.size_bytes)
            os.utime(descriptor, ns=times)
        finally:
            os.close(descriptor)
        self._show_more(member.stored_bytes)

    def _new_file(self, member: Member, name: bytes, mode: int) -> int:
        try:
            return os.open(name, _NEW_FILE, mode, dir_fd=self._root)
        except FileExistsError:
            self._remove_earlier(member, name)
            return os.open(name, _NEW_FILE, mode, dir_fd=self._root)

    def _write_buffered(self) -> None:
        """Write the files whose content lies in the buffer.

        Several at once: the kernel's work on each throws out of the core's caches what ours needs.
        """
        written = 0
        for member, name, mode, times, data in self._buffered:
            descriptor = self._new_file(member, name, mode)
            try:
                _write_all(descriptor, data)
                os.utime(descriptor, ns=times)
            finally:
                os.close(descriptor)
            written += len(data)
        self._buffered.clear()
        self._show_more(written)

    def _show_more(self, written: int) -> None:
        self._shown_bytes += written
        if self._shown_bytes >= _SHOWN_EACH_BYTES:
            self._shown_bytes = 0
            self._show(self._totals.stored_bytes)

    def _copy(self, descriptor: int, length: int) -> None:
        while length:
            data = self._members.content(length)
            length -= len(data)
            _write_all(descriptor, data)

    def _put_symlink(self, member: Member, name: bytes) -> None:
        target = self._names.target(member, name)
        self._remove_earlier(member, name)
        os.symlink(target, name, dir_fd=self._root)
        os.utime(name, ns=self._times(member), dir_fd=self._root, follow_symlinks=False)

    def _times(self, member: Member) -> tuple[int, int]:
        """Return access and modification time; none is in the future, which confuses make(1)."""
        # All files of a release have the same time.
        if member.modified_ns != self._last_times[0]:
            written_ns = min(max(member.modified_ns, 0), self._now_ns)
            self._last_times = member.modified_ns, (self._now_ns, written_ns)
        return self._last_times[1]

    def _permissions(self, member: Member, least: int) -> int:
        """Return the permission bits that a member gets, without setuid and the like."""
        if not self._options.rules.keep_permissions:
            runs = member.kind is DIRECTORY or member.mode & 0o100
            return 0o755 if runs else 0o644
        return member.mode & 0o777 | least


def _write_all(descriptor: int, data: memoryview) -> None:
    while data:
        data = data[os.write(descriptor, data) :]


def _umask() -> int:
    mask = os.umask(0o077)
    os.umask(mask)
    return mask
