"""The newc archive that the kernel unpacks as its initramfs.

Format: Documentation/driver-api/early-userspace/buffer-format.rst in the kernel.
"""

from __future__ import annotations

import stat
from collections.abc import Iterable, Iterator
from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True, slots=True)
class Entry:
    """One file, directory or symbolic link of an archive.

    Attributes:
        path: Without a leading slash.
        mode: Type and permission bits, as of stat(2).
        content: A file's bytes or a link's text.
    """

    path: str
    mode: int
    content: bytes = b""


def file(path: str, content: bytes, permissions: int = 0o644) -> Entry:
    """Return a regular file.

    Args:
        path: Without a leading slash.
        content: Its bytes.
        permissions: Its permission bits.
    """
    return Entry(path=path, mode=stat.S_IFREG | permissions, content=content)


def directory(path: str) -> Entry:
    """Return a directory.

    Args:
        path: Without a leading slash.
    """
    return Entry(path=path, mode=stat.S_IFDIR | 0o755)


def link(path: str, text: str) -> Entry:
    """Return a symbolic link.

    Args:
        path: Without a leading slash.
        text: What it points to.
    """
    return Entry(path=path, mode=stat.S_IFLNK | 0o777, content=text.encode())


def with_parents(entries: Iterable[Entry]) -> tuple[Entry, ...]:
    """Return entries sorted by path, with the directories that they need in front of them.

    Args:
        entries: In any order; their directories may be absent.
    """
    found: dict[str, Entry] = {}
    for entry in entries:
        parts = entry.path.split("/")
        for depth in range(1, len(parts)):
            parent = "/".join(parts[:depth])
            found.setdefault(parent, directory(parent))
        found[entry.path] = entry
    return tuple(found[path] for path in sorted(found))


def archive(entries: Iterable[Entry]) -> bytes:
    """Return the archive: the same entries always give the same bytes.

    Args:
        entries: In any order; directories that they need are added.
    """
    out = bytearray()
    for inode, entry in enumerate(with_parents(entries), start=1):
        out += _record(inode, entry)
    return bytes(out + _record(0, Entry(path="TRAILER!!!", mode=0)))


def _record(inode: int, entry: Entry) -> bytes:
    name = entry.path.encode() + b"\0"
    # inode, mode, uid, gid, links, mtime, size, device, device of the node, name's size, checksum
    fields = (inode, entry.mode, 0, 0, 1, 0, len(entry.content), 0, 0, 0, 0, len(name), 0)
    head = b"070701" + b"".join(b"%08X" % field for field in fields)
    return _padded(head + name) + _padded(entry.content)


def _padded(data: bytes) -> bytes:
    return data + bytes(-len(data) % 4)


def entries_of(data: bytes) -> Iterator[Entry]:
    """Yield the entries of an archive.

    Args:
        data: An uncompressed archive in the format newc.

    Raises:
        ValueError: If it is not one.
    """
    at = 0
    while True:
        if data[at : at + 6] != b"070701":
            raise ValueError(f"no newc record at byte {at}")
        values = [int(data[at + 6 + 8 * n : at + 14 + 8 * n], 16) for n in range(13)]
        mode, size, name_size = values[1], values[6], values[11]
        at += 110
        name = data[at : at + name_size - 1].decode()
        at += name_size + -(110 + name_size) % 4
        if name == "TRAILER!!!":
            return
        yield Entry(path=name, mode=mode, content=data[at : at + size])
        at += size + -size % 4
