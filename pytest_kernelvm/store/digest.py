"""Digests, which name everything in a store; each one from outside is checked here."""

from __future__ import annotations

import errno
import hashlib
import io
import json
import os
import re
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from pytest_kernelvm.errors import BadInput, Evidence

Stamp = tuple[int, int, int, int]

_DIGEST = re.compile(r"[0-9a-f]{64}")
# How many characters of a wrong digest an error shows.
_SHOWN = 80
_PIECE_BYTES = 1 << 16
_BLOCK_BYTES = 1 << 20
_THREADS = 4
# File systems round times to a tick of the kernel: at most 10 ms (CONFIG_HZ=100).
_TICK_NS = 20_000_000


class NotADigest(BadInput, ValueError):
    """A text that names an entry of a store and is no sha256 in hex."""


class Digest(str):
    """A sha256 as 64 lower-case hexadecimal digits; nothing else can be one.

    Args:
        text: The digits, or a Digest. They are checked.

    Raises:
        NotADigest: The text is anything else; the error shows it.
    """

    __slots__ = ()

    def __new__(cls, text: object) -> Digest:
        """Check the text; see the class."""
        if type(text) is cls:
            return text
        if not isinstance(text, str) or not _DIGEST.fullmatch(text):
            raise NotADigest(
                "this names no entry of a store",
                Evidence(expected="a sha256: 64 digits of 0-9 and a-f", seen=repr(text)[:_SHOWN]),
            )
        return super().__new__(cls, text)


# Digests that `known_digest` has computed, with the stamps that the files had then.
_known: dict[tuple[Path, bool], tuple[Stamp, Digest]] = {}


def digest_of(value: Any) -> Digest:
    """Return the sha256 of a JSON value; the order of keys does not matter.

    Args:
        value: All that json.dumps takes.
    """
    text = json.dumps(value, sort_keys=True, separators=(",", ":"))
    return digest_of_bytes(text.encode())


def digest_of_bytes(data: bytes) -> Digest:
    """Return the sha256 of some bytes."""
    return Digest(hashlib.sha256(data).hexdigest())


def file_digest(path: Path) -> Digest:
    """Return the sha256 of a file's bytes."""
    with path.open("rb") as file:
        return Digest(hashlib.file_digest(file, "sha256").hexdigest())


def known_digest(path: Path, *, sparse: bool = False) -> Digest:
    """Return the sha256 of a file, read again only when its times, size or inode have changed.

    Args:
        path: The file.
        sparse: Whether to take the digest that leaves out holes, as `sparse_digest` does.

    Returns:
        The digest.
    """
    stamp = stamp_of(path)
    known = _known.get((path, sparse))
    if known and known[0] == stamp:
        return known[1]
    digest = sparse_digest(path) if sparse else file_digest(path)
    if is_settled(stamp):
        _known[path, sparse] = stamp, digest
    return digest


def known_digests(paths: Sequence[Path], *, sparse: bool = False) -> dict[Path, Digest | OSError]:
    """Return the digest of each file as `known_digest`.

    Several that were not read yet are read at once: hashing needs no Python.

    Args:
        paths: The files.
        sparse: Whether to take digests that leave out holes, as `sparse_digest` does.

    Returns:
        By path the digest, or the error that reading the file has raised.
    """

    def read(path: Path) -> Digest | OSError:
        try:
            return known_digest(path, sparse=sparse)
        except OSError as error:
            return error

    unread = [path for path in paths if (path, sparse) not in _known]
    if len(unread) < 2:
        return {path: read(path) for path in paths}
    with ThreadPoolExecutor(min(_THREADS, len(unread))) as pool:
        return dict(zip(paths, pool.map(read, paths), strict=True))


def stamp_of(path: Path) -> Stamp:
    """Return what shows that a file has changed: its times, size and inode.

    Nobody can set the time of a file's last change of any kind (inode(7), ctime).

    Args:
        path: The file; a link is followed.

    Returns:
        Both times in ns, the size in bytes, and the inode's number.
    """
    status = path.stat()
    return status.st_ctime_ns, status.st_mtime_ns, status.st_size, status.st_ino


def is_settled(stamp: Stamp) -> bool:
    """Whether any later change of a file will change its stamp.

    A file that was written a moment ago may be written again within the same tick of its file
    system's clock.

    Args:
        stamp: As `stamp_of` has returned it.

    Returns:
        Whether the file is old enough.
    """
    return time.time_ns() - stamp[0] > _TICK_NS


def sparse_digest(path: Path) -> Digest:
    """Return the sha256 of a file's size and of its pieces that are not zero, with their places.

    Holes are not read: most of a guest's memory is one. A hole and zeros have the same digest.

    Args:
        path: The file.

    Returns:
        The digest.
    """
    digest = hashlib.sha256(str(path.stat().st_size).encode())
    with path.open("rb", buffering=0) as file:
        # In pieces so large that hashlib lets other threads run.
        for offset, piece in filled_pieces(file, _PIECE_BYTES):
            digest.update(offset.to_bytes(8, "big"))
            digest.update(piece)
    return Digest(digest.hexdigest())


def filled_pieces(file: io.FileIO, size_bytes: int) -> Iterator[tuple[int, bytes]]:
    """Give the pieces of a file that are not zero, without reading holes.

    Args:
        file: Opened for reading; the pieces after its present position.
        size_bytes: Of a piece; each begins at a multiple of it.

    Yields:
        The offset of a piece, and its bytes.

    Raises:
        OSError: The file cannot be read.
    """
    zeros = bytes(size_bytes)
    at, end = 0, os.fstat(file.fileno()).st_size
    while at < end:
        try:
            at = os.lseek(file.fileno(), at, os.SEEK_DATA)
        except OSError as error:
            if error.errno == errno.ENXIO:
                return
            raise
        hole = os.lseek(file.fileno(), at, os.SEEK_HOLE)
        at -= at % size_bytes
        hole = min(end, hole + -hole % size_bytes)
        while at < hole:
            block = os.pread(file.fileno(), min(hole - at, _BLOCK_BYTES), at)
            if not block:
                # The file was truncated meanwhile.
                return
            for place in range(0, len(block), size_bytes):
                piece = block[place : place + size_bytes]
                if piece != zeros[: len(piece)]:
                    yield at + place, piece
            at += len(block)


def tree_digests(directory: Path, without: str) -> tuple[Digest, Digest]:
    """Return a digest of the content of all files below a directory, and one of their stamps.

    Stamps are sizes and times: while they are the same, the content need not be read again. Of a
    link, what it points to is its content.

    Args:
        directory: Where the files are.
        without: Name of a file right below the directory that does not count.

    Returns:
        The digest of names and content, and that of names and stamps.
    """
    contents, stamps = hashlib.sha256(), hashlib.sha256()
    for name, stamp in _stamped(directory, without):
        path = directory / name
        link = path.is_symlink()
        content = f"-> {path.readlink()}" if link else file_digest(path)
        contents.update(os.fsencode(f"{name}\0{content}\n"))
        stamps.update(os.fsencode(f"{name}\0{stamp}\n"))
    return Digest(contents.hexdigest()), Digest(stamps.hexdigest())


def stamps_digest(directory: Path, without: str) -> Digest:
    """Return the second digest of `tree_digests`; no file is opened for it.

    Args:
        directory: Where the files are.
        without: Name of a file right below the directory that does not count.

    Returns:
        The digest of names and stamps.
    """
    stamps = hashlib.sha256()
    for name, stamp in _stamped(directory, without):
        stamps.update(os.fsencode(f"{name}\0{stamp}\n"))
    return Digest(stamps.hexdigest())


def _stamped(directory: Path, without: str) -> Iterator[tuple[str, str]]:
    """Give the files and links below a directory with their sizes and times, in a fixed order."""
    pending = [""]
    while pending:
        prefix = pending.pop()
        with os.scandir(f"{directory}/{prefix}") as entries:
            ordered = sorted(entries, key=lambda entry: entry.name)
        for entry in ordered:
            name = f"{prefix}{entry.name}"
            if entry.is_dir(follow_symlinks=False):
                pending.append(f"{name}/")
            elif name != without:
                status = entry.stat(follow_symlinks=False)
                yield name, f"{status.st_size} {status.st_mtime_ns}"
