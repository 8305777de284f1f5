"""Patches as they come: compressed, damaged, and larger than any patch is."""

from __future__ import annotations

import bz2
import gzip
import lzma
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from pytest_kernelvm.config.patches import Patch
from pytest_kernelvm.errors import BadInput
from pytest_kernelvm.fetch.patching import MOST_PATCH_BYTES, uncompressed_patch
from pytest_kernelvm.process import run

TEXT = b"--- a/x\n+++ b/x\n@@ -1 +1 @@\n-x\n+y\n" * 40

COMPRESS: dict[str, Callable[[bytes], bytes]] = {
    "gz": gzip.compress,
    "xz": lzma.compress,
    "bz2": bz2.compress,
}


def compressed(directory: Path, suffix: str, data: bytes) -> Path:
    """Write a compressed patch."""
    path = directory / f"it.patch.{suffix}"
    if suffix == "zst":
        if not shutil.which("zstd"):
            pytest.skip("zstd is not installed")
        path.with_suffix("").write_bytes(data)
        run(["zstd", "--quiet", "--rm", path.with_suffix("")], timeout_s=60)
    else:
        path.write_bytes(COMPRESS[suffix](data))
    return path


def patch_in(path: Path) -> Patch:
    return Patch(name="it", file=path, where="malta.yaml:7:9")


SUFFIXES = ("gz", "xz", "bz2", "zst")


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_compressed_patches_are_unpacked(suffix: str, tmp_path: Path) -> None:
    patch = patch_in(compressed(tmp_path, suffix, TEXT))
    assert uncompressed_patch(patch, tmp_path, most_bytes=len(TEXT)).read_bytes() == TEXT


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_a_patch_that_is_too_large(suffix: str, tmp_path: Path) -> None:
    patch = patch_in(compressed(tmp_path, suffix, TEXT))
    with pytest.raises(BadInput) as caught:
        uncompressed_patch(patch, tmp_path, most_bytes=len(TEXT) - 1)
    assert caught.value.summary == "the patch it is too large when it is unpacked"
    assert caught.value.evidence.expected == f"at most {len(TEXT) - 1:,} bytes"
    assert caught.value.evidence.where == ("malta.yaml:7:9", str(patch.file))


@pytest.mark.slow
def test_a_small_file_that_unpacks_to_gigabytes(tmp_path: Path) -> None:
    """Half a megabyte that is more than half a gigabyte."""
    path = tmp_path / "bomb.patch.gz"
    path.write_bytes(gzip.compress(bytes(16 << 20)) * (MOST_PATCH_BYTES // (16 << 20) + 1))
    with pytest.raises(BadInput, match="the patch it is too large when it is unpacked"):
        uncompressed_patch(patch_in(path), tmp_path)
    assert (tmp_path / "uncompressed.patch").stat().st_size <= MOST_PATCH_BYTES


@pytest.mark.parametrize("suffix", SUFFIXES)
@pytest.mark.parametrize("how", ["cut off", "changed", "something else"])
def test_a_damaged_compressed_patch(suffix: str, how: str, tmp_path: Path) -> None:
    path = compressed(tmp_path, suffix, TEXT)
    data = path.read_bytes()
    changed = data[: len(data) // 2] + bytes(3) + data[len(data) // 2 + 3 :]
    damaged = {"cut off": data[:-5], "changed": changed, "something else": b"nonsense" * 9}
    path.write_bytes(damaged[how])
    with pytest.raises(BadInput) as caught:
        uncompressed_patch(patch_in(path), tmp_path)
    assert caught.value.summary.startswith("the patch it cannot be unpacked: ")
    assert not caught.value.summary.endswith(": ")
