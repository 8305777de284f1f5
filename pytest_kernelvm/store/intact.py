"""Files of a store that are used: each is compared with the digest that was noted of it.

Once in a process, and again when its time, size or inode has changed. What a guest boots, loads or
is compiled with goes through here, so that a damaged disk is never taken for a damaged kernel.
"""

from __future__ import annotations

import functools
import os
from collections.abc import Iterable
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
from pytest_kernelvm.store.note import ENTRY, OTHER_BYTES, Note, damage_of, read_note, size_fault
from pytest_kernelvm.store.store import ARCHIVES, default_store

# Files that were found intact, with their stamps then.
_seen: dict[Path, Stamp] = {}


class DamagedStore(HarnessError):
    """A file of a store has other bytes than were put there."""


def require_intact(paths: Iterable[Path]) -> None:
    """Compare files with what the store noted of them; what is not in a store is left alone.

    paths: of files; links are followed. Raises DamagedStore, which names entry, file, both digests
    and what to do.
    """
    stamps = {path: stamp for path in paths if (stamp := _unseen(path))}
    noted = [found for path in stamps if (found := _noted(path))]
    for entry, path, size, _digest in noted:
        if size is not None and (fault := size_fault(path, size)):
            raise _error(entry, path, fault)
    digests = known_digests([path for _entry, path, _size, _digest in noted])
    for entry, path, _size, digest in noted:
        seen = digests[path]
        if isinstance(seen, OSError):
            raise _error(entry, path, seen.strerror or str(seen))
        if seen != digest:
            raise _error(entry, path, f"sha256 {seen}", f"sha256 {digest}")
    _seen.update({path: stamp for path, stamp in stamps.items() if is_settled(stamp)})


def _unseen(path: Path) -> Stamp | None:
    """Return the stamp of a file that was not found intact with this stamp before."""
    try:
        stamp = stamp_of(path)
    except OSError:
        return 0, 0, 0, 0
    return None if _seen.get(path) == stamp else stamp


def require_intact_below(directory: Path) -> None:
    """Compare all files below a directory of an entry with what the store noted of them.

    Raises DamagedStore, also for files that are gone.
    """
    entry = _entry_of(directory.resolve())
    if entry is None:
        return
    note = _note_of(entry)
    if not note.sized:
        _require_tree(entry, note)
        return
    below = directory.resolve()
    require_intact(entry / name for name in note.sizes if (entry / name).is_relative_to(below))


def _require_tree(entry: Path, note: Note) -> None:
    """Compare an entry without noted files: first times and sizes, then content if these differ."""
    if note.stamps is None or stamps_digest(entry, without=ENTRY) == note.stamps:
        return
    faults = damage_of(entry, note)
    if faults:
        made = (entry / ENTRY).stat().st_mtime_ns
        changed = [path for path in _files(entry) if path.lstat().st_mtime_ns > made]
        raise _error(entry, entry, faults[0], changed=[str(path) for path in changed[:5]])


def _files(entry: Path) -> Iterable[Path]:
    for directory, _names, files in os.walk(entry):
        for name in files:
            if name != ENTRY:
                yield Path(directory, name)


def _noted(path: Path) -> tuple[Path, Path, int | None, Digest] | None:
    """Return the entry that a file is in, its own path, and the size and digest noted of it."""
    path = path.resolve()
    if path.parent.name == ARCHIVES:
        try:
            return path.parent, path, None, Digest(path.name.partition(".")[0])
        except NotADigest:
            return None
    entry = _entry_of(path.parent)
    if entry is None:
        return None
    note = _note_of(entry)
    name = str(path.relative_to(entry))
    if name in note.sha256 and not note.sparse:
        return entry, path, note.sizes[name], note.sha256[name]
    if note.sized and name not in note.sizes:
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


def _note_of(entry: Path) -> Note:
    try:
        return read_note(entry)
    except Malformed as error:
        raise _error(entry, entry / ENTRY, error.reason) from None
    except OSError as error:
        raise _error(entry, entry / ENTRY, str(error)) from None


def _error(
    entry: Path, path: Path, seen: str, expected: str = "", *, changed: Iterable[str] = ()
) -> DamagedStore:
    is_archive = entry.name == ARCHIVES
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
