"""Files of a store: written whole or not at all, and removed whatever their modes are."""

from __future__ import annotations

import errno
import os
import shutil
from pathlib import Path

from pytest_kernelvm.store.digest import digest_of_bytes

FULL = (errno.ENOSPC, errno.EDQUOT)
REFUSED = (errno.EACCES, errno.EPERM, errno.EROFS)


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


def write_checksummed(path: Path, data: bytes) -> None:
    """Write a file as `write_whole`, with the digest of its bytes in the first line."""
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
