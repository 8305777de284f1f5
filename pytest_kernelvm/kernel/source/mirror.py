"""Copies of working trees in the store; kernels are built from the copy.

A build in a working tree would see edits that happen meanwhile, and patches must not be applied to
it. To bring the copy up to date takes a second. Its files are replaced, never written into, as
build directories hold links to them.
"""

from __future__ import annotations

import contextlib
import json
import re
import shutil
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from pytest_kernelvm.config.patches import Patch
from pytest_kernelvm.fetch.patching import apply_patch, uncompressed_patch
from pytest_kernelvm.fetch.tree_copy import FILES, content_digest, files_below, update_copy
from pytest_kernelvm.kernel.source.worktree import WorkingTree
from pytest_kernelvm.store.digest import digest_of, file_digest
from pytest_kernelvm.store.kinds import TREE_COPIES
from pytest_kernelvm.store.store import Store
from pytest_kernelvm.store.writing import remove_tree, write_whole

# The files that a patch names, as patch(1) -p1 understands it.
_TOUCHED = re.compile(r"^(?:---|\+\+\+) [^/\s]+/([^\t\n]+)|^rename (?:from|to) (.+)", re.MULTILINE)


@dataclass(frozen=True, kw_only=True, slots=True)
class Mirror:
    """A copy of a working tree with patches.

    Attributes:
        tree: The copy.
        name: Stays the same when the tree's files change.
        files: Digests by relative path.
    """

    tree: Path
    name: str
    files: Mapping[str, str]


@contextlib.contextmanager
def mirrored(store: Store, working: WorkingTree, patches: Sequence[Patch]) -> Iterator[Mirror]:
    """Give the copy of a working tree in the state that it was found in; it stays until the end.

    Raises BadInput if the tree changes while it is copied, BuildFailed if a patch does not apply.

    Args:
        store: Where the copy is.
        working: The working tree.
        patches: Applied to the copy.

    Yields:
        The copy.
    """
    name = digest_of([str(working.path), *(file_digest(patch.file) for patch in patches)])
    with store.lock(f"{TREE_COPIES}-{name}", f"the copy of {working.path}"):
        directory = store.path(TREE_COPIES, name)
        with store.work(f"{TREE_COPIES}-{name}") as work:
            overlay = work.directory / "patched"
            files = dict(working.files)
            files.update(_patch_copies(working, patches, overlay, files))
            before = _noted(directory / FILES)
            if before is None:
                remove_tree(directory)
                store.progress.say(f"copying {working.path}")
            # If we are killed from here on, the copy has no digests, and is made anew.
            (directory / FILES).unlink(missing_ok=True)
            try:
                update_copy(working.path, directory / "tree", files, before or {}, overlay=overlay)
                write_whole(directory / FILES, json.dumps(files).encode())
            except BaseException:
                remove_tree(directory)
                raise
        yield Mirror(tree=directory / "tree", name=name, files=files)


def _noted(path: Path) -> dict[str, str] | None:
    try:
        found = json.loads(path.read_bytes())
    except (OSError, ValueError):
        return None
    return found if isinstance(found, dict) else None


def _patch_copies(
    working: WorkingTree, patches: Sequence[Patch], overlay: Path, files: dict[str, str]
) -> dict[str, str]:
    """Patch copies of the files that the patches touch; those that are removed leave `files`.

    Returns:
        Digests of what comes out, by relative path.
    """
    overlay.mkdir()
    if not patches:
        return {}
    touched = {name for patch in patches for name in _touched(patch, overlay.parent)}
    for name in touched & files.keys():
        (overlay / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy2(working.path / name, overlay / name, follow_symlinks=False)
        del files[name]
    for patch in patches:
        apply_patch(overlay, patch, overlay.parent)
    return {
        name: content_digest(overlay / name)
        for name in files_below(overlay)
        if not name.endswith(".orig")
    }


def _touched(patch: Patch, directory: Path) -> set[str]:
    text = uncompressed_patch(patch, directory).read_text(errors="replace")
    return {one or other for one, other in _TOUCHED.findall(text)}
