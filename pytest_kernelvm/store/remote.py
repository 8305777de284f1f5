"""A store elsewhere, through fsspec: built kernels are fetched from it and, if allowed, put there.

    requests/REQUEST.json   which kernel a request means, and digests of the archives
    kernels/DIGEST.tar.gz   an entry; devel/DIGEST.tar.gz: what modules are built against

Archives are put there before the records of requests that name them. No failure here stops a
build: a kernel that can't be fetched, or has another digest, is reported in one line and built.

The server may be hostile. All that it says is parsed into values that are checked before anything
is touched, and what it sends has limits in bytes and in time.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from pytest_kernelvm.errors import BadInput, Evidence, HarnessError, KernelvmError, ToolMissing
from pytest_kernelvm.foreign.json_fields import Fields, Malformed, parse_json
from pytest_kernelvm.process import Deadline, run
from pytest_kernelvm.store.digest import Digest, file_digest
from pytest_kernelvm.store.kernel_metadata import (
    MOST_REQUEST_BYTES,
)
from pytest_kernelvm.store.kinds import DEVEL, KERNELS, Kind
from pytest_kernelvm.store.metadata import noted_digest
from pytest_kernelvm.store.remote_archives import MOST_SHOWN, checked_entry, entry_of, unpack_entry
from pytest_kernelvm.store.store import Store
from pytest_kernelvm.store.writing import FULL

VARIABLE = "KERNELVM_REMOTE"
WRITE_VARIABLE = "KERNELVM_REMOTE_WRITE"
KINDS = (DEVEL, KERNELS)
TAR_TIMEOUT_S = 600.0
SILENCE_S = 30.0
_CHUNK_BYTES = 1 << 20

T = TypeVar("T")


@dataclass(frozen=True, kw_only=True, slots=True)
class RemoteLimits:
    """What a remote store may cost.

    Attributes:
        note_s: Seconds until the record of a request is there.
        archive_s: Seconds until an archive is there.
        archive_bytes: Of each archive, packed.
    """

    note_s: float = 30.0
    archive_s: float = 1800.0
    archive_bytes: int = 4 << 30


@dataclass(frozen=True, kw_only=True, slots=True)
class Answer:
    """What a remote store says about a request, checked.

    Attributes:
        kernel: Digest that names the kernel.
        sha256: Digests of its archives, by the name of the kind.
        cell: Name of the cell that it was built for first.
    """

    kernel: Digest
    sha256: Mapping[str, Digest]
    cell: str

    @classmethod
    def read(cls, data: bytes) -> Answer:
        """Return what the record of a request says.

        Raises Malformed if it is no such record.

        Args:
            data: The bytes of the record.

        Returns:
            The answer.
        """
        noted = Fields(parse_json(data, most_bytes=MOST_REQUEST_BYTES))
        digests, kernel = noted.fields("sha256"), noted_digest(noted.take("kernel"))
        sha256 = {kind.name: noted_digest(digests.take(kind.name)) for kind in KINDS}
        cell = noted.printable("cell", most=200) if noted.has("cell") else kernel[:16]
        return cls(kernel=kernel, sha256=sha256, cell=cell)


class Remote:
    """A store elsewhere.

    Args:
        url: file://, http(s)://, s3://, ssh:// or whatever fsspec knows.
        writable: Whether what is built here is put there.
        options: For fsspec's file system.
        limits: What it may cost.

    Attributes:
        url: Without name and password, as it is shown and recorded.
        writable: As given.

    Raises:
        ToolMissing: fsspec is not installed.
        BadInput: The address is none that fsspec knows.
    """

    def __init__(
        self,
        url: str,
        *,
        writable: bool,
        options: Mapping[str, Any] | None = None,
        limits: RemoteLimits | None = None,
    ):
        try:
            import fsspec
        except ImportError:
            raise ToolMissing(
                "a remote store needs fsspec",
                Evidence(next_step="pip install 'pytest-kernelvm[remote]'"),
            ) from None
        # User and password stand before an @; the URL is shown and recorded.
        self.url = re.sub(r"//[^/@]*@", "//", url.rstrip("/"))
        self.writable = writable
        self._limits = limits or RemoteLimits()
        try:
            given = {**_waiting_for(url), **(options or {})}
            self._files, self._root = fsspec.core.url_to_fs(url.rstrip("/"), **given)
        except (ValueError, ImportError) as error:
            raise BadInput(
                f"{self.url!r} is not the address of a remote store: {error}",
                Evidence(expected="file://, http://, https://, s3:// or ssh://"),
            ) from None

    def fetch(self, store: Store, request: Digest) -> Digest | None:
        """Copy the kernel of a request into a store.

        What goes wrong is shown in one line, and stops nothing.

        Args:
            store: Where it is put.
            request: Digest of the request.

        Returns:
            The kernel's digest; None if it is not to be had.
        """
        return self._attempt(store, "nothing is taken from", lambda: self._fetch(store, request))

    def _fetch(self, store: Store, request: Digest) -> Digest | None:
        name = f"requests/{Digest(request)}.json"
        try:
            data = self._read_note(name)
        except FileNotFoundError:
            return None
        try:
            answer = Answer.read(data)
        except Malformed as error:
            raise Malformed(f"{name}: {error.reason}") from None
        with store.work(f"fetch-{request}") as work:
            # All of it is checked before any of it is in the store.
            abouts = {kind: self._unpack(work.directory, kind, answer) for kind in KINDS}
            for kind, about in abouts.items():
                store.obtain(
                    kind,
                    answer.kernel,
                    entry_of(work.directory / kind.name, about),
                    label=f"{kind}/{answer.kernel[:16]} from {self.url}",
                )
        store.progress.say(f"took {answer.cell} from {self.url}")
        return answer.kernel

    def _read_note(self, name: str) -> bytes:
        found = bytearray()
        self._read(name, found.extend, most_bytes=MOST_REQUEST_BYTES, timeout_s=self._limits.note_s)
        return bytes(found)

    def _unpack(self, directory: Path, kind: Kind, answer: Answer) -> dict[str, Any]:
        """Fetch an archive and unpack it; return what it says about itself."""
        archive = directory / "archive"
        name = f"{kind}/{answer.kernel}.tar.gz"
        limits, total = self._limits, hashlib.sha256()
        with archive.open("xb") as sink:

            def take(data: bytes) -> None:
                total.update(data)
                sink.write(data)

            try:
                self._read(name, take, most_bytes=limits.archive_bytes, timeout_s=limits.archive_s)
            except FileNotFoundError:
                raise Malformed(f"{kind}/{answer.kernel[:16]}.tar.gz is not there") from None
        if total.hexdigest() != answer.sha256[kind.name]:
            raise Malformed(f"{kind}/{answer.kernel[:16]} has other bytes than its digest says")
        entry = directory / kind.name
        entry.mkdir()
        unpack_entry(archive, entry)
        archive.unlink()
        return {**checked_entry(entry, kind, answer.kernel), "remote": self.url}

    def _read(
        self, name: str, take: Callable[[bytes], object], *, most_bytes: int, timeout_s: float
    ) -> None:
        """Pass a file's bytes on piece by piece.

        Raises FileNotFoundError if it is not there, Malformed if it has too many bytes, or is no
        file, HarnessError if it takes too long.
        """
        path, deadline = f"{self._root}/{name}", Deadline(timeout_s)

        def read() -> None:
            count = 0
            with self._opened(path) as file:
                while not deadline.passed and (data := file.read(_CHUNK_BYTES)):
                    count += len(data)
                    if count > most_bytes:
                        raise Malformed(f"{name} has more than {most_bytes} bytes")
                    take(data)

        _within(deadline, read, name)

    def _opened(self, path: str) -> Any:
        protocols = self._files.protocol
        if {"http", "https"} & {*([protocols] if isinstance(protocols, str) else protocols)}:
            # As a stream: a server that is asked for a part may send the whole file, or bytes
            # without end. Without a size fsspec would ask for it first.
            return self._files.open(path, "rb", block_size=0, size=1)
        kind = self._files.info(path).get("type", "file")
        if kind != "file":
            raise Malformed(f"{path} is no file but of the kind {kind}")
        return self._files.open(path, "rb")

    def put(self, store: Store, request: Digest, digest: Digest, cell: str) -> None:
        """Put a kernel of a store there, unless it is there already or we may not.

        What goes wrong is shown in one line, and stops nothing.

        Args:
            store: Where the kernel is.
            request: Digest of the request that it is the answer to.
            digest: Names the kernel.
            cell: Name of the cell that it was built for.
        """
        if self.writable:
            self._attempt(
                store, "nothing is put into", lambda: self._put(store, request, digest, cell)
            )

    def _put(self, store: Store, request: Digest, digest: Digest, cell: str) -> None:
        sha256 = {}
        with store.work(f"put-{digest}-{os.getpid()}") as work:
            for kind in KINDS:
                archive = work.directory / f"{kind}.tar.gz"
                argv = ["tar", "--create", "--gzip", f"--file={archive}", "--sort=name"]
                argv += ["--hard-dereference", f"--directory={store.path(kind, digest)}", "."]
                run(argv, timeout_s=TAR_TIMEOUT_S)
                sha256[kind.name] = file_digest(archive)
                self._copy_there(archive, f"{kind}/{digest}.tar.gz")
            note = work.directory / "note.json"
            note.write_text(json.dumps({"kernel": digest, "sha256": sha256, "cell": cell}))
            self._copy_there(note, f"requests/{Digest(request)}.json")
        store.progress.say(f"put {cell} into {self.url}")

    def _copy_there(self, path: Path, name: str) -> None:
        to = f"{self._root}/{name}"
        self._files.makedirs(to.rpartition("/")[0], exist_ok=True)
        # Object stores replace an object in one step, file systems rename.
        temporary = f"{to}.{os.getpid()}.tmp"
        self._files.put_file(str(path), temporary)
        self._files.mv(temporary, to)

    def _attempt(self, store: Store, what: str, work: Callable[[], T]) -> T | None:
        """Do something with the network; what goes wrong is said."""
        try:
            return work()
        # The file systems of fsspec have errors of their own, without a common base class.
        except Exception as error:
            if isinstance(error, KernelvmError) and isinstance(error.__cause__, OSError):
                error = error.__cause__
            if isinstance(error, OSError) and error.errno in FULL:
                raise
            store.progress.say(f"{what} the remote store {self.url}: {_in_a_line(error)}")
            return None


def _waiting_for(url: str) -> dict[str, Any]:
    """Return options by which a web server's whole answer may take long, its silence not."""
    if not url.startswith(("http://", "https://")):
        return {}
    import aiohttp

    limits = aiohttp.ClientTimeout(total=None, sock_connect=SILENCE_S, sock_read=SILENCE_S)
    return {"client_kwargs": {"timeout": limits}}


def _within(deadline: Deadline, work: Callable[[], None], name: str) -> None:
    """Do what may never return in a thread of its own; whatever it raises is raised here.

    Raises:
        HarnessError: It is not done in time; then nobody waits for it.
    """
    raised: list[BaseException] = []

    def attempt() -> None:
        try:
            work()
        except BaseException as error:
            raised.append(error)

    thread = threading.Thread(target=attempt, name=f"remote {name[:40]}", daemon=True)
    thread.start()
    thread.join(deadline.remaining_s)
    if raised:
        raise raised[0]
    if thread.is_alive() or deadline.passed:
        raise HarnessError(f"{name} did not come within {deadline.timeout_s:g} s")


def _in_a_line(error: BaseException) -> str:
    """Return an error in words that fit a line of a terminal, whoever wrote them."""
    said = error.summary if isinstance(error, KernelvmError) else repr(error)
    if isinstance(error, Malformed):
        said = error.reason
    elif isinstance(error, OSError) and error.strerror:
        said = error.strerror
    shown = "".join(each if each.isprintable() else "?" for each in said)
    return shown if len(shown) <= MOST_SHOWN else f"{shown[:MOST_SHOWN]}…"


def remote_of_environment() -> Remote | None:
    """Return the remote store that KERNELVM_REMOTE names; None if it is not set.

    Nothing is put into it unless KERNELVM_REMOTE_WRITE is 1.
    """
    url = os.environ.get(VARIABLE)
    return Remote(url, writable=os.environ.get(WRITE_VARIABLE) == "1") if url else None
