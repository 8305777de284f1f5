"""Copies of sources that are brought up to date: files that differ are written, the others stay.

make decides by times what is compiled again. A file that differs therefore gets the present as its
time. Its own time may be older than an object that was made from another version of it.
"""

from __future__ import annotations

import os
import shutil
import stat
from collections.abc import Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from pytest_kernelvm.errors import BadInput, Evidence
from pytest_kernelvm.foreign.files import file_kind
from pytest_kernelvm.store.digest import digest_of, file_digest

# The directory in a copy that is make's O=. It is not part of the source.
OBJECTS = ".objects"
# Beside a copy: digests of its files by relative path.
FILES = "files.json"


def files_below(tree: Path) -> dict[str, os.stat_result]:
    """Return the files and links of a source, but not what is git's or make's.

    Args:
        tree: The source.

    Returns:
        Their status (lstat(2)) by relative path.
    """
    found: dict[str, os.stat_result] = {}
    pending = [("", str(tree))]
    while pending:
        prefix, directory = pending.pop()
        with os.scandir(directory) as entries:
            for entry in entries:
                relative = prefix + entry.name
                if entry.is_dir(follow_symlinks=False):
                    if relative not in (".git", OBJECTS):
                        pending.append((f"{relative}/", entry.path))
                elif relative != ".git":
                    found[relative] = entry.stat(follow_symlinks=False)
    return found


def digests_below(tree: Path) -> dict[str, str]:
    """Return digests of the files and links of a source by relative path.

    Args:
        tree: The root of the source.
    """
    names = list(files_below(tree))
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        digests = pool.map(lambda name: content_digest(tree / name), names)
        return dict(zip(names, digests, strict=True))


def update_linked_copy(source: Path, copy: Path) -> tuple[str, ...]:
    """Make `copy`, whose files are links to a source's, have the files of `source`.

    A file that is not the same one is compared by its bytes. If they differ, it is written anew
    with the present as its time.

    Args:
        source: Where the files are.
        copy: What is changed.

    Returns:
        Relative paths of the files that were written or removed.
    """
    files, present = files_below(source), files_below(copy)
    changed = []
    for name, about in files.items():
        before = present.get(name)
        if not (before and _same(source / name, about, copy / name, before)):
            changed.append(name)
            _replace(source / name, copy / name)
    changed += _remove(copy, present.keys() - files.keys())
    return tuple(sorted(changed))


def update_copy(
    source: Path,
    copy: Path,
    digests: Mapping[str, str],
    before: Mapping[str, str],
    *,
    overlay: Path | None = None,
) -> tuple[str, ...]:
    """Make `copy` have the files of a working tree.

    Args:
        source: The working tree.
        copy: What is changed.
        digests: Of the tree's files, by relative path, as they were a moment ago.
        before: Of the copy's files.
        overlay: A directory whose files are taken instead of the tree's.

    Returns:
        Relative paths of the files that were written or removed.

    Raises:
        BadInput: A file is not what its digest says: somebody edits it right now.
    """
    changed = [name for name, digest in digests.items() if before.get(name) != digest]
    for name in changed:
        laid_over = overlay is not None and _is_there(overlay / name)
        try:
            _replace((overlay if overlay and laid_over else source) / name, copy / name)
            found = content_digest(copy / name)
        except FileNotFoundError:
            found = ""
        if found != digests[name]:
            raise BadInput(
                f"{source} changes while it is built",
                Evidence(
                    where=(str(source / name),), next_step="try again after all files are saved"
                ),
            )
    return tuple(sorted([*changed, *_remove(copy, before.keys() - digests.keys())]))


def update_links(
    source: Path, copy: Path, digests: Mapping[str, str], before: Mapping[str, str]
) -> tuple[str, ...]:
    """Make `copy`, whose files are links to a source's, have the files of a source that changed.

    The source's files are replaced when they change, and have the time of that.

    Args:
        source: Where the files are.
        copy: What is changed.
        digests: Of the source's files, by relative path.
        before: Of the copy's files.

    Returns:
        Relative paths of the files that were linked or removed.
    """
    changed = [name for name, digest in digests.items() if before.get(name) != digest]
    for name in changed:
        (copy / name).parent.mkdir(parents=True, exist_ok=True)
        (copy / name).unlink(missing_ok=True)
        if (source / name).is_symlink():
            (copy / name).symlink_to((source / name).readlink())
        else:
            (copy / name).hardlink_to(source / name)
    return tuple(sorted([*changed, *_remove(copy, before.keys() - digests.keys())]))


def _is_there(path: Path) -> bool:
    return path.is_symlink() or path.is_file()


def content_digest(path: Path) -> str:
    """Return what names a file of a source: its bytes and whether it is a program, or its link.

    Args:
        path: The file or link.

    Returns:
        A digest; of a file with `x` or `-` before it.

    Raises:
        BadInput: It is a FIFO, a socket or a device: reading it might never end.
    """
    about = path.lstat()
    if stat.S_ISLNK(about.st_mode):
        return digest_of(["link", str(path.readlink())])
    if not stat.S_ISREG(about.st_mode):
        raise BadInput(
            f"{path} is {file_kind(about.st_mode)}",
            Evidence(
                expected="regular files, directories and links in a source",
                where=(str(path),),
                next_step="remove it, or name another directory",
            ),
        )
    program = "x" if about.st_mode & stat.S_IXUSR else "-"
    return program + file_digest(path)


def _remove(copy: Path, names: Iterable[str]) -> list[str]:
    gone = sorted(names)
    for name in gone:
        (copy / name).unlink(missing_ok=True)
    return gone


def _same(one: Path, about: os.stat_result, other: Path, before: os.stat_result) -> bool:
    if about.st_ino == before.st_ino and about.st_dev == before.st_dev:
        return True
    # As in `content_digest`, other permissions do not count.
    kinds = {(stat.S_IFMT(each.st_mode), each.st_mode & stat.S_IXUSR) for each in (about, before)}
    if len(kinds) > 1 or about.st_size != before.st_size:
        return False
    return content_digest(one) == content_digest(other)


def _replace(source: Path, copy: Path) -> None:
    copy.parent.mkdir(parents=True, exist_ok=True)
    copy.unlink(missing_ok=True)
    if source.is_symlink():
        copy.symlink_to(source.readlink())
        return
    # A hard link would give the original the present as its time; copyfile makes a new file.
    shutil.copyfile(source, copy)
    copy.chmod(0o755 if source.stat().st_mode & stat.S_IXUSR else 0o644)
