"""The store: a directory of digests that builds are published into, whole or not at all."""

from __future__ import annotations

import contextlib
import fcntl
import io
import json
import os
import re
import socket
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pytest_kernelvm.errors import BadInput, Evidence, HarnessError, KernelvmError
from pytest_kernelvm.foreign.json_fields import Malformed, file_name
from pytest_kernelvm.progress import Progress
from pytest_kernelvm.store.digest import Digest, file_digest, sparse_digest, tree_digests
from pytest_kernelvm.store.note import (
    ENTRY,
    Note,
    damage_of,
    files_below,
    missing_or_resized,
    read_note,
)
from pytest_kernelvm.store.owners import (
    ABANDONED_S,
    holder,
    locked_if_free,
    may_live,
    owned,
    this_process,
)
from pytest_kernelvm.store.writing import FULL, REFUSED, raise_if_full, remove_tree, write_whole

STORE_VARIABLE = "KERNELVM_STORE"
# Files that are named by the digest of their content.
ARCHIVES = "initramfs"
LOCKS, LOGS, REQUESTS, TEMPORARY, USES = "locks", "logs", "requests", "tmp", "uses"
# Build directories, and in each the note of what it was built from (build_directories.py).
BUILDS, BUILD_NOTE = "builds", "note.json"
_KIND = re.compile(r"[a-z]+(-[a-z]+)*")
# Names in `tmp`: of what is being removed, and of what has no owner's lock (bundle_writer.py).
_REMOVED, _LOCKLESS = "removed-", "failure-"
_NO_KINDS = (LOCKS, LOGS, REQUESTS, TEMPORARY, USES)


def default_store() -> Path:
    """Return $KERNELVM_STORE, or `kernelvm` in the user's cache directory."""
    named = os.environ.get(STORE_VARIABLE)
    if named:
        return Path(named)
    cache = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(cache) / "kernelvm"


@dataclass(frozen=True, kw_only=True, slots=True)
class StagingDirectory:
    """A directory to work in, which is gone afterwards, and the entry below it to be filled."""

    directory: Path
    entry: Path


class Store:
    """A content-addressed directory that several processes share.

    root: where it is; made when first written to.
    progress: told when another process is waited for.
    found, made: kinds and digests of what this object found and made.
    """

    def __init__(self, root: Path, progress: Progress) -> None:
        self.root = root
        self.progress = progress
        self._used: set[str] = set()
        self._told_damaged: set[tuple[str, str]] = set()
        self._cleared = False
        self.found: set[tuple[str, str]] = set()
        self.made: set[tuple[str, str]] = set()

    def path(self, kind: str, digest: Digest) -> Path:
        """Return where the entry of a kind and digest is or would be.

        The one place where paths of entries are made. Raises NotADigest if the digest is none.
        """
        assert _KIND.fullmatch(kind)
        assert kind not in _NO_KINDS
        return self.root / kind / Digest(digest)

    def find(self, kind: str, digest: Digest) -> Path | None:
        """Return an entry's directory if it is there and its files have the sizes noted.

        One that is damaged is told once; it is not there, and `obtain` makes it anew.
        """
        note = self._note(kind, digest)
        if note is None:
            return None
        self.found.add((kind, digest))
        return self.path(kind, digest)

    def _note(self, kind: str, digest: Digest) -> Note | None:
        path = self.path(kind, digest)
        self.note_use(kind, digest, path)
        try:
            note = read_note(path)
            fault = missing_or_resized(path, note)
        except FileNotFoundError:
            return None
        except Malformed as error:
            fault = f"{ENTRY}: {error.reason}"
        if not fault:
            return note
        if (kind, digest) not in self._told_damaged:
            self._told_damaged.add((kind, digest))
            self.progress.say(f"{kind}/{digest[:16]} in the store is damaged ({fault}): not used")
        return None

    def note_use(self, kind: str, digest: str, path: Path) -> None:
        """Note that this process uses something; as long as it lives, that is not collected.

        path: where it is. What others noted who are gone is cleared away. Where nothing can be
        written, nothing can be collected either.
        """
        name = f"{kind}-{digest}"
        if name in self._used or not path.exists():
            return
        self._used.add(name)
        with contextlib.suppress(OSError):
            users = self.root / USES / name
            users.mkdir(parents=True, exist_ok=True)
            (users / this_process()).touch()
            os.utime(users)
            for user in users.iterdir():
                if not may_live(user):
                    user.unlink(missing_ok=True)

    def in_use(self, kind: str, digest: str) -> bool:
        """Whether a process that lives, other than this one, has found an entry."""
        users = self.root / USES / f"{kind}-{digest}"
        with contextlib.suppress(OSError):
            return any(may_live(u) for u in users.iterdir() if u.name != this_process())
        return False

    def last_use(self, kind: str, digest: Digest, path: Path | None = None) -> float:
        """Return when an entry was last found, in seconds since 1970; of old ones, when made.

        path: where it is, if that is not the directory of an entry.
        """
        made = path or self.path(kind, digest) / ENTRY
        for noted in (self.root / USES / f"{kind}-{digest}", made, made.parent):
            with contextlib.suppress(OSError):
                return noted.stat().st_mtime
        return 0.0

    def remove(self, kind: str, digest: Digest, path: Path | None = None) -> bool:
        """Remove an entry unless somebody uses or makes it; return whether it is gone.

        path: where it is, if that is not the directory of an entry.
        Raises BadInput if the store is not writable.
        """
        name = f"{kind}-{digest}"
        path = path or self.path(kind, digest)
        with self.lock_if_free(name) as ours, self.disk_errors():
            if not ours or self.in_use(kind, digest):
                return False
            # Whoever finds it from now on waits for our lock; whoever did just before noted it.
            aside = self._put_aside(path, name)
            if aside and self.in_use(kind, digest):
                aside.rename(path)
                return False
            if aside:
                remove_tree(aside)
                remove_tree(self.root / USES / name)
        self._used.discard(name)
        return True

    def discard(self, kind: str, digest: Digest) -> None:
        """Remove an entry that is damaged, whoever uses it: what he has opened he keeps.

        Raises BadInput if the store is not writable.
        """
        name = f"{kind}-{digest}"
        with self.lock(name, f"{kind}/{digest[:16]}"), self.disk_errors():
            aside = self._put_aside(self.path(kind, digest), name)
            if aside:
                remove_tree(aside)

    def _put_aside(self, path: Path, name: str) -> Path | None:
        """Move something out of the way in one step; None if somebody else was faster."""
        aside = self.root / TEMPORARY / f"{_REMOVED}{name}"
        remove_tree(aside)
        aside.parent.mkdir(exist_ok=True)
        try:
            path.rename(aside)
        except FileNotFoundError:
            return None
        return aside

    def describe(self, path: Path) -> dict[str, Any]:
        """Return what was noted about an entry when it was made.

        Raises Malformed if its note is damaged, OSError if it is gone.
        """
        return dict(read_note(path).about)

    def obtain(
        self,
        kind: str,
        digest: Digest,
        make: Callable[[StagingDirectory], dict[str, Any]],
        *,
        label: str,
        sized: bool = True,
        frozen: bool = True,
    ) -> Path:
        """Return an entry, making it if it is not there; concurrent callers make it once.

        make: fills `work.entry` and returns what is to be noted about it, as JSON.
        label: what is made, in words, for those who wait.
        sized: whether every file's size is noted and verified at each use. frozen: whether such
        files become read-only; else their digests leave out holes.
        Raises BadInput if the store is not writable, HarnessError if its disk is full; then nothing
        half-made is left.
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
                self.made.add((kind, digest))
                self._publish(work.entry, kind, digest, about, sized=sized, frozen=frozen)
        # Now it is used.
        return self.find(kind, digest) or self.path(kind, digest)

    def _publish(
        self,
        entry: Path,
        kind: str,
        digest: Digest,
        about: dict[str, Any],
        *,
        sized: bool,
        frozen: bool,
    ) -> None:
        """Move an entry to its place. A frozen one never changes: its files become read-only."""
        files = dict(files_below(entry)) if sized else {}
        content = file_digest if frozen else sparse_digest
        tree, stamps = (None, None) if sized else tree_digests(entry, without=ENTRY)
        note = Note(
            about=about,
            sizes={name: status.st_size for name, status in files.items()},
            sha256={name: content(entry / name) for name in files},
            sized=sized,
            sparse=not frozen,
            tree=tree,
            stamps=stamps,
        )
        for name, status in files.items():
            if frozen:
                (entry / name).chmod(status.st_mode & ~0o222)
        write_whole(entry / ENTRY, note.text())
        path = self.path(kind, digest)
        path.parent.mkdir(parents=True, exist_ok=True)
        remove_tree(path)
        entry.rename(path)
        self._told_damaged.discard((kind, digest))

    def damage(self, kind: str, digest: Digest) -> tuple[str, ...]:
        """Return what is wrong with an entry, by the digests of its files; nothing if it is whole.

        Of a source of an earlier version's store only the note is read.
        """
        path = self.path(kind, digest)
        try:
            note = read_note(path)
        except Malformed as error:
            return (f"{ENTRY}: {error.reason}",)
        except FileNotFoundError as error:
            return (f"{ENTRY}: {error}",)
        return damage_of(path, note)

    def new_log_directory(self, name: str) -> Path:
        """Make and return a fresh directory for the logs of something called `name`.

        Raises BadInput if the store is not writable, HarnessError if its disk is full.
        """
        logs = self.root / LOGS
        self.clear_abandoned()
        with self.disk_errors():
            logs.mkdir(parents=True, exist_ok=True)
            made = Path(tempfile.mkdtemp(prefix=f"{file_name(name)}-", dir=logs))
        self.note_use(LOGS, made.name, made)
        return made

    @contextlib.contextmanager
    def work(self, name: str) -> Iterator[StagingDirectory]:
        """Give a fresh directory below the store; call it with the lock of the same name held.

        What an interrupted predecessor left, under this name or another, is removed first.
        """
        self.clear_abandoned()
        directory = self.root / TEMPORARY / name
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
            for path in (self.root / TEMPORARY).iterdir():
                with contextlib.suppress(OSError):
                    self._clear_if_abandoned(path)

    def _clear_if_abandoned(self, path: Path) -> None:
        """Remove a directory of `tmp` if its owner, who would hold its lock, is gone."""
        old = time.time() - path.lstat().st_mtime > ABANDONED_S
        if path.name.startswith(_REMOVED):
            with self.lock_if_free(path.name.removeprefix(_REMOVED)) as ours:
                if ours:
                    remove_tree(path)
        elif path.name.startswith(_LOCKLESS):
            if old:
                remove_tree(path)
        else:
            with locked_if_free(path) as ours:
                if ours or (ours is None and old):
                    remove_tree(path)

    @contextlib.contextmanager
    def disk_errors(self) -> Iterator[None]:
        """Turn errors of the operating system into HarnessError with advice.

        A program that met a full disk says so in words.
        """
        try:
            yield
        except OSError as error:
            refused = error.errno in REFUSED and self._is_ours(error.filename)
            raise (self._not_writable if refused else self._failed)(error) from error
        except HarnessError as error:
            try:
                raise_if_full(error.evidence.excerpt)
            except OSError as full:
                raise self._failed(full) from error
            raise

    def _is_ours(self, name: object) -> bool:
        return name is None or Path(str(name)).is_relative_to(self.root)

    def _not_writable(self, error: OSError) -> KernelvmError:
        if error.errno in FULL:
            return self._failed(error)
        return BadInput(
            f"the store is not writable: {error}",
            Evidence(
                where=(str(self.root),),
                next_step="make it and all below it yours to write, or name another directory "
                f"with {STORE_VARIABLE}",
            ),
        )

    def _failed(self, error: OSError) -> HarnessError:
        full = error.errno in FULL
        return HarnessError(
            f"the disk of the store is full: {error}" if full else f"the store failed: {error}",
            Evidence(
                where=(str(self.root),),
                next_step=f"make room, or name another directory with {STORE_VARIABLE}",
            ),
        )

    def _lock_path(self, name: str) -> Path:
        return self.root / "locks" / f"{name}.lock"

    def _open_lock(self, path: Path) -> io.FileIO:
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            return path.open("ab", buffering=0)
        except OSError as error:
            raise self._not_writable(error) from None

    @contextlib.contextmanager
    def lock(self, name: str, label: str) -> Iterator[None]:
        """Hold the lock of a name; while another process has it, say who and wait."""
        path = self._lock_path(name)
        with self._open_lock(path) as file:
            self._wait_for(file.fileno(), path, label)
            holder = {"pid": os.getpid(), "host": socket.gethostname(), "label": label}
            # Only told to those who wait; a full disk is complained of by what is made here.
            with contextlib.suppress(OSError):
                file.truncate(0)
                file.write(json.dumps(holder).encode())
            yield

    @contextlib.contextmanager
    def lock_if_free(self, name: str) -> Iterator[bool]:
        """Hold the lock of a name if nobody has it; give whether it is held."""
        with self._open_lock(self._lock_path(name)) as file:
            try:
                fcntl.flock(file.fileno(), fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                yield False
            else:
                yield True

    def _wait_for(self, descriptor: int, path: Path, label: str) -> None:
        started = time.monotonic()
        announced = False
        while True:
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                return
            except BlockingIOError:
                waited_s = time.monotonic() - started
            if not announced:
                self.progress.say(f"waiting for {label}, {holder(path)}")
                announced = True
            self.progress.update(f"waiting for {label}: {waited_s:.0f} s")
            time.sleep(0.1)
