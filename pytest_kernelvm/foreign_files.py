"""Files that others have named or made: looked at before they are read."""

from __future__ import annotations

import os
import stat
from pathlib import Path

from pytest_kernelvm.errors import BadInput, Evidence


def read_regular(path: Path, most_bytes: int, *, follow: bool = True) -> bytes:
    """Return the content of a regular file.

    follow: whether it may be a symbolic link to one.
    Raises BadInput for a file that is larger or cannot be read, and for one that is none: reading
    a FIFO, a terminal or /dev/zero would never end.
    """
    # Opening a FIFO would wait for its other end.
    flags = os.O_RDONLY | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC
    try:
        descriptor = os.open(path, flags if follow else flags | os.O_NOFOLLOW)
        try:
            mode = os.fstat(descriptor).st_mode
            data = _read(descriptor, most_bytes + 1) if stat.S_ISREG(mode) else None
        finally:
            os.close(descriptor)
    except OSError as error:
        raise BadInput(
            f"cannot read {path}: {error.strerror}", Evidence(where=(str(path),))
        ) from None
    if data is None:
        raise BadInput(
            f"cannot read {path}: it is {file_kind(mode)}, no regular file",
            Evidence(where=(str(path),)),
        )
    if len(data) > most_bytes:
        raise BadInput(
            f"{path} is too large",
            Evidence(expected=f"at most {most_bytes:,} bytes", where=(str(path),)),
        )
    return data


def _read(descriptor: int, most_bytes: int) -> bytes:
    data = b""
    while len(data) < most_bytes:
        more = os.read(descriptor, most_bytes - len(data))
        if not more:
            break
        data += more
    return data


def file_kind(mode: int) -> str:
    """Return in words what kind of file has an st_mode."""
    kinds = (
        (stat.S_ISDIR, "a directory"),
        (stat.S_ISFIFO, "a FIFO"),
        (stat.S_ISCHR, "a character device"),
        (stat.S_ISBLK, "a block device"),
        (stat.S_ISSOCK, "a socket"),
        (stat.S_ISLNK, "a symbolic link"),
    )
    return next((words for is_kind, words in kinds if is_kind(mode)), "a regular file")
