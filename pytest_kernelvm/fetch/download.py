"""Files from a network: resumed where a transfer broke off, tried again, checked before use."""

from __future__ import annotations

import contextlib
import http.client
import time
import urllib.error
import urllib.request
from collections.abc import Callable
from pathlib import Path
from typing import Any

from pytest_kernelvm.errors import BadInput, Evidence, ToolMissing
from pytest_kernelvm.store.digest import Digest, file_digest
from pytest_kernelvm.store.kinds import DOWNLOADS, PART
from pytest_kernelvm.store.store import StagingDirectory, Store

CHUNK_BYTES = 1 << 18
SILENCE_S = 60.0
# Seconds between attempts; a mirror that is being synchronised is back within a minute.
PAUSES_S = (1.0, 4.0, 15.0)

_AGAIN = (408, 425, 429, 500, 502, 503, 504)


class Interrupted(Exception):
    """A transfer that broke off; the bytes that have come stay."""


def fetch(
    store: Store, url: str, sha256: str, *, pauses_s: tuple[float, ...] = PAUSES_S, where: str = ""
) -> Path:
    """Return a file of the network, downloaded unless the store has it.

    The bytes of an attempt that failed stay, and the next call goes on behind them.

    Raises BadInput if its bytes are others, or the server does not have it, ToolMissing if the
    server can't be reached.

    Args:
        store: Where it is put.
        url: http, https, ftp or file.
        sha256: What its bytes must have, in hex.
        pauses_s: Seconds to wait before each further attempt.
        where: File and line that name the URL, for errors.

    Returns:
        The file.
    """
    name = url.rstrip("/").rpartition("/")[2].partition("?")[0] or "download"
    digest = Digest(sha256)
    part = store.place(DOWNLOADS) / f"{digest}{PART}"

    def make(work: StagingDirectory) -> dict[str, Any]:
        part.parent.mkdir(parents=True, exist_ok=True)
        _complete(store, url, part, name, pauses_s, where)
        store.progress.say(f"checking {name}")
        found = file_digest(part)
        if found != sha256:
            part.unlink()
            raise BadInput(
                f"{name} is not the expected file",
                Evidence(
                    expected=f"sha256 {sha256}",
                    seen=f"sha256 {found}",
                    where=tuple(place for place in (where, url) if place),
                    next_step="correct the sha256, or ask who changed the file",
                ),
            )
        part.rename(work.entry / name)
        return {"url": url}

    return store.obtain(DOWNLOADS, digest, make, label=f"the download of {name}") / name


def _complete(
    store: Store, url: str, part: Path, name: str, pauses_s: tuple[float, ...], where: str
) -> None:
    """Download until all has come; attempts that brought something do not count."""
    pauses = list(pauses_s)
    while True:
        before = part.stat().st_size if part.is_file() else 0
        try:
            _transfer(url, part, lambda text: store.progress.update(f"downloading {name}: {text}"))
            return
        except Interrupted as broken:
            after = part.stat().st_size if part.is_file() else 0
            if after > before:
                pauses = list(pauses_s)
            if not pauses:
                raise ToolMissing(
                    f"{name} cannot be downloaded: {broken}",
                    Evidence(
                        seen=f"{after} bytes have come and are kept",
                        where=tuple(place for place in (where, url) if place),
                        next_step="try again: the download goes on where it broke off",
                    ),
                ) from None
            store.progress.say(f"{name}: {broken}; trying again at byte {after}")
            time.sleep(pauses.pop(0))


def _transfer(url: str, part: Path, show: Callable[[str], None]) -> None:
    """Make one request for what is missing and append it."""
    start = part.stat().st_size if part.is_file() else 0
    wanted = {"Range": f"bytes={start}-"} if start else {}
    try:
        request = urllib.request.Request(url, headers=wanted)
        with contextlib.closing(urllib.request.urlopen(request, timeout=SILENCE_S)) as answer:
            _append(answer, part, start, show)
    except urllib.error.HTTPError as error:
        _refused(error, url, part, start)
    except (OSError, http.client.HTTPException) as error:
        if _is_of_file(error, part):
            raise
        raise Interrupted(str(getattr(error, "reason", "")) or str(error) or repr(error)) from None
    except ValueError as error:
        raise BadInput(f"{url!r} is no address: {error}") from None


def _refused(error: urllib.error.HTTPError, url: str, part: Path, start: int) -> None:
    """Return if nothing is missing of the file; else raise Interrupted or BadInput."""
    # 416: the server has no byte behind our last one. The file is complete, or another one.
    if error.code == http.HTTPStatus.REQUESTED_RANGE_NOT_SATISFIABLE:
        _end_or_restart(error, part, start)
    elif error.code in _AGAIN:
        raise Interrupted(f"the server said {error.code} {error.reason}") from None
    else:
        raise BadInput(f"the server does not give {url}: {error.code} {error.reason}") from None


def _is_of_file(error: Exception, path: Path) -> bool:
    """Whether an error is of our own disk and not of the network."""
    return isinstance(error, OSError) and bool(error.filename) and Path(error.filename) == path


def _end_or_restart(error: urllib.error.HTTPError, part: Path, start: int) -> None:
    total = (error.headers.get("Content-Range") or "").rpartition("/")[2]
    if total != str(start):
        part.unlink(missing_ok=True)
        raise Interrupted("the file on the server is another one now")


def _append(answer: Any, part: Path, start: int, show: Callable[[str], None]) -> None:
    if getattr(answer, "status", None) != http.HTTPStatus.PARTIAL_CONTENT:
        # A server that ignores the range sends the whole file.
        start = 0
    length = answer.headers.get("Content-Length")
    total = start + int(length) if length and length.isdecimal() else 0
    done = start
    with part.open("ab" if start else "wb") as file:
        while chunk := answer.read(CHUNK_BYTES):
            file.write(chunk)
            done += len(chunk)
            percent = f", {100 * done // total} %" if total else ""
            show(f"{done >> 20} MiB{percent}")
    if total and done < total:
        raise Interrupted(f"the connection ended at byte {done} of {total}")
