"""Files that others have named or made, checked before they are read."""

from __future__ import annotations

import errno
import os
import shutil
import stat
from pathlib import Path
from typing import BinaryIO, NoReturn

from pytest_kernelvm.errors import BadInput, Evidence

_CHUNK_BYTES = 1 << 20


def open_regular(path: Path, *, follow: bool = True) -> BinaryIO:
    """Open a regular file for reading.

    A FIFO would block whoever opens it, /dev/zero has no end, and some devices do something when
    they are opened. Raises OSError, with what it is, for anything but a regular file, and for one
    that cannot be opened.

    Args:
        path: The file.
        follow: Whether it may be a symbolic link to one.

    Returns:
        The open file.
    """
    _check_regular(path, path.stat(follow_symlinks=follow).st_mode)
    # It may have been replaced since.
    flags = os.O_RDONLY | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC
    descriptor = os.open(path, flags if follow else flags | os.O_NOFOLLOW)
    try:
        _check_regular(path, os.fstat(descriptor).st_mode)
        return open(descriptor, "rb")  # noqa: PTH123 -- pathlib opens no descriptors
    except BaseException:
        os.close(descriptor)
        raise


def _check_regular(path: Path, mode: int) -> None:
    if not stat.S_ISREG(mode):
        said = f"it is {file_kind(mode)}, no regular file"
        raise OSError(errno.EINVAL, said, str(path))


def require_regular(path: Path) -> None:
    """Raise BadInput unless a path leads to a regular file."""
    try:
        _check_regular(path, path.stat().st_mode)
    except OSError as error:
        _refuse_unreadable(path, error)


def refuse_special_files(tree: Path) -> None:
    """Raise BadInput if something below a directory is, or leads to, a FIFO, socket or device.

    Args:
        tree: A directory; links in it are followed.
    """
    for directory, names, files in os.walk(tree):
        for path in (Path(directory, name) for name in (*names, *files)):
            try:
                mode = path.stat().st_mode
            except OSError:
                # A link that leads nowhere.
                continue
            if not stat.S_ISDIR(mode):
                require_regular(path)


def regular_content(path: Path, most_bytes: int, *, follow: bool = True) -> bytes:
    """Return the content of a regular file.

    Args:
        path: The file.
        most_bytes: The largest size.
        follow: Whether it may be a symbolic link.

    Raises:
        OSError: As `open_regular`; with EFBIG for a file that is larger.
    """
    with open_regular(path, follow=follow) as file:
        size = os.fstat(file.fileno()).st_size
        if size > most_bytes:
            raise OSError(errno.EFBIG, f"a file of {size} bytes", str(path))
        # Reading most_bytes at once would allocate them.
        data = file.read(size + 1)
        if size < len(data) <= most_bytes:
            data += file.read(most_bytes + 1 - len(data))
    if len(data) > most_bytes:
        raise OSError(errno.EFBIG, f"more than {most_bytes:,} bytes", str(path))
    return data


def copy_regular(path: Path, to: Path) -> None:
    """Copy the content of a regular file. Raises OSError as `open_regular`."""
    with open_regular(path) as file, to.open("wb") as sink:
        shutil.copyfileobj(file, sink, _CHUNK_BYTES)


def read_regular(path: Path, most_bytes: int, *, follow: bool = True) -> bytes:
    """Return the content of a regular file, as `regular_content`.

    Args:
        path: The file.
        most_bytes: The largest size.
        follow: Whether it may be a symbolic link.

    Raises:
        BadInput: For a file that is larger, cannot be read, or is not a regular one.
    """
    try:
        return regular_content(path, most_bytes, follow=follow)
    except OSError as error:
        if error.errno == errno.EFBIG:
            expected = f"at most {most_bytes:,} bytes"
            raise BadInput(
                f"{path} is too large", Evidence(expected=expected, where=(str(path),))
            ) from None
        _refuse_unreadable(path, error)


def _refuse_unreadable(path: Path, error: OSError) -> NoReturn:
    raise BadInput(f"cannot read {path}: {error.strerror}", Evidence(where=(str(path),))) from None


def file_kind(mode: int) -> str:
    """Return what kind of file has an st_mode, such as `a directory`.

    Args:
        mode: The `st_mode` of stat(2).
    """
    kinds = (
        (stat.S_ISDIR, "a directory"),
        (stat.S_ISFIFO, "a FIFO"),
        (stat.S_ISCHR, "a character device"),
        (stat.S_ISBLK, "a block device"),
        (stat.S_ISSOCK, "a socket"),
        (stat.S_ISLNK, "a symbolic link"),
    )
    return next((words for is_kind, words in kinds if is_kind(mode)), "a regular file")
