"""Kernel source: found, identified without unpacking, unpacked once, patched in a linked copy."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pytest_kernelvm.config import Source
from pytest_kernelvm.errors import BadInput, BuildFailed, Evidence, ToolMissing
from pytest_kernelvm.kernel.store import (
    Store,
    Work,
    digest_of,
    file_digest,
    raise_if_full,
    remove_tree,
)
from pytest_kernelvm.process import TAIL_LINES, run

DEBIAN_SOURCES = Path("/usr/src")
DPKG_INFO = Path("/var/lib/dpkg/info")
UNPACK_TIMEOUT_S = 1800.0
TAR_RECORD_BYTES = 10240


@dataclass(frozen=True, kw_only=True, slots=True)
class Tarball:
    """A kernel tarball and the name of its content.

    digest: of the content, in hex: the same bytes always have the same one.
    """

    path: Path
    digest: str


def locate(source: Source) -> Tarball:
    """Find the tarball of a source.

    Raises ToolMissing if a Debian package is not installed.
    """
    if source.kind == "tarball":
        path = Path(source.value)
        return Tarball(path=path, digest=file_digest(path))
    package = source.value
    found = sorted(DEBIAN_SOURCES.glob(f"{package}.tar.*"))
    if not found:
        raise ToolMissing(
            f"the Debian package {package} is not installed",
            Evidence(
                expected=f"{DEBIAN_SOURCES}/{package}.tar.xz",
                where=(source.where,),
                next_step=f"apt-get install {package}",
            ),
        )
    return Tarball(path=found[0], digest=_debian_digest(package, found[0]) or file_digest(found[0]))


def _debian_digest(package: str, tarball: Path) -> str:
    """The md5 that dpkg noted at installation spares us reading 150 MB at each start."""
    try:
        lines = (DPKG_INFO / f"{package}.md5sums").read_text().splitlines()
    except OSError:
        return ""
    for line in lines:
        md5, _, name = line.partition("  ")
        if name == str(tarball).lstrip("/"):
            return digest_of({"package": package, "md5": md5, "size_bytes": tarball.stat().st_size})
    return ""


def unpacked(store: Store, tarball: Tarball) -> Path:
    """Return the unpacked tree of a tarball, unpacking it if the store does not have it.

    Raises BadInput if it holds no kernel.
    """

    def make(work: Work) -> dict[str, Any]:
        tree = work.entry / "tree"
        tree.mkdir()
        store.progress.say(f"unpacking {tarball.path.name}")
        total = _unpacked_bytes(tarball.path)

        def show(line: str) -> None:
            if line.isdecimal() and total:
                percent = min(100, 100 * int(line) * TAR_RECORD_BYTES // total)
                store.progress.update(f"unpacking {tarball.path.name}: {percent} %")

        log = work.directory / "tar.log"
        argv = ["tar", "--extract", f"--file={tarball.path}", f"--directory={tree}"]
        argv += ["--strip-components=1", "--no-same-owner"]
        argv += ["--checkpoint=1000", "--checkpoint-action=echo=%u"]
        done = run(
            argv,
            env={"XZ_DEFAULTS": "-T0"},
            timeout_s=UNPACK_TIMEOUT_S,
            check=False,
            log=log,
            on_line=show,
        )
        if done.status != 0:
            said = [line for line in log.read_text().splitlines() if not line.isdecimal()]
            text = "\n".join(said[-TAIL_LINES:])
            raise_if_full(text)
            raise BadInput(
                f"{tarball.path} cannot be unpacked",
                Evidence(excerpt=text, where=(str(tarball.path),)),
            )
        try:
            kernel_version(tree)
        except BadInput as error:
            # Its words name a directory that is gone by the time they are read.
            raise BadInput(f"{tarball.path} holds no kernel tree", error.evidence) from None
        return {"tarball": str(tarball.path)}

    label = f"the source of {tarball.path.name}"
    return store.obtain("sources", tarball.digest, make, label=label, sized=False) / "tree"


def _unpacked_bytes(tarball: Path) -> int:
    if tarball.suffix != ".xz":
        return 0
    listed = run(["xz", "--robot", "--list", tarball], timeout_s=60, check=False).stdout
    found = re.search(r"^totals\t\d+\t\d+\t\d+\t(\d+)", listed, re.MULTILINE)
    return int(found[1]) if found else 0


def kernel_version(tree: Path) -> str:
    """Return a tree's version, such as 6.12.30, from its Makefile.

    Raises BadInput if it is not a kernel tree.
    """
    try:
        head = (tree / "Makefile").read_text(errors="replace")[:2000]
    except OSError:
        head = ""
    parts = [
        re.search(rf"^{name} *= *(\S*)$", head, re.MULTILINE)
        for name in ("VERSION", "PATCHLEVEL", "SUBLEVEL", "EXTRAVERSION")
    ]
    if not all(parts) or not (tree / "Kconfig").is_file():
        raise BadInput(
            f"{tree} is not a kernel tree",
            Evidence(expected="a Makefile with VERSION and PATCHLEVEL, and a Kconfig"),
        )
    major, minor, sub, extra = (part[1] for part in parts if part)
    return f"{major}.{minor}" + (f".{sub}" if sub else "") + extra


def patched(store: Store, tarball: Tarball, patches: Sequence[Path]) -> Path:
    """Return a tree with the patches applied: a copy whose untouched files are links.

    Raises BuildFailed, with what patch(1) said, if one does not apply exactly.
    """
    plain = unpacked(store, tarball)
    if not patches:
        return plain
    key = digest_of({"source": tarball.digest, "patches": [file_digest(p) for p in patches]})

    def make(work: Work) -> dict[str, Any]:
        tree = work.entry / "tree"
        run(["cp", "-al", plain, tree], timeout_s=UNPACK_TIMEOUT_S)
        for patch in patches:
            apply_patch(tree, patch)
        return {"source": tarball.digest, "patches": [patch.name for patch in patches]}

    label = f"the patched source of {tarball.path.name}"
    return store.obtain("sources", key, make, label=label, sized=False) / "tree"


def apply_patch(tree: Path, patch: Path) -> None:
    """Apply a patch to a tree without fuzz; patch(1) writes new files, so links stay as they are.

    Raises BuildFailed if it does not apply.
    """
    argv = ["patch", "-p1", "--batch", "--forward", "--fuzz=0"]
    argv.append(f"--input={patch.absolute()}")
    done = run(argv, cwd=tree, timeout_s=300, check=False)
    if done.status == 0:
        return
    rejects = "\n".join(path.read_text(errors="replace") for path in tree.rglob("*.rej"))
    remove_tree(tree)
    raise BuildFailed(
        f"the patch {patch.name} does not apply",
        Evidence(
            expected="every hunk applies without fuzz",
            excerpt=done.stdout + done.stderr + rejects,
            where=(str(patch),),
            next_step="make the patch for this version, or give it to the versions it fits",
        ),
    )
