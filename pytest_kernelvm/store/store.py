"""The store: a directory of digests that builds are published into, whole or not at all."""

from __future__ import annotations

import contextlib
import os
import tempfile
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pytest_kernelvm.foreign.json_fields import Malformed, file_name
from pytest_kernelvm.progress import Progress
from pytest_kernelvm.store.digest import Digest, file_digest, sparse_digest, tree_digests
from pytest_kernelvm.store.kinds import LOGS, TEMPORARY, Form, Kind
from pytest_kernelvm.store.locks import lock, lock_if_free
from pytest_kernelvm.store.metadata import (
    ENTRY,
    EntryMetadata,
    damage_of,
    files_below,
    missing_or_resized,
    read_metadata,
)
from pytest_kernelvm.store.owners import Uses, owned
from pytest_kernelvm.store.staging import clear_if_abandoned, put_aside
from pytest_kernelvm.store.writing import STORE_VARIABLE, disk_errors, remove_tree, write_whole


def default_store() -> Path:
    """Return $KERNELVM_STORE, or `kernelvm` in the user's cache directory."""
    named = os.environ.get(STORE_VARIABLE)
    if named:
        return Path(named)
    cache = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(cache) / "kernelvm"


@dataclass(frozen=True, kw_only=True, slots=True)
class StagingDirectory:
    """A directory to work in, and the entry below it that is to be filled.

    Attributes:
        directory: Gone afterwards, with all that is in it.
        entry: Becomes the entry of the store.
    """

    directory: Path
    entry: Path


class Store:
    """A content-addressed directory that several processes share.

    Args:
        root: Where it is; made when first written to.
        progress: Where waiting for other processes is shown.

    Attributes:
        root: As given.
        progress: As given.
        found: Names of kinds and digests of what this object has found.
        made: Names of kinds and digests of what this object has made.
    """

    def __init__(self, root: Path, progress: Progress) -> None:
        self.root = root
        self.progress = progress
        self._uses = Uses(root)
        self._reported_damaged: set[Path] = set()
        self._cleared = False
        self.found: set[tuple[str, str]] = set()
        self.made: set[tuple[str, str]] = set()

    def path(self, kind: Kind, digest: Digest) -> Path:
        """Return where the entry of a kind and digest is or would be.

        Raises NotADigest if the digest is none.

        Args:
            kind: One whose things are named by digests.
            digest: Its name.

        Returns:
            The directory.
        """
        assert kind.form in (Form.ENTRY, Form.WORK)
        return self.place(kind) / Digest(digest)

    def place(self, kind: Kind) -> Path:
        """Return where a kind is: its directory, or its file."""
        return self.root / kind.name

    def find(self, kind: Kind, digest: Digest) -> Path | None:
        """Return an entry's directory if it is there and its files have the recorded sizes.

        A damaged entry is reported once. It counts as absent, and `obtain` makes it anew.

        Args:
            kind: What it is.
            digest: Its name.

        Returns:
            The directory; None if there is no whole entry.
        """
        if self._metadata(kind, digest) is None:
            return None
        self.found.add((kind.name, digest))
        return self.path(kind, digest)

    def _metadata(self, kind: Kind, digest: Digest) -> EntryMetadata | None:
        path = self.path(kind, digest)
        self.note_use(kind, digest, path)
        try:
            metadata = read_metadata(path)
            fault = missing_or_resized(path, metadata)
        except FileNotFoundError:
            return None
        except Malformed as error:
            fault = f"{ENTRY}: {error.reason}"
        if not fault:
            return metadata
        if path not in self._reported_damaged:
            self._reported_damaged.add(path)
            self.progress.say(f"{kind}/{digest[:16]} in the store is damaged ({fault}): not used")
        return None

    def note_use(self, kind: Kind, name: str, path: Path) -> None:
        """Record that this process uses something; it is not removed while the process lives.

        Args:
            kind: What it is.
            name: Its digest, or its directory's name.
            path: Where it is.
        """
        self._uses.add(kind, name, path)

    def in_use(self, kind: Kind, name: str) -> bool:
        """Return whether a process that lives, other than this one, uses something.

        Args:
            kind: What it is.
            name: Which one: a digest or a file's name.
        """
        return self._uses.by_others(kind, name)

    def last_use(self, kind: Kind, name: str, path: Path | None = None) -> float:
        """Return when something was last found.

        Args:
            kind: What it is.
            name: Its digest, or its directory's name.
            path: Where it is, if that is not the directory of an entry.

        Returns:
            Seconds since 1970; of what was never found, when it was made; 0 if it is gone.
        """
        made = path or self.path(kind, Digest(name)) / ENTRY
        for noted in (self._uses.directory(kind, name), made, made.parent):
            with contextlib.suppress(OSError):
                return noted.stat().st_mtime
        return 0.0

    def remove(self, kind: Kind, name: str, path: Path | None = None) -> bool:
        """Remove something unless somebody uses or makes it.

        Raises BadInput if the store is not writable.

        Args:
            kind: What it is.
            name: Its digest, or its directory's name.
            path: Where it is, if that is not the directory of an entry.

        Returns:
            Whether it is gone.
        """
        lock_name = f"{kind}-{name}"
        path = path or self.path(kind, Digest(name))
        with self.lock_if_free(lock_name) as ours, self.disk_errors():
            if not ours or self.in_use(kind, name):
                return False
            # Who looks for it from now on waits for our lock; who found it before has recorded it.
            aside = put_aside(self.root, path, lock_name)
            if aside and self.in_use(kind, name):
                aside.rename(path)
                return False
            if aside:
                remove_tree(aside)
                remove_tree(self._uses.directory(kind, name))
        self._uses.forget(kind, name)
        return True

    def discard(self, kind: Kind, name: str, path: Path | None = None) -> None:
        """Remove something, whoever uses it: files that are open stay readable.

        Raises BadInput if the store is not writable.

        Args:
            kind: What it is.
            name: Its digest, or its directory's name.
            path: Where it is, if that is not the directory of an entry.
        """
        lock_name = f"{kind}-{name}"
        path = path or self.path(kind, Digest(name))
        with self.lock(lock_name, f"{kind}/{name[:16]}"), self.disk_errors():
            aside = put_aside(self.root, path, lock_name)
            if aside:
                remove_tree(aside)

    def describe(self, path: Path) -> dict[str, Any]:
        """Return what was recorded about an entry when it was made.

        Raises Malformed if entry.json is damaged, OSError if the entry is gone.

        Args:
            path: The entry's directory.

        Returns:
            What its maker has returned.
        """
        return dict(read_metadata(path).about)

    def obtain(
        self,
        kind: Kind,
        digest: Digest,
        make: Callable[[StagingDirectory], dict[str, Any]],
        *,
        label: str,
    ) -> Path:
        """Return an entry, making it if it is not there; concurrent callers make it once.

        If that fails, nothing half-made is left.

        Raises BadInput if the store is not writable, HarnessError if the store's disk is full.

        Args:
            kind: What it is.
            digest: Names it: a digest of all that decides what is made.
            make: Fills `work.entry`, and returns what is to be recorded about it, as JSON.
            label: What is made, in words, for those who wait.

        Returns:
            The entry's directory.
        """
        found = self.find(kind, digest)
        if found:
            return found
        with self.lock(f"{kind}-{digest}", label):
            found = self.find(kind, digest)
            if found:
                return found
            with self.work(f"{kind}-{digest}") as work:
                work.entry.mkdir()
                about = make(work)
                self.made.add((kind.name, digest))
                self._publish(work.entry, kind, digest, about)
        # This records the use.
        return self.find(kind, digest) or self.path(kind, digest)

    def _publish(self, entry: Path, kind: Kind, digest: Digest, about: dict[str, Any]) -> None:
        """Move an entry to its place. Digests of files that can be written leave out holes."""
        files = dict(files_below(entry)) if kind.sized else {}
        content = file_digest if kind.read_only else sparse_digest
        tree, stamps = (None, None) if kind.sized else tree_digests(entry, without=ENTRY)
        metadata = EntryMetadata(
            about=about,
            sizes={name: status.st_size for name, status in files.items()},
            sha256={name: content(entry / name) for name in files},
            sized=kind.sized,
            sparse=not kind.read_only,
            tree=tree,
            stamps=stamps,
        )
        for name, status in files.items():
            if kind.read_only:
                (entry / name).chmod(status.st_mode & ~0o222)
        write_whole(entry / ENTRY, metadata.text())
        path = self.path(kind, digest)
        path.parent.mkdir(parents=True, exist_ok=True)
        remove_tree(path)
        entry.rename(path)
        self._reported_damaged.discard(path)

    def damage(self, kind: Kind, digest: Digest) -> tuple[str, ...]:
        """Return what is wrong with an entry, by the digests of its files.

        Of a source that an earlier version has stored only entry.json is read.

        Args:
            kind: What it is.
            digest: Its name.

        Returns:
            One line for each fault; nothing if the entry is whole.
        """
        path = self.path(kind, digest)
        try:
            metadata = read_metadata(path)
        except Malformed as error:
            return (f"{ENTRY}: {error.reason}",)
        except FileNotFoundError as error:
            return (f"{ENTRY}: {error}",)
        return damage_of(path, metadata)

    def new_log_directory(self, name: str) -> Path:
        """Make a fresh directory for the logs of something.

        Raises BadInput if the store is not writable, HarnessError if the store's disk is full.

        Args:
            name: What its name begins with: the cell, for example.

        Returns:
            The directory.
        """
        logs = self.place(LOGS)
        self.clear_abandoned()
        with self.disk_errors():
            logs.mkdir(parents=True, exist_ok=True)
            made = Path(tempfile.mkdtemp(prefix=f"{file_name(name)}-", dir=logs))
        self.note_use(LOGS, made.name, made)
        return made

    @contextlib.contextmanager
    def work(self, name: str) -> Iterator[StagingDirectory]:
        """Give a fresh directory below the store.

        What an interrupted predecessor left, under this name or another, is removed first.

        Raises BadInput if the store is not writable, HarnessError if the store's disk is full.

        Args:
            name: Of the directory. The caller holds the lock of the same name.

        Yields:
            The directory, which is gone afterwards.
        """
        self.clear_abandoned()
        directory = self.place(TEMPORARY) / name
        with self.disk_errors():
            remove_tree(directory)
            with owned(directory):
                try:
                    yield StagingDirectory(directory=directory, entry=directory / "entry")
                finally:
                    with contextlib.suppress(OSError):
                        remove_tree(directory)

    def clear_abandoned(self) -> None:
        """Remove what processes that are gone left in `tmp`; looked for once by each object."""
        if self._cleared:
            return
        self._cleared = True
        with contextlib.suppress(OSError):
            for path in self.place(TEMPORARY).iterdir():
                with contextlib.suppress(OSError):
                    clear_if_abandoned(self.root, path)

    def disk_errors(self) -> AbstractContextManager[None]:
        """Turn errors of the operating system into BadInput or HarnessError with advice."""
        return disk_errors(self.root)

    def lock(self, name: str, label: str) -> AbstractContextManager[None]:
        """Hold the lock of a name; while another process has it, say who and wait.

        Args:
            name: Of the lock: `KIND-DIGEST`, or of other work.
            label: What is made under it, in words, for those who wait.

        Returns:
            The context in which it is held.
        """
        return lock(self.root, name, label, self.progress)

    def lock_if_free(self, name: str) -> AbstractContextManager[bool]:
        """Hold the lock of a name if nobody has it.

        Args:
            name: Any name; equal names exclude each other.

        Returns:
            A context that gives whether the lock is held.
        """
        return lock_if_free(self.root, name)
