"""Module files as the kernel sees them, whatever they are compressed with."""

from __future__ import annotations

import io
import lzma
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import IO, cast

from pytest_kernelvm.errors import BadInput, Evidence
from pytest_kernelvm.foreign.files import regular_content

# More than the largest module with all its debugging information; what claims to be larger is
# damaged, or meant to fill the memory.
MOST_BYTES = 1024 * 1024 * 1024

_ZLIB_GZIP_WINDOW = 31


def unpacked(path: Path, most_bytes: int = MOST_BYTES) -> bytes:
    """Return the content of a .ko, .ko.gz, .ko.xz or .ko.zst, told apart by their suffix.

    Raises BadInput for a file that cannot be read or unpacked, is larger than most_bytes, or, for
    .zst, where Python has no zstd: from 3.14 on it has, before with the package backports.zstd.
    """
    try:
        data = regular_content(path, most_bytes)
        unpack = _UNPACKERS.get(path.suffix)
        return data if unpack is None else unpack(path, data, most_bytes)
    except OSError as error:
        raise _bad(path, str(error.strerror)) from None
    except (EOFError, lzma.LZMAError, zlib.error) as error:
        raise _bad(path, f"{path.suffix[1:]}: {error}") from None


def _gzip(path: Path, data: bytes, most_bytes: int) -> bytes:
    decompressor = zlib.decompressobj(_ZLIB_GZIP_WINDOW)
    unpacked = decompressor.decompress(data, most_bytes)
    if not decompressor.eof:
        raise _bad(path, _unfinished(unpacked, most_bytes))
    return unpacked


def _xz(path: Path, data: bytes, most_bytes: int) -> bytes:
    decompressor = lzma.LZMADecompressor(lzma.FORMAT_XZ)
    unpacked = decompressor.decompress(data, most_bytes)
    if not decompressor.eof:
        raise _bad(path, _unfinished(unpacked, most_bytes))
    return unpacked


def _zstd(path: Path, data: bytes, most_bytes: int) -> bytes:
    opened, failed = _zstd_library(path)
    try:
        with opened(io.BytesIO(data)) as stream:
            unpacked = stream.read(most_bytes + 1)
    except failed as error:
        raise _bad(path, f"zst: {error}") from None
    if len(unpacked) > most_bytes:
        raise _bad(path, _unfinished(unpacked, most_bytes))
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
            raise _bad(
                path,
                "zstd, which this Python cannot unpack",
                next_step="install pytest-kernelvm[zstd], or use Python 3.14",
            ) from None
    return cast(Callable[[IO[bytes]], IO[bytes]], zstd.ZstdFile), zstd.ZstdError


def _unfinished(unpacked: bytes, most_bytes: int) -> str:
    if len(unpacked) >= most_bytes:
        return f"more than {most_bytes} bytes when unpacked"
    return "the compressed data ends too early"


def _bad(path: Path, seen: str, next_step: str = "") -> BadInput:
    return BadInput(
        "a module file is damaged, or is none",
        Evidence(expected="a readable module", seen=seen, where=(str(path),), next_step=next_step),
    )


_UNPACKERS = {".gz": _gzip, ".xz": _xz, ".zst": _zstd}
