"""Tarballs: unpacked once, and nothing of them lands or points outside of where they are put."""

from __future__ import annotations

import os
import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from pytest_kernelvm.errors import BadInput, Evidence
from pytest_kernelvm.kernel.download import fetch
from pytest_kernelvm.kernel.store import Store, Work, raise_if_full
from pytest_kernelvm.process import TAIL_LINES, find_program, run

UNPACK_TIMEOUT_S = 1800.0
TAR_RECORD_BYTES = 10240

# How a compressed file begins, and who unpacks it.
_COMPRESSIONS = (
    (b"\xfd7zXZ\0", "xz", "apt-get install xz-utils"),
    (b"\x1f\x8b", "gzip", "apt-get install gzip"),
    (b"\x28\xb5\x2f\xfd", "zstd", "apt-get install zstd"),
    (b"BZh", "bzip2", "apt-get install bzip2"),
)


class _Named(Protocol):
    @property
    def digest(self) -> str: ...


class NamedAsAWhole:
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
class Tarball(NamedAsAWhole):
    """A kernel tarball and the name of its content.

    digest: of the content, in hex: the same bytes always have the same one.
    """

    path: Path
    digest: str

    @property
    def label(self) -> str:
        """The tarball in words."""
        return self.path.name

    def unpack(self, store: Store, work: Work, show: Callable[[str], None]) -> None:  # noqa: ARG002
        """Unpack it into `work.entry/tree`; see extract."""
        extract(self.path, work, show)


@dataclass(frozen=True, kw_only=True, slots=True)
class RemoteTarball(NamedAsAWhole):
    """A tarball that is downloaded when it is needed. digest: its sha256, in hex."""

    url: str
    digest: str
    where: str

    @property
    def label(self) -> str:
        """The tarball in words."""
        return self.url.rpartition("/")[2]

    def unpack(self, store: Store, work: Work, show: Callable[[str], None]) -> None:
        """Unpack it into `work.entry/tree`; see fetch and extract."""
        extract(fetch(store, self.url, self.digest, where=self.where), work, show)


def extract(path: Path, work: Work, show: Callable[[str], None]) -> None:
    """Unpack a tarball, without its topmost directory, into `work.entry/tree`.

    show: told how far it is.
    Raises BadInput if it cannot be unpacked or leads out of the directory, ToolMissing without
    the program that it is compressed with.
    """
    tree, log = work.entry / "tree", work.directory / "tar.log"
    _find_decompressor(path)
    total = _unpacked_bytes(path)

    def show_record(line: str) -> None:
        if line.isdecimal():
            done = int(line) * TAR_RECORD_BYTES
            show(f"{min(100, 100 * done // total)} %" if total else f"{done >> 20} MiB")

    argv = ["tar", "--extract", f"--file={path}", f"--directory={tree}"]
    argv += ["--strip-components=1", "--no-same-owner", "--no-same-permissions"]
    argv += ["--checkpoint=1000", "--checkpoint-action=echo=%u"]
    done = run(
        argv,
        env={"XZ_DEFAULTS": "-T0"},
        timeout_s=UNPACK_TIMEOUT_S,
        check=False,
        log=log,
        on_line=show_record,
    )
    if done.status != 0:
        said = [line for line in log.read_text().splitlines() if not line.isdecimal()]
        text = "\n".join(said[-TAIL_LINES:])
        raise_if_full(text)
        raise BadInput(f"{path} cannot be unpacked", Evidence(excerpt=text, where=(str(path),)))
    refuse_links_out(tree, str(path))


def refuse_links_out(tree: Path, what: str) -> None:
    """Raise BadInput if a symbolic link below a directory leads out of it.

    GNU tar itself refuses members with `..` and never writes through a link of the same archive
    (info tar, `Security rules of thumb`), but it leaves links that point anywhere.
    """
    root = os.path.realpath(tree)
    for directory, names, files in os.walk(tree):
        for path in (Path(directory, name) for name in (*names, *files)):
            if not path.is_symlink():
                continue
            aim = os.path.normpath(Path(os.path.realpath(directory), path.readlink()))
            if aim != root and not aim.startswith(f"{root}/"):
                raise BadInput(
                    f"{what} has a link that leads out of it",
                    Evidence(seen=f"{path.relative_to(tree)} -> {path.readlink()}"),
                )


def _find_decompressor(path: Path) -> None:
    try:
        with path.open("rb") as file:
            head = file.read(8)
    except OSError as error:
        raise BadInput(
            f"{path} cannot be unpacked: {error.strerror}", Evidence(where=(str(path),))
        ) from None
    for magic, program, hint in _COMPRESSIONS:
        if head.startswith(magic):
            find_program(program, hint)


def _unpacked_bytes(path: Path) -> int:
    with path.open("rb") as file:
        if file.read(6) != _COMPRESSIONS[0][0]:
            return 0
    listed = run(["xz", "--robot", "--list", path], timeout_s=60, check=False).stdout
    found = re.search(r"^totals\t\d+\t\d+\t\d+\t(\d+)", listed, re.MULTILINE)
    return int(found[1]) if found else 0
