"""Files of a store that are used: each is compared with the digest that was recorded of it.

That is done once in a process, and again when time, size or inode of a file have changed. All that
a guest boots, loads or is compiled with goes through here, so that a damaged disk is never taken
for a broken kernel.
"""

from __future__ import annotations

import functools
import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from pytest_kernelvm.errors import Evidence, HarnessError
from pytest_kernelvm.foreign.json_fields import Malformed
from pytest_kernelvm.process import quoted
from pytest_kernelvm.store.digest import (
    Digest,
    NotADigest,
    Stamp,
    is_settled,
    known_digests,
    stamp_of,
    stamps_digest,
)
from pytest_kernelvm.store.kinds import INITRAMFS
from pytest_kernelvm.store.metadata import (
    ENTRY,
    OTHER_BYTES,
    EntryMetadata,
    damage_of,
    read_metadata,
    size_fault,
)
from pytest_kernelvm.store.store import default_store

# Files that were found intact, with their stamps then.
_seen: dict[Path, Stamp] = {}


@dataclass(frozen=True, kw_only=True, slots=True)
class _Recorded:
    """A file of a store. entry: what it is in. size_bytes: None where only its digest is known."""

    entry: Path
    path: Path
    size_bytes: int | None
    sha256: Digest


class DamagedStore(HarnessError):
    """A file of a store has other bytes than were put there."""


def require_intact(paths: Iterable[Path]) -> None:
    """Compare files with what the store has recorded of them.

    Files that are not in a store are left alone.

    Raises DamagedStore if a file is not as it was put there. The error names entry, file, both
    digests and what to do.

    Args:
        paths: Of files; links are followed.
    """
    stamps = {path: stamp for path in paths if (stamp := _unseen(path))}
    recorded = [found for path in stamps if (found := _recorded(path))]
    _require_sizes(recorded)
    _require_digests(recorded)
    _seen.update({path: stamp for path, stamp in stamps.items() if is_settled(stamp)})


def _require_sizes(recorded: Iterable[_Recorded]) -> None:
    for file in recorded:
        if file.size_bytes is not None and (fault := size_fault(file.path, file.size_bytes)):
            raise _error(file.entry, file.path, fault)


def _require_digests(recorded: Sequence[_Recorded]) -> None:
    digests = known_digests([file.path for file in recorded])
    for file in recorded:
        seen = digests[file.path]
        if isinstance(seen, OSError):
            raise _error(file.entry, file.path, seen.strerror or str(seen))
        if seen != file.sha256:
            raise _error(file.entry, file.path, f"sha256 {seen}", f"sha256 {file.sha256}")


def _unseen(path: Path) -> Stamp | None:
    """Return the stamp of a file that was not found intact with this stamp before."""
    try:
        stamp = stamp_of(path)
    except OSError:
        return 0, 0, 0, 0
    return None if _seen.get(path) == stamp else stamp


def require_intact_below(directory: Path) -> None:
    """Compare all files below a directory of an entry with what the store has recorded of them.

    Raises DamagedStore if a file is not as it was put there, or is gone.

    Args:
        directory: In an entry, or the entry; anything else is left alone.
    """
    entry = _entry_of(directory.resolve())
    if entry is None:
        return
    metadata = _metadata_of(entry)
    if not metadata.sized:
        _require_tree(entry, metadata)
        return
    below = directory.resolve()
    require_intact(entry / name for name in metadata.sizes if (entry / name).is_relative_to(below))


def _require_tree(entry: Path, metadata: EntryMetadata) -> None:
    """Compare an entry without noted files: first times and sizes, then content if these differ."""
    if metadata.stamps is None or stamps_digest(entry, without=ENTRY) == metadata.stamps:
        return
    faults = damage_of(entry, metadata)
    if faults:
        made = (entry / ENTRY).stat().st_mtime_ns
        changed = [path for path in _files(entry) if path.lstat().st_mtime_ns > made]
        raise _error(entry, entry, faults[0], changed=[str(path) for path in changed[:5]])


def _files(entry: Path) -> Iterable[Path]:
    for directory, _names, files in os.walk(entry):
        for name in files:
            if name != ENTRY:
                yield Path(directory, name)


def _recorded(path: Path) -> _Recorded | None:
    """Return what the store recorded of a file; None for what nobody has recorded."""
    path = path.resolve()
    if path.parent.name == INITRAMFS.name:
        try:
            digest = Digest(path.name.partition(".")[0])
        except NotADigest:
            return None
        return _Recorded(entry=path.parent, path=path, size_bytes=None, sha256=digest)
    entry = _entry_of(path.parent)
    if entry is None:
        return None
    metadata = _metadata_of(entry)
    name = str(path.relative_to(entry))
    if name in metadata.sha256 and not metadata.sparse:
        return _Recorded(
            entry=entry,
            path=path,
            size_bytes=metadata.sizes[name],
            sha256=metadata.sha256[name],
        )
    if metadata.sized and name not in metadata.sizes:
        raise _error(entry, path, "nobody put it there")
    return None


@functools.cache
def _entry_of(directory: Path) -> Path | None:
    """Return the entry that a directory is in; the store's are KIND/DIGEST of a root."""
    for above in (directory, *directory.parents):
        try:
            Digest(above.name)
        except NotADigest:
            continue
        if (above / ENTRY).is_file():
            return above
    return None


def _metadata_of(entry: Path) -> EntryMetadata:
    try:
        return read_metadata(entry)
    except Malformed as error:
        raise _error(entry, entry / ENTRY, error.reason) from None
    except OSError as error:
        raise _error(entry, entry / ENTRY, str(error)) from None


def _error(
    entry: Path, path: Path, seen: str, expected: str = "", *, changed: Iterable[str] = ()
) -> DamagedStore:
    is_archive = entry.name == INITRAMFS.name
    name = entry.name if is_archive else f"{entry.parent.name}/{entry.name[:16]}"
    what = "the tree" if path == entry else path.relative_to(entry)
    root = entry.parent if is_archive else entry.parent.parent
    option: list[str | Path] = [] if root == default_store() else ["--store", root]
    verify = quoted(["kernelvm", *option, "store", "verify", "--remove"])
    return DamagedStore(
        f"{what} of {name} in the store is damaged; nothing of it is used",
        Evidence(
            expected=expected or "the file as it was put there",
            seen=OTHER_BYTES if seen == expected else seen,
            where=tuple(dict.fromkeys((str(path), *changed))),
            next_step=f"`{verify}` removes what is damaged; it is made again when it is needed",
        ),
    )
