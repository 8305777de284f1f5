"""Archives of somebody else: files, directories and links that stay inside, and nothing else."""

from __future__ import annotations

import gzip
import os
import shutil
import tarfile
import zlib
from pathlib import Path, PurePosixPath

from pytest_kernelvm.kernel.checked_json import NAME_MAX, Malformed, relative_name

# A kernel of a distribution with its debugging information and all its modules has 6 GiB.
MOST_BYTES = 16 << 30
MOST_MEMBERS = 500_000
# Nobody has so long a header; its length stands in the archive.
_MOST_READ = 1 << 20
_COPY_BYTES = 1 << 16
_DEEPEST = 40
# Seconds since 1970 that every file system can note.
_LATEST_S = 1 << 32


class _Inflated:
    """A compressed file as tarfile reads it: forwards, and no more than a limit."""

    def __init__(self, packed: gzip.GzipFile, most_bytes: int) -> None:
        self._packed = packed
        self._most_bytes = most_bytes
        self._at = 0

    def read(self, size: int = -1) -> bytes:
        """Return the next bytes; tarfile asks for as many as a header says that it has."""
        if not 0 <= size <= _MOST_READ:
            raise Malformed("a header in the archive is too long")
        data = self._packed.read(size)
        self._at += len(data)
        if self._at > self._most_bytes:
            raise Malformed(f"the archive holds more than {self._most_bytes >> 20} MiB")
        return data

    def tell(self) -> int:
        """Return how much was read."""
        return self._at

    def seek(self, position: int) -> int:
        """Skip what lies before a position."""
        if position < self._at:
            raise Malformed("the archive leads backwards")
        while self._at < position and self.read(min(_COPY_BYTES, position - self._at)):
            pass
        return self._at


def unpack_foreign(
    archive: Path,
    directory: Path,
    *,
    most_bytes: int = MOST_BYTES,
    most_members: int = MOST_MEMBERS,
) -> None:
    """Unpack a .tar.gz below a directory that is empty.

    most_bytes: of all that it holds. most_members: how many files.
    Raises Malformed if it is no such archive, holds anything but regular files, directories and
    relative links that stay inside, or more than is allowed; OSError if the disk is full.
    """
    try:
        with gzip.open(archive, "rb") as packed:
            inflated = _Inflated(packed, most_bytes)
            with tarfile.TarFile(fileobj=inflated, mode="r") as members:  # type: ignore[arg-type]
                _unpack(members, directory, most_members)
    except (tarfile.TarError, gzip.BadGzipFile, zlib.error, EOFError) as error:
        raise Malformed(f"no archive: {error}"[:100]) from None
    except FileExistsError:
        raise Malformed("the archive holds a file twice, or one below a link") from None
    except (Malformed, OSError):
        raise
    # tarfile's own words for numbers and names that are none.
    except (ValueError, OverflowError) as error:
        raise Malformed(f"no archive: {error}"[:100]) from None


def _unpack(members: tarfile.TarFile, directory: Path, most_members: int) -> None:
    made = {""}
    for count, member in enumerate(members):
        # tarfile keeps all that it has read.
        members.members = []  # type: ignore[attr-defined]
        if count >= most_members:
            raise Malformed(f"the archive holds more than {most_members} files")
        name = member.name.removeprefix("./")
        if member.isdir():
            if name not in (".", ""):
                _make_parents(directory, f"{_checked(name)}/", made)
            continue
        _make_parents(directory, _checked(name), made)
        if member.issym():
            _link(directory / name, name, member.linkname)
        elif _is_plain_file(member):
            _write(members, member, directory / name)
        else:
            raise Malformed(f"{name!r} in the archive is neither file, directory nor link"[:200])


def _is_plain_file(member: tarfile.TarInfo) -> bool:
    """Whether it is a file whose bytes are all in the archive, where they are counted."""
    plain = member.type in (tarfile.REGTYPE, tarfile.AREGTYPE)
    return plain and member.size >= 0 and not member.issparse()


def _checked(name: str) -> str:
    too_long = any(len(os.fsencode(part)) > NAME_MAX for part in name.split("/"))
    if not name.isprintable() or name.count("/") > _DEEPEST or too_long:
        raise Malformed(f"the archive holds a file {name[:60]!r}")
    return relative_name(name)


def _make_parents(directory: Path, name: str, made: set[str]) -> None:
    """Make the directories above a file one by one, so that none of them is a link."""
    above = ""
    for part in name.split("/")[:-1]:
        above = f"{above}/{part}" if above else part
        if above not in made:
            (directory / above).mkdir(0o755)
            made.add(above)


def _link(place: Path, name: str, target: str) -> None:
    """Make a link that stays inside: `..` stand in front alone, and no more than lead to the top.

    Behind a name they could follow another link to somewhere else.
    """
    parts = PurePosixPath(target).parts
    ups = next((number for number, part in enumerate(parts) if part != ".."), len(parts))
    inside = ups <= name.count("/") and ".." not in parts[ups:]
    if target.startswith("/") or not parts or not inside or not target.isprintable():
        raise Malformed(f"{name!r} in the archive links to {target[:60]!r}"[:200])
    place.symlink_to(target)


def _write(members: tarfile.TarFile, member: tarfile.TarInfo, place: Path) -> None:
    source = members.extractfile(member)
    assert source is not None
    mode = 0o755 if member.mode & 0o100 else 0o644
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
    with open(os.open(place, flags, mode), "wb") as sink:  # noqa: PTH123 -- of a descriptor
        shutil.copyfileobj(source, sink, _COPY_BYTES)
        if sink.tell() != member.size:
            raise Malformed("the archive ends early")
    # kbuild compares the times of a kernel's tools with those of their sources.
    when = min(max(0.0, float(member.mtime)), _LATEST_S)
    os.utime(place, (when, when))
