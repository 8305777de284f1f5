"""`kernelvm clean`."""

from __future__ import annotations

import argparse
import contextlib
from typing import TYPE_CHECKING

from pytest_kernelvm.kernel.store import remove_tree
from pytest_kernelvm.verbs.selection import store_of

if TYPE_CHECKING:
    from pytest_kernelvm.verbs.selection import Verbs

CLEANED = (
    "kernels",
    "requests",
    "builders",
    "trees",
    "guests",
    "userlands",
    "initramfs",
    "snapshots",
    "logs",
    "tmp",
)


def add_clean(verbs: Verbs) -> None:
    """Declare the verb."""
    verb = verbs.add_parser("clean", help="remove built kernels from the store")
    verb.add_argument("--sources", action="store_true", help="unpacked sources as well")
    verb.set_defaults(verb=_clean)


def _clean(arguments: argparse.Namespace) -> int:
    store = store_of(arguments)
    for kind in (*CLEANED, *(("sources",) if arguments.sources else ())):
        directory = store.root / kind
        if directory.is_dir():
            with contextlib.suppress(FileNotFoundError):
                remove_tree(directory)
            print(f"removed {directory}")
    return 0
