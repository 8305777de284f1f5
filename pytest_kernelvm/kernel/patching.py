"""One patch on one tree: applied exactly, or told which hunk of which file does not fit."""

from __future__ import annotations

import bz2
import gzip
import lzma
import re
from collections.abc import Callable
from pathlib import Path

from pytest_kernelvm.config import Patch
from pytest_kernelvm.errors import BadInput, BuildFailed, Evidence
from pytest_kernelvm.kernel.store import raise_if_full
from pytest_kernelvm.process import Completed, find_program, run

PATCH_TIMEOUT_S = 300.0
# patch(1) allows itself this much where nobody says otherwise.
USUAL_FUZZ = 2

_FILE = re.compile(r"(?:checking|patching) file (?:'([^']+)'|(\S+))")
_HUNK = re.compile(r"Hunk #(\d+) FAILED at (\d+)")
_NO_FILE = re.compile(r"can't find file to patch at input line (\d+)")


def apply_patch(tree: Path, patch: Patch, directory: Path) -> None:
    """Apply a patch to a tree; patch(1) writes new files, so links stay as they are.

    directory: for a decompressed copy.
    Raises BuildFailed with file, hunk and reject if it does not apply, BadInput if it can't be
    read. The tree is of no use then.
    """
    plain = plain_patch(patch, directory)
    tried = _patch(tree, plain, patch.fuzz, "--dry-run")
    if tried.status == 0:
        done = _patch(tree, plain, patch.fuzz)
        if done.status == 0:
            return
        tried = done
    with_fuzz = patch.fuzz < USUAL_FUZZ and _patch(tree, plain, USUAL_FUZZ, "--dry-run").status == 0
    done = _patch(tree, plain, patch.fuzz)
    raise_if_full(done.stdout + done.stderr)
    raise _refused(tree, patch, done.stdout + done.stderr, with_fuzz=with_fuzz)


def _patch(tree: Path, plain: Path, fuzz: int, *flags: str) -> Completed:
    argv = ["patch", "-p1", "--batch", "--forward", f"--fuzz={fuzz}", *flags]
    argv.append(f"--input={plain.absolute()}")
    return run(argv, cwd=tree, timeout_s=PATCH_TIMEOUT_S, check=False)


def failed_hunks(said: str) -> tuple[str, ...]:
    """Return what patch(1) could not do, as `FILE: hunk N, at line M`."""
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
            where=tuple(place for place in (patch.where, str(patch.file)) if place),
            next_step=step,
        ),
    )


def plain_patch(patch: Patch, directory: Path) -> Path:
    """Return the patch without compression."""
    if patch.file.suffix not in _DECOMPRESS:
        return patch.file
    to = directory / "plain.patch"
    try:
        to.write_bytes(_DECOMPRESS[patch.file.suffix](patch.file))
    except (EOFError, lzma.LZMAError, gzip.BadGzipFile, ValueError) as error:
        raise BadInput(
            f"the patch {patch.name} cannot be unpacked: {error}",
            Evidence(where=tuple(place for place in (patch.where, str(patch.file)) if place)),
        ) from None
    return to


def _zstd(path: Path) -> bytes:
    program = find_program("zstd", "apt-get install zstd")
    done = run([program, "--decompress", "--stdout", path], timeout_s=60, check=False)
    if done.status != 0:
        raise ValueError(done.stderr.strip())
    return done.raw_stdout


_DECOMPRESS: dict[str, Callable[[Path], bytes]] = {
    ".gz": lambda path: gzip.decompress(path.read_bytes()),
    ".xz": lambda path: lzma.decompress(path.read_bytes()),
    ".bz2": lambda path: bz2.decompress(path.read_bytes()),
    ".zst": _zstd,
}
