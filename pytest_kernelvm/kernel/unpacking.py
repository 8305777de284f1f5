"""Archives of others unpacked by an allow-list: files, directories, and links that stay inside.

All formats come here as a tar stream, and what is written is written by us: no program is trusted
to leave out what it should not make. Nothing else is created, not for a moment: no device, no
FIFO, nothing outside of the directory. Symbolic links come last, so that nothing can be written
through one.
"""

from __future__ import annotations

import errno
import os
import re
import stat
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, NoReturn

from pytest_kernelvm.errors import BadInput, Evidence, HarnessError
from pytest_kernelvm.kernel.tar_members import Damaged, Kind, Member, TarMembers
from pytest_kernelvm.process import piped

# A kernel's source has 92,000 members and 1.6 GB, its packages with debugging information 6 GB.
MOST_BYTES = 16 << 30
MOST_MEMBERS = 1_000_000
# Text is compressed to a tenth. What grows more than this, and is not small, is to fill disks.
MOST_GROWTH = 200
_GROWS_FREELY_BYTES = 256 << 20
_MOST_NAME_BYTES = 4095
_MOST_PART_BYTES = 255
_MOST_PARTS = 200
_CHUNK_BYTES = 1 << 20
_SIMPLE = re.compile(rb"[A-Za-z0-9_-][A-Za-z0-9_.,+-]{0,90}")
_CONTROL = re.compile(rb"[\x00-\x1f\x7f]")
# What the names in an archive can make the system say; anything else is the disk's.
_NAMES_FAULT = (errno.ENAMETOOLONG, errno.ELOOP, errno.ENOTDIR, errno.EISDIR, errno.EINVAL)

_LIMITS = f"at most {MOST_MEMBERS:,} members and {MOST_BYTES >> 30} GiB"
_ALLOWED = f"files, directories, and links that stay inside; {_LIMITS}"
_ALLOWED_WITHOUT_LINKS = f"files and directories; {_LIMITS}"


def _silent(_written_bytes: int) -> None:
    """Show nothing."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Way:
    """How an archive is unpacked.

    what: the archive in words. strip: how many of a name's first components are left out.
    links: whether there may be any. rooted: whether an absolute link counts from the directory, as
    in a package, instead of being refused. packed_bytes: the size of what was compressed, 0 where
    nothing was.
    """

    what: str
    strip: int = 0
    links: bool = True
    rooted: bool = False
    packed_bytes: int = 0


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
    refuse_links_out(root, way.what)


def links_below(directory: Path) -> Iterator[Path]:
    """Give the symbolic links below a directory, without following any."""
    pending = [str(directory)]
    while pending:
        with os.scandir(pending.pop()) as entries:
            for entry in entries:
                if entry.is_symlink():
                    yield Path(entry.path)
                elif entry.is_dir(follow_symlinks=False):
                    pending.append(entry.path)


def refuse_links_out(tree: Path, what: str) -> None:
    """Raise BadInput if a symbolic link below a directory leads out of it, as the kernel reads it.

    `a/..` is where the link `a` leads to and one up from there, not what stands before it.
    """
    root = os.path.realpath(tree)
    for link in links_below(tree):
        aim = os.path.realpath(link)
        if aim != root and not aim.startswith(f"{root}/"):
            _refuse_link(what, os.fsencode(link.relative_to(tree)), os.fsencode(link.readlink()))


def _refuse_link(what: str, name: bytes, target: bytes) -> NoReturn:
    raise BadInput(
        f"{what} has a link that leads out of it",
        Evidence(expected=_ALLOWED, seen=f"{_shown(name)} -> {_shown(target)}"),
    )


def _shown(name: bytes) -> str:
    text = repr(name)[1:]
    return text if len(text) <= 120 else f"{text[:100]}… ({len(name)} bytes)"


class _Unpacking:
    """One archive on its way into a directory."""

    def __init__(self, stream: BinaryIO, root: Path, way: Way, show: Callable[[int], None]) -> None:
        self._members = TarMembers(stream)
        self._root = os.fsencode(root)
        self._way = way
        self._show = show
        self._now_ns = time.time_ns()
        self._umask = _umask()
        self._count = self._bytes = self._stored = self._shown_bytes = 0
        self._directories = {b""}
        self._files: set[bytes] = set()
        self._checked_above: dict[bytes, bytes] = {}
        self._symlinks: dict[bytes, Member] = {}
        self._stamps: dict[bytes, Member] = {}

    def all(self) -> None:
        """Write everything; times of directories and links come when nothing changes them."""
        for member in self._members:
            self._count_in(member)
            name = self._checked(member.name, member)
            if name:
                self._put(member, name)
        if not self._count:
            raise Damaged("it has no members")
        for name, member in self._symlinks.items():
            self._put_symlink(member, name)
        for name, member in reversed(self._stamps.items()):
            path = self._path(name)
            os.chmod(path, _permissions(member, 0o700) & ~self._umask)
            os.utime(path, ns=self._times(member))

    def _count_in(self, member: Member) -> None:
        if member.kind not in (Kind.FILE, Kind.DIRECTORY, Kind.SYMLINK, Kind.HARD_LINK):
            self._refuse(member, member.kind.value)
        if not self._way.links and member.kind in (Kind.SYMLINK, Kind.HARD_LINK):
            self._refuse(member, member.kind.value)
        self._count += 1
        self._bytes += member.size_bytes
        self._stored += member.stored_bytes
        if self._count > MOST_MEMBERS:
            self._refuse(member, f"more than {MOST_MEMBERS:,} members")
        if self._bytes > MOST_BYTES:
            self._refuse(member, f"more than {MOST_BYTES >> 30} GiB")
        packed = self._way.packed_bytes
        if packed and self._stored > max(_GROWS_FREELY_BYTES, MOST_GROWTH * packed):
            self._refuse(member, f"{self._stored:,} bytes so far out of {packed:,} compressed ones")

    def _refuse(self, member: Member, seen: str) -> NoReturn:
        raise BadInput(
            f"{self._way.what} holds what is not unpacked here",
            Evidence(
                expected=_ALLOWED if self._way.links else _ALLOWED_WITHOUT_LINKS,
                seen=f"{_shown(member.name)}: {seen}",
                next_step="do not trust it: whoever made it can say why this is in it",
            ),
        )

    def _checked(self, name: bytes, member: Member) -> bytes:
        """Return the path below the directory, empty for the directory itself or what is above."""
        above, _slash, last = name.rpartition(b"/")
        known = self._checked_above.get(above)
        if known is None or not _SIMPLE.fullmatch(last):
            return self._checked_parts(name, member)
        return known + b"/" + last

    def _checked_parts(self, name: bytes, member: Member) -> bytes:
        if _CONTROL.search(name):
            self._refuse(member, "a control character in a name")
        if name.startswith(b"/"):
            self._refuse(member, "an absolute name")
        if len(name) > _MOST_NAME_BYTES:
            self._refuse(member, f"a name of {len(name)} bytes")
        # As tar(1) counts what it strips: a leading `.` is a component too.
        parts = [part for part in name.split(b"/") if part]
        if b".." in parts:
            self._refuse(member, "`..` in a name")
        if len(parts) > _MOST_PARTS:
            self._refuse(member, f"a name with {len(parts)} parts")
        if max(map(len, parts), default=0) > _MOST_PART_BYTES:
            self._refuse(member, f"a file name of more than {_MOST_PART_BYTES} bytes")
        path = b"/".join(part for part in parts[self._way.strip :] if part != b".")
        # What lies beside it needs no more than a look at its last component.
        above = path.rpartition(b"/")[0]
        if above and not name.endswith(b"/"):
            self._checked_above[name.rpartition(b"/")[0]] = above
        return path

    def _path(self, name: bytes) -> bytes:
        return self._root + b"/" + name

    def _put(self, member: Member, name: bytes) -> None:
        if member.kind is Kind.DIRECTORY:
            self._make_directory(member, name, _permissions(member, 0o700))
            self._stamps[name] = member
            return
        if name in self._files or name in self._symlinks or name in self._directories:
            self._refuse(member, "a name that is in it twice")
        self._make_parents(member, name)
        if member.kind is Kind.SYMLINK:
            self._symlinks[name] = member
            return
        if member.kind is Kind.HARD_LINK:
            aim = self._checked(member.target, member)
            if aim not in self._files:
                self._refuse(member, f"a hard link to {_shown(member.target)}, no file before it")
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
                self._refuse(member, f"{_shown(name)} is no directory")
        if name in self._symlinks:
            self._refuse(member, f"{_shown(name)} is no directory")
        self._directories.add(name)

    def _make_room(self, member: Member, name: bytes) -> None:
        """Remove what an earlier package has put there; this archive has nothing there yet."""
        path = self._path(name)
        try:
            mode = os.lstat(path).st_mode
        except FileNotFoundError:
            return
        if stat.S_ISDIR(mode):
            self._refuse(member, "a name that is a directory's")
        os.unlink(path)

    def _put_file(self, member: Member, name: bytes) -> None:
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
        path, mode = self._path(name), _permissions(member, 0o600)
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
            self._show(self._stored)

    def _copy(self, descriptor: int, offset: int, length: int) -> None:
        while length:
            data = self._members.content(min(length, _CHUNK_BYTES))
            length -= len(data)
            while data:
                written = os.pwrite(descriptor, data, offset)
                data, offset = data[written:], offset + written

    def _put_symlink(self, member: Member, name: bytes) -> None:
        target = member.target
        if not target or _CONTROL.search(target) or len(target) > _MOST_NAME_BYTES:
            self._refuse(member, f"a symbolic link to {_shown(target)}")
        if target.startswith(b"/"):
            if not self._way.rooted:
                _refuse_link(self._way.what, name, target)
            target = b"../" * name.count(b"/") + (target.lstrip(b"/") or b".")
        self._make_room(member, name)
        path = self._path(name)
        os.symlink(target, path)
        os.utime(path, ns=self._times(member), follow_symlinks=False)

    def _times(self, member: Member) -> tuple[int, int]:
        """Return when it was read and written; make(1) can do nothing with files of tomorrow."""
        return self._now_ns, min(max(member.modified_ns, 0), self._now_ns)


def _permissions(member: Member, least: int) -> int:
    """Return what the owner and others may do with it; nobody becomes another by running it."""
    return member.mode & 0o777 | least


def _umask() -> int:
    mask = os.umask(0o077)
    os.umask(mask)
    return mask
