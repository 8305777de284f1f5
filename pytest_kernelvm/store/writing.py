"""Files of a store: written whole or not at all, removed whatever their modes are; disk errors."""

from __future__ import annotations

import contextlib
import errno
import os
import shutil
from collections.abc import Iterator
from pathlib import Path

from pytest_kernelvm.errors import BadInput, Evidence, HarnessError, KernelvmError
from pytest_kernelvm.store.digest import digest_of_bytes

STORE_VARIABLE = "KERNELVM_STORE"

FULL = (errno.ENOSPC, errno.EDQUOT)
REFUSED = (errno.EACCES, errno.EPERM, errno.EROFS)


def raise_if_full(said: str) -> None:
    """Raise the OSError of a full disk if a program said that it met one.

    Args:
        said: What the program has printed.

    Raises:
        OSError: ENOSPC, if its text is in the output.
    """
    full = os.strerror(errno.ENOSPC)
    if full in said:
        raise OSError(errno.ENOSPC, full)


def write_whole(path: Path, data: bytes) -> None:
    """Write a file so that it is there with all its bytes or not at all.

    Args:
        path: The file; directories above it are made.
        data: Its bytes.
    """
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


def write_checksummed(path: Path, data: bytes) -> None:
    """Write a file as `write_whole`, with the digest of its bytes in the first line.

    Args:
        path: Replaced as a whole.
        data: Its content below the first line.
    """
    write_whole(path, digest_of_bytes(data).encode() + b"\n" + data)


def read_checksummed(path: Path) -> bytes | None:
    """Return what `write_checksummed` wrote; None if that is not there, or is damaged."""
    try:
        digest, _, data = path.read_bytes().partition(b"\n")
    except OSError:
        return None
    return data if digest == digest_of_bytes(data).encode() else None


def remove_tree(path: Path) -> None:
    """Remove a directory with all below it, read-only ones included; or a file or a link."""
    if path.is_symlink() or path.is_file():
        path.unlink(missing_ok=True)
        return
    if not path.exists():
        return
    path.chmod(path.stat().st_mode | 0o700)
    for directory, names, _files in os.walk(path):
        for name in names:
            below = Path(directory, name)
            if not below.is_symlink():
                below.chmod(0o755)
    shutil.rmtree(path)


@contextlib.contextmanager
def disk_errors(root: Path) -> Iterator[None]:
    """Turn errors of the operating system into errors that say what to do.

    A program that met a full disk says so in words; its error is turned too.

    Raises BadInput if something below the root may not be written, HarnessError if the disk is full
    or failed.

    Args:
        root: The store's directory.
    """
    try:
        yield
    except OSError as error:
        name = error.filename
        ours = name is None or Path(str(name)).is_relative_to(root)
        refused = error.errno in REFUSED and ours
        said = not_writable(root, error) if refused else _failed(root, error)
        raise said from error
    except HarnessError as error:
        try:
            raise_if_full(error.evidence.excerpt)
        except OSError as full:
            said = _failed(root, full)
            raise said from error
        raise


def not_writable(root: Path, error: OSError) -> KernelvmError:
    """Return the error for a store that could not be written.

    Args:
        root: The store's directory.
        error: What the operating system said.

    Returns:
        HarnessError for a full disk, else BadInput.
    """
    if error.errno in FULL:
        return _failed(root, error)
    return BadInput(
        f"the store is not writable: {error}",
        Evidence(
            where=(str(root),),
            next_step="make it and all below it writable for you, or name another directory "
            f"with {STORE_VARIABLE}",
        ),
    )


def _failed(root: Path, error: OSError) -> HarnessError:
    full = error.errno in FULL
    return HarnessError(
        f"the disk of the store is full: {error}" if full else f"the store failed: {error}",
        Evidence(
            where=(str(root),),
            next_step=f"make room, or name another directory with {STORE_VARIABLE}",
        ),
    )
