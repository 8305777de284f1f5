"""A store elsewhere, through fsspec: built kernels are fetched from it and, if allowed, put there.

    requests/REQUEST.json   which kernel a request means, and digests of the archives
    kernels/DIGEST.tar.gz   an entry; devel/DIGEST.tar.gz: what modules are built against

Archives are there before the notes that name them. Nothing that goes wrong here stops anything:
what is not to be had, or not what its digest says, is built.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, TypeVar

from pytest_kernelvm.errors import BadInput, Evidence, HarnessError, KernelvmError, ToolMissing
from pytest_kernelvm.kernel.store import ENTRY, FULL, Store, Work, file_digest
from pytest_kernelvm.process import run

VARIABLE = "KERNELVM_REMOTE"
WRITE_VARIABLE = "KERNELVM_REMOTE_WRITE"
KINDS = ("devel", "kernels")
TAR_TIMEOUT_S = 600.0

T = TypeVar("T")


class Remote:
    """A store elsewhere.

    url: file://, http(s)://, s3://, ssh:// or whatever fsspec knows. writable: whether what is
    built here is put there. options: for fsspec's file system.
    """

    def __init__(self, url: str, *, writable: bool, options: Mapping[str, Any] | None = None):
        try:
            import fsspec
        except ImportError:
            raise ToolMissing(
                "a remote store needs fsspec",
                Evidence(next_step="pip install 'pytest-kernelvm[remote]'"),
            ) from None
        self.url = url.rstrip("/")
        self.writable = writable
        try:
            self._files, self._root = fsspec.core.url_to_fs(self.url, **(options or {}))
        except (ValueError, ImportError) as error:
            raise BadInput(
                f"{url!r} is no place for a remote store: {error}",
                Evidence(expected="file://, http://, https://, s3:// or ssh://"),
            ) from None

    def fetch(self, store: Store, request: str) -> str | None:
        """Copy the kernel of a request into a store; return its digest, None if it is not there."""
        return self._attempt(store, "nothing is taken from", lambda: self._fetch(store, request))

    def _fetch(self, store: Store, request: str) -> str | None:
        path = f"{self._root}/requests/{request}.json"
        if not self._files.exists(path):
            return None
        note = json.loads(self._files.cat_file(path))
        digest = str(note["kernel"])
        for kind in KINDS:
            sha256 = str(note["sha256"][kind])
            store.obtain(
                kind,
                digest,
                lambda work, kind=kind, sha256=sha256: self._unpack(  # type: ignore[misc]
                    store, work, kind, digest, sha256
                ),
                label=f"{kind}/{digest[:16]} from {self.url}",
                sized=kind == "kernels",
            )
        store.progress.say(f"took {note.get('cell', digest[:16])} from {self.url}")
        return digest

    def _unpack(
        self, store: Store, work: Work, kind: str, digest: str, sha256: str
    ) -> dict[str, Any]:
        archive = work.directory / "archive"
        self._files.get_file(f"{self._root}/{kind}/{digest}.tar.gz", str(archive))
        if file_digest(archive) != sha256:
            raise BadInput(f"{kind}/{digest[:16]} has other bytes there than its digest says")
        argv = ["tar", "--extract", f"--file={archive}", f"--directory={work.entry}"]
        run([*argv, "--no-same-owner"], timeout_s=TAR_TIMEOUT_S)
        about = store.describe(work.entry)
        (work.entry / ENTRY).unlink()
        return {**about, "remote": self.url}

    def put(self, store: Store, request: str, digest: str, cell: str) -> None:
        """Put a kernel of a store there, unless it is there already or we may not."""
        if self.writable:
            self._attempt(
                store, "nothing is put into", lambda: self._put(store, request, digest, cell)
            )

    def _put(self, store: Store, request: str, digest: str, cell: str) -> None:
        sha256 = {}
        with store.work(f"put-{digest}-{os.getpid()}") as work:
            for kind in KINDS:
                archive = work.directory / f"{kind}.tar.gz"
                argv = ["tar", "--create", "--gzip", f"--file={archive}", "--sort=name"]
                argv += ["--hard-dereference", f"--directory={store.path(kind, digest)}", "."]
                run(argv, timeout_s=TAR_TIMEOUT_S)
                sha256[kind] = file_digest(archive)
                self._copy_there(archive, f"{kind}/{digest}.tar.gz")
            note = work.directory / "note.json"
            note.write_text(json.dumps({"kernel": digest, "sha256": sha256, "cell": cell}))
            self._copy_there(note, f"requests/{request}.json")
        store.progress.say(f"put {cell} into {self.url}")

    def _copy_there(self, path: Path, name: str) -> None:
        to = f"{self._root}/{name}"
        self._files.makedirs(to.rpartition("/")[0], exist_ok=True)
        # Object stores replace objects whole; elsewhere a rename does.
        temporary = f"{to}.{os.getpid()}.tmp"
        self._files.put_file(str(path), temporary)
        self._files.mv(temporary, to)

    def _attempt(self, store: Store, what: str, work: Callable[[], T]) -> T | None:
        """Do something with the network; what goes wrong is said."""
        try:
            return work()
        # Every file system of fsspec has errors of its own, without a common base.
        except Exception as error:
            if isinstance(error, HarnessError) and isinstance(error.__cause__, OSError):
                error = error.__cause__
            if isinstance(error, OSError) and error.errno in FULL:
                raise
            said = error.summary if isinstance(error, KernelvmError) else repr(error)
            store.progress.say(f"{what} the remote store {self.url}: {said}")
            return None


def remote_of_environment() -> Remote | None:
    """Return the remote store that KERNELVM_REMOTE names; None if it is not set.

    It is read from alone unless KERNELVM_REMOTE_WRITE is 1.
    """
    url = os.environ.get(VARIABLE)
    return Remote(url, writable=os.environ.get(WRITE_VARIABLE) == "1") if url else None
