"""The store: a directory of digests that builds are published into, whole or not at all."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import hashlib
import io
import json
import os
import shutil
import socket
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pytest_kernelvm.errors import BadInput, Evidence, HarnessError, KernelvmError
from pytest_kernelvm.progress import Progress

ENTRY = "entry.json"
STORE_VARIABLE = "KERNELVM_STORE"
USES = "uses"
ELSEWHERE_S = 86400.0
FULL = (errno.ENOSPC, errno.EDQUOT)


def default_store() -> Path:
    """Return $KERNELVM_STORE, or `kernelvm` in the user's cache directory."""
    named = os.environ.get(STORE_VARIABLE)
    if named:
        return Path(named)
    cache = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(cache) / "kernelvm"


def digest_of(value: Any) -> str:
    """Return the sha256, in hex, of a JSON value; the order of keys does not matter."""
    text = json.dumps(value, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()


def file_digest(path: Path) -> str:
    """Return the sha256 of a file's bytes, in hex."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def raise_if_full(said: str) -> None:
    """Raise the OSError of a full disk if a program said that it met one."""
    full = os.strerror(errno.ENOSPC)
    if full in said:
        raise OSError(errno.ENOSPC, full)


def write_whole(path: Path, data: bytes) -> None:
    """Write a file so that it is there with all its bytes or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f"{path.name}.{os.getpid()}.tmp")
    try:
        with temporary.open("wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


def remove_tree(path: Path) -> None:
    """Remove a directory with all below it, read-only directories included."""
    if not path.exists():
        return
    for directory, names, _files in os.walk(path):
        for name in names:
            below = Path(directory, name)
            if not below.is_symlink():
                below.chmod(0o755)
    shutil.rmtree(path)


def _this_process() -> str:
    return f"{socket.gethostname()}-{os.getpid()}-{_started(os.getpid())}"


def _started(pid: int) -> str:
    """Return when a process was started, which tells it from another of that number; empty if gone.

    proc(5): field 22 of stat; the second one is in parentheses and may hold anything.
    """
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[19]
    except (OSError, IndexError):
        return ""


def _may_live(user: Path) -> bool:
    """Whether the process of a note lives; of those on other hosts nobody knows for a day."""
    host, pid, started = user.name.rsplit("-", 2)
    if host == socket.gethostname():
        return pid.isdecimal() and bool(started) and _started(int(pid)) == started
    return time.time() - user.stat().st_mtime < ELSEWHERE_S


def _is_plain(path: Path) -> bool:
    return path.is_file() and not path.is_symlink()


def _fault(path: Path, size_bytes: int, digest: str) -> str:
    try:
        found = path.stat().st_size
        if found != size_bytes:
            return f"{found} bytes instead of {size_bytes}"
        if digest and file_digest(path) != digest:
            return "other bytes than were put there"
    except OSError as error:
        return error.strerror or str(error)
    return ""


@dataclass(frozen=True, kw_only=True, slots=True)
class Work:
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
        self.found: set[tuple[str, str]] = set()
        self.made: set[tuple[str, str]] = set()

    def path(self, kind: str, digest: str) -> Path:
        """Return where the entry of a kind and digest is or would be."""
        return self.root / kind / digest

    def find(self, kind: str, digest: str) -> Path | None:
        """Return an entry's directory if it is there and its files have the sizes noted."""
        path = self.path(kind, digest)
        self._use(kind, digest)
        try:
            noted = json.loads((path / ENTRY).read_bytes())
            sizes: dict[str, int] = noted["sizes"]
            whole = all((path / name).stat().st_size == size for name, size in sizes.items())
        except (OSError, ValueError, KeyError, TypeError, AttributeError):
            return None
        if whole:
            self.found.add((kind, digest))
        return path if whole else None

    def _use(self, kind: str, digest: str) -> None:
        """Note that this process uses an entry; as long as it lives, the entry is not collected.

        What others noted who are gone is cleared away. Where nothing can be written, nothing can
        be collected either.
        """
        name = f"{kind}-{digest}"
        if name in self._used or not self.path(kind, digest).is_dir():
            return
        self._used.add(name)
        with contextlib.suppress(OSError):
            users = self.root / USES / name
            users.mkdir(parents=True, exist_ok=True)
            (users / _this_process()).touch()
            os.utime(users)
            for user in users.iterdir():
                if not _may_live(user):
                    user.unlink(missing_ok=True)

    def in_use(self, kind: str, digest: str) -> bool:
        """Whether a process that lives, other than this one, has found an entry."""
        users = self.root / USES / f"{kind}-{digest}"
        with contextlib.suppress(OSError):
            return any(_may_live(u) for u in users.iterdir() if u.name != _this_process())
        return False

    def last_use(self, kind: str, digest: str) -> float:
        """Return when an entry was last found, in seconds since 1970; of old ones, when made."""
        for path in (self.root / USES / f"{kind}-{digest}", self.path(kind, digest) / ENTRY):
            with contextlib.suppress(OSError):
                return path.stat().st_mtime
        return 0.0

    def remove(self, kind: str, digest: str) -> bool:
        """Remove an entry unless somebody uses or makes it; return whether it is gone."""
        name = f"{kind}-{digest}"
        path, aside = self.path(kind, digest), self.root / "tmp" / f"removed-{name}"
        with self.lock_if_free(name) as ours:
            if not ours or self.in_use(kind, digest):
                return False
            remove_tree(aside)
            aside.parent.mkdir(exist_ok=True)
            # Whoever finds it from now on waits for our lock; whoever did just before noted it.
            try:
                path.rename(aside)
            except FileNotFoundError:
                # Somebody else was faster.
                return True
            if self.in_use(kind, digest):
                aside.rename(path)
                return False
            remove_tree(aside)
            remove_tree(self.root / USES / name)
        self._used.discard(name)
        return True

    def describe(self, path: Path) -> dict[str, Any]:
        """Return what was noted about an entry when it was made."""
        about: dict[str, Any] = json.loads((path / ENTRY).read_bytes())["about"]
        return about

    def obtain(
        self,
        kind: str,
        digest: str,
        make: Callable[[Work], dict[str, Any]],
        *,
        label: str,
        sized: bool = True,
        frozen: bool = True,
    ) -> Path:
        """Return an entry, making it if it is not there; concurrent callers make it once.

        make: fills `work.entry` and returns what is to be noted about it, as JSON.
        label: what is made, in words, for those who wait.
        sized: whether every file's size is noted and verified at each use. frozen: whether such
        files become read-only and their digests are noted.
        Raises HarnessError if the disk is full or not writable; then nothing half-made is left.
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
        digest: str,
        about: dict[str, Any],
        *,
        sized: bool,
        frozen: bool,
    ) -> None:
        """Move an entry to its place. A frozen one never changes: its files become read-only."""
        files = [path for path in entry.rglob("*") if sized and _is_plain(path)]
        sizes = {str(path.relative_to(entry)): path.stat().st_size for path in files}
        kept = files if frozen else []
        sha256 = {str(path.relative_to(entry)): file_digest(path) for path in kept}
        for path in kept:
            path.chmod(path.stat().st_mode & ~0o222)
        noted = {"about": about, "sizes": sizes, "sha256": sha256}
        write_whole(entry / ENTRY, json.dumps(noted, indent=1, sort_keys=True).encode())
        path = self.path(kind, digest)
        path.parent.mkdir(parents=True, exist_ok=True)
        remove_tree(path)
        entry.rename(path)

    def damage(self, kind: str, digest: str) -> tuple[str, ...]:
        """Return what is wrong with an entry, by the digests of its files; nothing if it is whole.

        An entry whose sizes are not noted, such as a source, is only looked for.
        """
        path = self.path(kind, digest)
        try:
            noted = json.loads((path / ENTRY).read_bytes())
            sizes: dict[str, int] = noted["sizes"]
            digests: dict[str, str] = noted.get("sha256", {})
        except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
            return (f"{ENTRY}: {error}",)
        return tuple(
            f"{name}: {fault}"
            for name, size in sizes.items()
            if (fault := _fault(path / name, size, digests.get(name, "")))
        )

    def new_log_directory(self, name: str) -> Path:
        """Make and return a fresh directory for the logs of something called `name`.

        Raises BadInput if the store is not writable, HarnessError if its disk is full.
        """
        logs = self.root / "logs"
        try:
            logs.mkdir(parents=True, exist_ok=True)
            return Path(tempfile.mkdtemp(prefix=f"{name}-", dir=logs))
        except OSError as error:
            raise self._not_writable(error) from None

    @contextlib.contextmanager
    def work(self, name: str) -> Iterator[Work]:
        """Give a fresh directory below the store; call it with the lock of the same name held.

        What an interrupted predecessor left under the same name is removed first.
        """
        directory = self.root / "tmp" / name
        try:
            with self.disk_errors():
                remove_tree(directory)
                directory.mkdir(parents=True)
                yield Work(directory=directory, entry=directory / "entry")
        finally:
            with contextlib.suppress(OSError):
                remove_tree(directory)

    @contextlib.contextmanager
    def disk_errors(self) -> Iterator[None]:
        """Turn errors of the operating system into HarnessError with advice.

        A program that met a full disk says so in words.
        """
        try:
            yield
        except OSError as error:
            raise self._failed(error) from error
        except HarnessError as error:
            try:
                raise_if_full(error.evidence.excerpt)
            except OSError as full:
                raise self._failed(full) from error
            raise

    def _not_writable(self, error: OSError) -> KernelvmError:
        if error.errno in FULL:
            return self._failed(error)
        return BadInput(
            f"the store is not writable: {error}",
            Evidence(
                where=(str(self.root),),
                next_step=f"name another directory with {STORE_VARIABLE}",
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
                self.progress.say(f"waiting for {label}, {_holder(path)}")
                announced = True
            self.progress.update(f"waiting for {label}: {waited_s:.0f} s")
            time.sleep(0.1)


def _holder(path: Path) -> str:
    try:
        holder = json.loads(path.read_text())
        return f"being made by pid {holder['pid']} on {holder['host']}"
    except (OSError, ValueError, KeyError):
        return "being made by another process"
