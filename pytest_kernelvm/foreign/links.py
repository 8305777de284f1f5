"""Symbolic links in a tree that others made: none may lead out of it."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from pathlib import Path

from pytest_kernelvm.foreign.archive_rules import DEFAULT_RULES, ArchiveRules, refuse_link


def links_below(directory: Path) -> Iterator[Path]:
    """Yield the symbolic links below a directory, without following any."""
    pending = [str(directory)]
    while pending:
        with os.scandir(pending.pop()) as entries:
            for entry in entries:
                if entry.is_symlink():
                    yield Path(entry.path)
                elif entry.is_dir(follow_symlinks=False):
                    pending.append(entry.path)


def refuse_links_out(
    tree: Path, what: str, rules: ArchiveRules = DEFAULT_RULES, names: Iterable[bytes] | None = None
) -> None:
    """Refuse a tree with a symbolic link that leads out of it, as the kernel resolves it.

    `a/..` is where the link `a` leads to and one up from there, not what stands before it.
    Raises BadInput for the first such link.

    Args:
        tree: The tree.
        what: What it is called in the error.
        rules: What the error says is allowed.
        names: The paths of all links that are there, if they are known; None to look for them.
    """
    root = os.path.realpath(tree)
    known = None if names is None else (tree / os.fsdecode(name) for name in names)
    for link in links_below(tree) if known is None else known:
        aim = os.path.realpath(link)
        if aim != root and not aim.startswith(f"{root}/"):
            name, target = os.fsencode(link.relative_to(tree)), os.fsencode(link.readlink())
            refuse_link(what, name, target, rules)
