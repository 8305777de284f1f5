"""The image of a finished kernel: as QEMU boots it, and the release that it says of itself."""

from __future__ import annotations

import re
import struct
import zlib
from pathlib import Path

from pytest_kernelvm.errors import BadInput, Evidence

MOST_IMAGE_BYTES = 512 << 20
_ZLIB_GZIP_WINDOW = 31


def release_in(image: Path) -> str:
    """Return the release that an image says of itself (init/version.c, linux_banner).

    Args:
        image: The file, compressed or not.

    Returns:
        The release, `unknown` if it says none.

    Raises:
        BadInput: The image can't be read.
    """
    data = image.read_bytes()
    try:
        unpacked = _gunzipped(data) if _gzipped(data) else data
    except (OSError, EOFError, zlib.error) as error:
        raise BadInput(f"cannot read {image}: {error}", Evidence(where=(str(image),))) from None
    found = re.search(rb"Linux version ([0-9]\S+) ", unpacked)
    return found[1].decode() if found else "unknown"


def _gzipped(data: bytes) -> bool:
    return data.startswith(b"\x1f\x8b")


def _gunzipped(data: bytes) -> bytes:
    """Return what a gzip file has in it. Raises EOFError for more than any kernel has."""
    decompressor = zlib.decompressobj(_ZLIB_GZIP_WINDOW)
    unpacked = decompressor.decompress(data, MOST_IMAGE_BYTES)
    if not decompressor.eof:
        large = len(unpacked) >= MOST_IMAGE_BYTES
        raise EOFError(
            f"more than {MOST_IMAGE_BYTES >> 20} MiB in it" if large else "it ends too early"
        )
    return unpacked


def unpack_image(path: Path, to: Path) -> Path:
    """Write an image as QEMU boots it: without compression, without EFI's zboot around it.

    Args:
        path: The image.
        to: Where it is put; an ELF file is put beside it as `vmlinux`.

    Returns:
        The file that was written.

    Raises:
        BadInput: The image can't be read.
    """
    try:
        data = path.read_bytes()
        if data[:2] == b"MZ" and data[4:8] == b"zimg":
            # drivers/firmware/efi/libstub/zboot-header.S: offset and size of the payload.
            offset, size = struct.unpack_from("<II", data, 8)
            data = data[offset : offset + size]
        if _gzipped(data):
            data = _gunzipped(data)
    except (OSError, EOFError, struct.error, zlib.error) as error:
        raise BadInput(f"cannot read {path}: {error}", Evidence(where=(str(path),))) from None
    bootable = to.with_name("vmlinux") if data.startswith(b"\x7fELF") else to
    bootable.write_bytes(data)
    return bootable
