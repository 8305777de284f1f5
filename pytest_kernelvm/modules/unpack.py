"""Module files as the kernel sees them, decompressed."""

from __future__ import annotations

import io
import lzma
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import IO, NoReturn, cast

from pytest_kernelvm.errors import BadInput, Evidence
from pytest_kernelvm.foreign.files import regular_content

# More than the largest module with all its debugging information; what claims to be larger is
# damaged, or meant to fill the memory.
MOST_BYTES = 1024 * 1024 * 1024

_ZLIB_GZIP_WINDOW = 31


def unpacked(path: Path, most_bytes: int = MOST_BYTES) -> bytes:
    """Return the content of a module file.

    Raises BadInput for a file that cannot be read or unpacked, or is larger. For .zst also where
    Python has no zstd: from 3.14 on it has, before that the package backports.zstd provides it.

    Args:
        path: A .ko, .ko.gz, .ko.xz or .ko.zst; the suffix decides.
        most_bytes: The largest size that it may have, before and after it is unpacked.
    """
    try:
        data = regular_content(path, most_bytes)
        unpack = _UNPACKERS.get(path.suffix)
        return data if unpack is None else unpack(path, data, most_bytes)
    except OSError as error:
        _refuse(path, str(error.strerror))
    except (EOFError, lzma.LZMAError, zlib.error) as error:
        _refuse(path, f"{path.suffix[1:]}: {error}")


def _gzip(path: Path, data: bytes, most_bytes: int) -> bytes:
    decompressor = zlib.decompressobj(_ZLIB_GZIP_WINDOW)
    unpacked = decompressor.decompress(data, most_bytes)
    if not decompressor.eof:
        _refuse(path, _unfinished(unpacked, most_bytes))
    return unpacked


def _xz(path: Path, data: bytes, most_bytes: int) -> bytes:
    decompressor = lzma.LZMADecompressor(lzma.FORMAT_XZ)
    unpacked = decompressor.decompress(data, most_bytes)
    if not decompressor.eof:
        _refuse(path, _unfinished(unpacked, most_bytes))
    return unpacked


def _zstd(path: Path, data: bytes, most_bytes: int) -> bytes:
    opened, failed = _zstd_library(path)
    try:
        with opened(io.BytesIO(data)) as stream:
            unpacked = stream.read(most_bytes + 1)
    except failed as error:
        _refuse(path, f"zst: {error}")
    if len(unpacked) > most_bytes:
        _refuse(path, _unfinished(unpacked, most_bytes))
    return unpacked


def _zstd_library(
    path: Path,
) -> tuple[Callable[[IO[bytes]], IO[bytes]], type[Exception]]:
    try:
        from backports import zstd
    except ImportError:
        try:
            from compression import zstd  # type: ignore[import-not-found,no-redef]
        except ImportError:
            _refuse(
                path,
                "zstd, which this Python cannot unpack",
                next_step="install pytest-kernelvm[zstd], or use Python 3.14",
            )
    return cast(Callable[[IO[bytes]], IO[bytes]], zstd.ZstdFile), zstd.ZstdError


def _unfinished(unpacked: bytes, most_bytes: int) -> str:
    if len(unpacked) >= most_bytes:
        return f"more than {most_bytes} bytes when unpacked"
    return "the compressed data ends too early"


def _refuse(path: Path, seen: str, next_step: str = "") -> NoReturn:
    raise BadInput(
        "a module file is damaged, or is none",
        Evidence(expected="a readable module", seen=seen, where=(str(path),), next_step=next_step),
    ) from None


_UNPACKERS = {".gz": _gzip, ".xz": _xz, ".zst": _zstd}
