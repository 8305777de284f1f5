"""Patches: applied exactly, or refused with the hunk of the file that does not fit."""

from __future__ import annotations

import bz2
import gzip
import lzma
import re
import zlib
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

from pytest_kernelvm.config.patches import Patch
from pytest_kernelvm.errors import BadInput, BuildFailed, Evidence, HarnessError
from pytest_kernelvm.process import Completed, find_program, piped, run
from pytest_kernelvm.store.writing import raise_if_full

PATCH_TIMEOUT_S = 300.0
# The fuzz that patch(1) allows by default.
USUAL_FUZZ = 2
# The patch from one 6.x to the next has 60 to 100 MiB. One that is larger than this, unpacked, is
# an attempt to fill the disk.
MOST_PATCH_BYTES = 512 << 20
_CHUNK_BYTES = 1 << 20

_FILE = re.compile(r"(?:checking|patching) file (?:'([^']+)'|(\S+))")
_HUNK = re.compile(r"Hunk #(\d+) FAILED at (\d+)")
_NO_FILE = re.compile(r"can't find file to patch at input line (\d+)")


def apply_patch(tree: Path, patch: Patch, directory: Path) -> None:
    """Apply a patch to a tree; patch(1) writes new files, so links stay as they are.

    If that fails, the tree is of no use any more.

    Raises BuildFailed if it does not apply; the error has file, hunk and reject, BadInput if it
    can't be read.

    Args:
        tree: Where to apply it.
        patch: As in the vm-config.
        directory: For a decompressed copy of the patch.
    """
    file = uncompressed_patch(patch, directory)
    tried = _patch(tree, file, patch.fuzz, "--dry-run")
    if tried.status == 0:
        done = _patch(tree, file, patch.fuzz)
        if done.status == 0:
            return
        tried = done
    with_fuzz = patch.fuzz < USUAL_FUZZ and _patch(tree, file, USUAL_FUZZ, "--dry-run").status == 0
    done = _patch(tree, file, patch.fuzz)
    raise_if_full(done.stdout + done.stderr)
    refused = _refused(tree, patch, done.stdout + done.stderr, with_fuzz=with_fuzz)
    raise refused


def _patch(tree: Path, file: Path, fuzz: int, *flags: str) -> Completed:
    argv = ["patch", "-p1", "--batch", "--forward", f"--fuzz={fuzz}", *flags]
    argv.append(f"--input={file.absolute()}")
    return run(argv, cwd=tree, timeout_s=PATCH_TIMEOUT_S, check=False)


def failed_hunks(said: str) -> tuple[str, ...]:
    """Return what patch(1) could not do, as `FILE: hunk N, at line M`.

    Args:
        said: Its output.
    """
    file = ""
    found = []
    for line in said.splitlines():
        if named := _FILE.match(line):
            file = named[1] or named[2]
        elif hunk := _HUNK.match(line):
            found.append(f"{file}: hunk {hunk[1]}, at line {hunk[2]}")
        elif absent := _NO_FILE.match(line):
            found.append(f"a file that is not in the tree, named in line {absent[1]}")
        elif "previously applied" in line or "already exists" in line:
            found.append(f"{file}: it is in the tree already")
    return tuple(dict.fromkeys(found))


def _refused(tree: Path, patch: Patch, said: str, *, with_fuzz: bool) -> BuildFailed:
    rejects = "\n".join(path.read_text(errors="replace") for path in tree.rglob("*.rej"))
    hunks = failed_hunks(said)
    step = "make the patch for this version, or give it `versions:`"
    if with_fuzz:
        step = f"it applies with fuzz: look whether it is right then, and say `fuzz: {USUAL_FUZZ}`"
    return BuildFailed(
        f"the patch {patch.name} does not apply",
        Evidence(
            expected=f"every hunk applies with fuzz {patch.fuzz}"
            if patch.fuzz
            else "every hunk applies without fuzz",
            seen="; ".join(hunks),
            excerpt=f"{said}{rejects}",
            where=_places(patch),
            next_step=step,
        ),
    )


def uncompressed_patch(
    patch: Patch, directory: Path, *, most_bytes: int = MOST_PATCH_BYTES
) -> Path:
    """Return a patch without compression.

    Raises BadInput if it is damaged or larger.

    Args:
        patch: As in the vm-config.
        directory: For a decompressed copy.
        most_bytes: How large the copy may be.

    Returns:
        The patch's own file, or the copy.

    Raises:
        OSError: The disk is full.
    """
    if patch.file.suffix not in _OPEN:
        return patch.file
    to = directory / "uncompressed.patch"
    try:
        with _OPEN[patch.file.suffix](patch.file) as stream, to.open("wb") as sink:
            while data := stream.read(_CHUNK_BYTES):
                if sink.tell() + len(data) > most_bytes:
                    too_large = _too_large(patch, most_bytes)
                    raise too_large
                sink.write(data)
    except (EOFError, lzma.LZMAError, zlib.error, ValueError, HarnessError) as error:
        said = error.evidence.excerpt if isinstance(error, HarnessError) else str(error)
        damaged = _damaged(patch, said or "it is damaged")
        raise damaged from None
    except OSError as error:
        # gzip, bz2 and lzma raise an OSError without errno for a damaged file.
        if error.errno is not None:
            raise
        damaged = _damaged(patch, str(error))
        raise damaged from None
    return to


def _damaged(patch: Patch, said: str) -> BadInput:
    return BadInput(
        f"the patch {patch.name} cannot be unpacked: {said}", Evidence(where=_places(patch))
    )


def _too_large(patch: Patch, most_bytes: int) -> BadInput:
    packed = patch.file.stat().st_size
    return BadInput(
        f"the patch {patch.name} is too large when it is unpacked",
        Evidence(
            expected=f"at most {most_bytes:,} bytes",
            seen=f"more than that, out of {packed:,} compressed ones",
            where=_places(patch),
        ),
    )


def _places(patch: Patch) -> tuple[str, ...]:
    return tuple(place for place in (patch.where, str(patch.file)) if place)


def _zstd(path: Path) -> AbstractContextManager[Any]:
    program = find_program("zstd", "apt-get install zstd")
    argv = (program, "--decompress", "--stdout", "--", str(path))
    return piped(argv, timeout_s=PATCH_TIMEOUT_S)


_OPEN: Mapping[str, Callable[[Path], AbstractContextManager[Any]]] = {
    ".gz": gzip.open,
    ".xz": lzma.open,
    ".bz2": bz2.open,
    ".zst": _zstd,
}
