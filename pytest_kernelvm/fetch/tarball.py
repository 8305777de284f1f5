"""Tarballs of kernels: unpacked so that no file or link leads out of the directory."""

from __future__ import annotations

import errno
import os
import re
import stat
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Protocol

from pytest_kernelvm.errors import BadInput, Evidence
from pytest_kernelvm.fetch.download import fetch
from pytest_kernelvm.foreign.archive_rules import UnpackOptions
from pytest_kernelvm.foreign.unpacking import unpack, unpack_output
from pytest_kernelvm.process import find_program, run
from pytest_kernelvm.store.store import StagingDirectory, Store

UNPACK_TIMEOUT_S = 1800.0

# The first bytes of a compressed file, the program that unpacks it, and how to install that.
_COMPRESSIONS = (
    (b"\xfd7zXZ\0", "xz", "apt-get install xz-utils"),
    (b"\x1f\x8b", "gzip", "apt-get install gzip"),
    (b"\x28\xb5\x2f\xfd", "zstd", "apt-get install zstd"),
    (b"BZh", "bzip2", "apt-get install bzip2"),
)


class _Named(Protocol):
    @property
    def digest(self) -> str: ...


class OpaqueSource:
    """A source of which nothing is known but the digest of all of it."""

    __slots__ = ()

    @property
    def family(self: _Named) -> str:
        """Names the kernels that are built upon each other's objects: those of this source."""
        return self.digest

    @property
    def config_digest(self: _Named) -> str:
        """Names all that can decide a configuration."""
        return self.digest


@dataclass(frozen=True, kw_only=True, slots=True)
class Tarball(OpaqueSource):
    """A kernel tarball and the name of its content.

    Attributes:
        path: Its file.
        digest: Of the content, in hex: the same bytes always have the same one.
    """

    path: Path
    digest: str

    @property
    def label(self) -> str:
        """The tarball in words."""
        return self.path.name

    def unpack(self, store: Store, work: StagingDirectory, show: Callable[[str], None]) -> None:  # noqa: ARG002
        """Unpack it into `work.entry/tree`; see `extract`.

        Args:
            store: Not needed here.
            work: Where to unpack.
            show: Called with how much is done, in words.
        """
        extract(self.path, work, show)


@dataclass(frozen=True, kw_only=True, slots=True)
class RemoteTarball(OpaqueSource):
    """A tarball that is downloaded when it is needed.

    Attributes:
        url: Where it is.
        digest: Its sha256, in hex.
        where: File and line that name the URL, for errors.
    """

    url: str
    digest: str
    where: str

    @property
    def label(self) -> str:
        """The tarball in words."""
        return self.url.rpartition("/")[2]

    def unpack(self, store: Store, work: StagingDirectory, show: Callable[[str], None]) -> None:
        """Unpack it into `work.entry/tree`; see `fetch` and `extract`.

        Args:
            store: Where it is downloaded to.
            work: Where to unpack.
            show: Called with how much is done, in words.
        """
        extract(fetch(store, self.url, self.digest, where=self.where), work, show)


def extract(path: Path, work: StagingDirectory, show: Callable[[str], None]) -> None:
    """Unpack a tarball, without its topmost directory, into `work.entry/tree`.

    Raises BadInput if it cannot be unpacked, leads out of the directory, or holds what no source
    has, ToolMissing if the program that it is compressed with is not installed.

    Args:
        path: The tarball.
        work: Where to unpack.
        show: Called with how much is done, in words.
    """
    unpack_tarball(
        path, work.entry / "tree", UnpackOptions(what=str(path), strip_components=1), show
    )


def unpack_tarball(
    path: Path,
    directory: Path,
    options: UnpackOptions,
    show: Callable[[str], None] = lambda _text: None,
) -> None:
    """Unpack a tarball, compressed or not, into a directory.

    Raises BadInput if it cannot be unpacked, or holds more than is allowed, ToolMissing if the
    program that it is compressed with is not installed.

    Args:
        path: The tarball.
        directory: Where to unpack.
        options: What it may hold, and how many directories are left out of its names.
        show: Called with how much is done, in words.
    """
    argv = _decompressor(path)
    total = _unpacked_bytes(path)

    def show_bytes(done: int) -> None:
        show(f"{min(100, 100 * done // total)} %" if total else f"{done >> 20} MiB")

    if not argv:
        with path.open("rb", buffering=0) as file:
            unpack(file, directory, options, show_bytes)
        return
    unpack_output(
        argv,
        directory,
        replace(options, compressed_bytes=path.stat().st_size),
        show_bytes,
        timeout_s=UNPACK_TIMEOUT_S,
    )


def _decompressor(path: Path) -> list[str | Path]:
    """Return the command that writes what a file was before it was compressed, if it is."""
    try:
        if not stat.S_ISREG(path.stat().st_mode):
            raise OSError(errno.EINVAL, "it is no regular file")
        with path.open("rb") as file:
            head = file.read(8)
    except OSError as error:
        raise BadInput(
            f"{path} cannot be unpacked: {error.strerror}", Evidence(where=(str(path),))
        ) from None
    for magic, program, hint in _COMPRESSIONS:
        if head.startswith(magic):
            flags = [f"--threads={_xz_threads()}"] if program == "xz" else []
            return [find_program(program, hint), "--decompress", "--stdout", *flags, "--", path]
    return []


def _xz_threads() -> int:
    """Return how many threads decompress while we write.

    Two take half the time of one. The second one costs a twentieth more in all, and is of no use
    without a core of its own.

    Returns:
        1 or 2.
    """
    return 2 if len(os.sched_getaffinity(0)) > 2 else 1


def _unpacked_bytes(path: Path) -> int:
    with path.open("rb") as file:
        if file.read(6) != _COMPRESSIONS[0][0]:
            return 0
    listed = run(["xz", "--robot", "--list", path], timeout_s=60, check=False).stdout
    found = re.search(r"^totals\t\d+\t\d+\t\d+\t(\d+)", listed, re.MULTILINE)
    return int(found[1]) if found else 0
