"""Metadata of an entry, in its entry.json: what it is, and sizes and digests of its files.

    {
     "digest": "…",       the sha256 of all bytes of the file behind this line
     "about": {…},        what its maker has recorded
     "sha256": {…},       digests of the files, by path below the entry
     "sized": true,       whether all files are in sizes
     "sizes": {…},        their sizes in bytes
     "sparse": false,     whether their digests are those of files with holes (digest.py)
     "stamps": "…",       where none is: digests of all files' sizes and times,
     "tree": "…"}         and of their content

Those of earlier versions begin without the digest, and have only about, sha256 and sizes.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import stat
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any

from pytest_kernelvm.foreign.json_fields import Fields, Malformed, parse_json, relative_name
from pytest_kernelvm.store.digest import (
    Digest,
    NotADigest,
    Stamp,
    digest_of_bytes,
    file_digest,
    is_settled,
    sparse_digest,
    stamp_of,
    tree_digests,
)
from pytest_kernelvm.store.kinds import Kind, kind_of

ENTRY = "entry.json"
# That of a kernel with all modules of a distribution has 2 MiB.
MOST_ENTRY_FILE_BYTES = 64 << 20
OTHER_BYTES = "other bytes than were put there"

# Values of fields that earlier versions did not write.
_DEFAULTS = {"sha256": {}, "sparse": False, "stamps": None, "tree": None}
_HEAD = re.compile(rb'\{\n "digest": "([0-9a-f]{64})",\n')


@dataclass(frozen=True, kw_only=True, slots=True)
class EntryMetadata:
    """What entry.json says about an entry.

    Attributes:
        about: What its maker has recorded, as JSON.
        sizes: Bytes by file, as paths below the entry.
        sha256: Digests by file, of those that never change.
        sized: Whether `sizes` has all files of the entry.
        sparse: Whether the digests leave out holes (`sparse_digest`).
        tree: Of an entry that is not sized, the digest of all content (`tree_digests`); None where
            an earlier version has not recorded it.
        stamps: Likewise of all sizes and times.
    """

    about: Mapping[str, Any]
    sizes: Mapping[str, int]
    sha256: Mapping[str, Digest]
    sized: bool = True
    sparse: bool = False
    tree: Digest | None = None
    stamps: Digest | None = None

    def text(self) -> bytes:
        """Return it as it is written."""
        noted = {
            "about": dict(self.about),
            "sha256": dict(self.sha256),
            "sized": self.sized,
            "sizes": dict(self.sizes),
            "sparse": self.sparse,
            "stamps": self.stamps,
            "tree": self.tree,
        }
        rest = json.dumps(noted, indent=1, sort_keys=True).removeprefix("{\n").encode()
        return b'{\n "digest": "%s",\n' % digest_of_bytes(rest).encode() + rest


# What `read_metadata` has read, with the stamp of the file then.
_known: dict[Path, tuple[Stamp, EntryMetadata]] = {}


def read_metadata(entry: Path, kind: Kind | None = None) -> EntryMetadata:
    """Return the metadata of an entry.

    Args:
        entry: Its directory.
        kind: By default that of the directory above.

    Returns:
        The metadata, checked.

    Raises:
        FileNotFoundError: There is no such directory.
        Malformed: entry.json is not there, damaged, or not what it has to be.
    """
    try:
        stamp = stamp_of(entry / ENTRY)
        known = _known.get(entry)
        if known and known[0] == stamp:
            return known[1]
        data = _content(entry / ENTRY)
    except OSError as error:
        if not os.path.lexists(entry):
            raise FileNotFoundError(entry) from None
        raise Malformed(error.strerror or str(error)) from None
    metadata = _checked(data, kind or kind_of(entry.parent.name))
    if is_settled(stamp):
        _known[entry] = stamp, metadata
    return metadata


def _checked(data: bytes, kind: Kind) -> EntryMetadata:
    head = _HEAD.match(data)
    if head and head[1].decode() != digest_of_bytes(data[head.end() :]):
        raise Malformed("other bytes than were written")
    return _parsed(parse_json(data, most_bytes=MOST_ENTRY_FILE_BYTES), kind)


def _content(path: Path) -> bytes:
    """Read a regular file; anything else might have no end, or keep whoever opens it waiting."""
    descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_NOFOLLOW | os.O_CLOEXEC)
    with open(descriptor, "rb") as file:  # noqa: PTH123 -- pathlib opens no descriptors
        if not stat.S_ISREG(os.fstat(descriptor).st_mode):
            raise Malformed("it is no file")
        return file.read(MOST_ENTRY_FILE_BYTES + 1)


def _parsed(value: object, kind: Kind) -> EntryMetadata:
    noted = Fields(value, defaults={"sized": kind.sized, **_DEFAULTS})
    sizes = {relative_name(name): size for name, size in noted.mapping("sizes").items()}
    for name, size in sizes.items():
        if type(size) is not int or size < 0:
            raise Malformed(f"the size of {name} is no number of bytes")
    digests, sized = noted.mapping("sha256"), noted.flag("sized")
    if sized and not sizes:
        raise Malformed("it notes no file")
    if not digests.keys() <= sizes.keys():
        raise Malformed("it has digests of files without a size")
    sha256 = {name: noted_digest(digest) for name, digest in digests.items()}
    tree, stamps = noted.take("tree"), noted.take("stamps")
    return EntryMetadata(
        about=MappingProxyType(noted.mapping("about")),
        sizes=MappingProxyType(sizes),
        sha256=MappingProxyType(sha256),
        sized=sized,
        sparse=noted.flag("sparse"),
        tree=None if tree is None else noted_digest(tree),
        stamps=None if stamps is None else noted_digest(stamps),
    )


def noted_digest(text: object) -> Digest:
    """Return a digest that somebody recorded.

    Args:
        text: What stands where a digest should.

    Returns:
        The digest.

    Raises:
        Malformed: It is none.
    """
    try:
        return Digest(text)
    except NotADigest as error:
        raise Malformed(f"{error.evidence.seen} is no digest") from None


def files_below(entry: Path) -> Iterator[tuple[str, os.stat_result]]:
    """Yield the regular files of an entry but entry.json, with their paths below it.

    Args:
        entry: The directory of the entry.
    """
    for directory, _names, files in os.walk(entry):
        for name in files:
            path = Path(directory, name)
            status = path.lstat()
            if stat.S_ISREG(status.st_mode) and path != entry / ENTRY:
                yield str(path.relative_to(entry)), status


def missing_or_resized(entry: Path, metadata: EntryMetadata) -> str:
    """Return which recorded file is not there with its size, and why; empty if all are.

    Args:
        entry: The directory of the entry.
        metadata: What was recorded when it was made.
    """
    for name, size in metadata.sizes.items():
        fault = size_fault(entry / name, size)
        if fault:
            return f"{name}: {fault}"
    return ""


def size_fault(path: Path, size_bytes: int) -> str:
    """Return why a path is not a regular file of a size; empty if it is.

    Args:
        path: It need not be there.
        size_bytes: The recorded size.
    """
    try:
        status = path.lstat()
    except OSError as error:
        return error.strerror or str(error)
    if not stat.S_ISREG(status.st_mode):
        return "it is no file any more"
    if status.st_size != size_bytes:
        return f"{status.st_size} bytes instead of {size_bytes}"
    return ""


def damage_of(entry: Path, metadata: EntryMetadata) -> tuple[str, ...]:
    """Return what is wrong with an entry's files, by their digests; nothing if it is whole.

    Args:
        entry: The directory of the entry.
        metadata: What was recorded when it was made.
    """
    content = sparse_digest if metadata.sparse else file_digest
    found = []
    for name, size in metadata.sizes.items():
        fault = size_fault(entry / name, size)
        with contextlib.suppress(FileNotFoundError):
            if (
                not fault
                and name in metadata.sha256
                and content(entry / name) != metadata.sha256[name]
            ):
                fault = OTHER_BYTES
        if fault:
            found.append(f"{name}: {fault}")
    if not metadata.sized:
        if metadata.tree not in (None, tree_digests(entry, without=ENTRY)[0]):
            found.append(f"{OTHER_BYTES}, or files more or fewer")
        return tuple(found)
    more = sorted(name for name, _status in files_below(entry) if name not in metadata.sizes)
    return (*found, *(f"{name}: nobody put it there" for name in more))
