"""`kernelvm clean` and `store`."""

from __future__ import annotations

import argparse
import re
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from pytest_kernelvm.cli.selection import cells_of, one_cell, store_of
from pytest_kernelvm.errors import BadInput, Evidence, Verdict
from pytest_kernelvm.store.kinds import KINDS, Clean, Kind, cleaned_by, table

if TYPE_CHECKING:
    from pytest_kernelvm.cli.selection import Verbs
    from pytest_kernelvm.config.model import CellConfig
    from pytest_kernelvm.store.inventory import Item
    from pytest_kernelvm.store.store import Store

# How many faults of an entry are shown.
SHOWN_FAULTS = 10
_UNITS = {"d": 86400.0, "h": 3600.0, "m": 60.0, "s": 1.0}
_SIZES = {"K": 1 << 10, "M": 1 << 20, "G": 1 << 30, "T": 1 << 40}


def add_clean(verbs: Verbs) -> None:
    """Declare the verb."""
    text = "remove what was built from the store; what is in use stays"
    verb = verbs.add_parser(
        "clean",
        help=text,
        description=f"{text}: {_names(Clean.BUILT)}. `kernelvm store ls --help` explains them.",
    )
    verb.add_argument(
        "cells",
        nargs="*",
        metavar="CELL",
        help="remove the kernels of these cells with their module trees and snapshots, "
        "default all that is built",
    )
    verb.add_argument(
        "--sources", action="store_true", help=f"unpacked sources as well: {_names(Clean.SOURCES)}"
    )
    verb.add_argument(
        "--downloads",
        action="store_true",
        help=f"what came from the network as well: {_names(Clean.DOWNLOADS)}",
    )
    verb.set_defaults(verb=_clean)


def _names(command: Clean) -> str:
    return _names_of(cleaned_by(command))


def _names_of(kinds: Sequence[Kind]) -> str:
    return ", ".join(kind.name for kind in kinds)


def _clean(arguments: argparse.Namespace) -> int:
    from pytest_kernelvm.store.gc import clean

    store = store_of(arguments)
    commands = [Clean.BUILT]
    for option, command in (("sources", Clean.SOURCES), ("downloads", Clean.DOWNLOADS)):
        if getattr(arguments, option):
            commands.append(command)
            if arguments.cells:
                raise BadInput(f"--{option} takes no CELL: {option} belong to no single cell")
    if arguments.cells:
        return _clean_cells(store, cells_of(arguments, arguments.cells))
    # Only known directories: if the user names a wrong directory as the store, the rest stays.
    with store.disk_errors():
        for directory, stay in clean(store, cleaned_by(*commands)):
            if stay:
                print(f"kept {stay} in {directory}: in use")
            elif directory.exists():
                print(f"removed what the store had in {directory}; the rest is not of the store")
            else:
                print(f"removed {directory}")
    return 0


def _clean_cells(store: Store, configs: Sequence[CellConfig]) -> int:
    from pytest_kernelvm.kernel.build.build import find_kernel
    from pytest_kernelvm.store.gc import clean_kernel

    for config in configs:
        kernel = find_kernel(store, config)
        if kernel is None:
            print(f"{config.id}: not built")
            continue
        with store.disk_errors():
            gone, stay = clean_kernel(store, kernel.digest)
        for item in gone:
            print(f"{config.id}: removed {item.path}")
        for item in stay:
            print(f"{config.id}: kept {item.path}: in use")
    return 0


def add_store(verbs: Verbs) -> None:
    """Declare the verb."""
    text = "look at the store, verify it, make room in it"
    actions = verbs.add_parser("store", help=text, description=text).add_subparsers(
        required=True, metavar="ACTION"
    )
    text = "list what is in it, the last used first"
    ls = actions.add_parser(
        "ls",
        help=text,
        description=text,
        epilog=f"What a store has:\n\n{table()}",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    ls.set_defaults(verb=_ls)
    text = "print where a cell's kernel is, or one of its outputs"
    path = actions.add_parser("path", help=text, description=text)
    path.add_argument("cell", metavar="CELL", help="such as malta-6.12")
    path.add_argument(
        "output", nargs="?", metavar="OUTPUT", help="one of its outputs: vmlinux, modules, devel, …"
    )
    path.set_defaults(verb=_path)
    unverified = [kind for kind in KINDS if not kind.verified]
    text = "compare every file with its digest"
    verify = actions.add_parser(
        "verify",
        help=text,
        description=f"{text}. Without digests, and not verified: {_names_of(unverified)}.",
    )
    verify.add_argument("--remove", action="store_true", help="remove what is damaged")
    verify.set_defaults(verb=_verify)
    _add_gc(actions)


def _add_gc(actions: Verbs) -> None:
    text = "remove what was not used for longest; what is in use stays"
    collected = [kind for kind in KINDS if kind.collected]
    gc = actions.add_parser(
        "gc", help=text, description=f"{text}. It looks at {_names_of(collected)}."
    )
    gc.add_argument(
        "--older-than",
        metavar="AGE",
        type=_age,
        help="not used for so long: a number with d, h, m or s, such as 30d",
    )
    gc.add_argument(
        "--max-size",
        metavar="SIZE",
        type=_size,
        help="how much may stay: a number with K, M, G or T (powers of 1024), such as 20G",
    )
    gc.set_defaults(verb=_gc)


def _age(text: str) -> float:
    found = re.fullmatch(r"(\d+)([dhms])", text)
    if not found:
        raise argparse.ArgumentTypeError(f"{text!r} is no age such as 30d, 12h, 5m")
    return int(found[1]) * _UNITS[found[2]]


def _size(text: str) -> int:
    found = re.fullmatch(r"(\d+)([KMGT])", text)
    if not found:
        raise argparse.ArgumentTypeError(f"{text!r} is no size such as 500M, 20G")
    return int(found[1]) * _SIZES[found[2]]


def _shown(size_bytes: int) -> str:
    return f"{size_bytes / (1 << 20):.1f} MiB"


def _ls(arguments: argparse.Namespace) -> int:
    from pytest_kernelvm.store.inventory import items

    found = items(store_of(arguments))
    now = time.time()
    for item in found:
        hours = (now - item.used_s) / 3600
        print(
            f"{item.kind.name:9} {item.digest[:16]}  {_shown(item.size_bytes):>12}  "
            f"{hours:7.1f} h ago  {item.about}"
        )
    print(f"{len(found)} entries, {_shown(sum(item.size_bytes for item in found))}")
    return 0


def _path(arguments: argparse.Namespace) -> int:
    from pytest_kernelvm.kernel.build.build import find_kernel

    config = one_cell(arguments, arguments.cell)
    kernel = find_kernel(store_of(arguments), config)
    if kernel is None:
        raise BadInput(
            f"the kernel of {config.id} is not in the store",
            Evidence(next_step=f"kernelvm build {config.id}"),
        )
    path: Path = kernel.directory
    if arguments.output:
        path = kernel.devel if arguments.output == "devel" else path / arguments.output
    named = Path(arguments.output or "")
    inside = ".." not in named.parts and not named.is_absolute()
    if not (inside and path.exists()):
        have = [each.name for each in sorted(kernel.directory.iterdir())]
        raise BadInput(
            f"the kernel of {config.id} has no output {arguments.output!r}",
            Evidence(expected=f"one of {', '.join((*have, 'devel'))}"),
        )
    print(path)
    return 0


def _verify(arguments: argparse.Namespace) -> int:
    from pytest_kernelvm.store.gc import remove_items
    from pytest_kernelvm.store.verify import verify

    store = store_of(arguments)
    damaged = verify(store)
    stay = {*damaged}
    _show_faults(damaged)
    if arguments.remove:
        with store.disk_errors():
            stay = {*remove_items(store, tuple(damaged))}
        for item in damaged:
            print(f"kept {item.path}: in use" if item in stay else f"removed {item.path}")
    print(f"{len(damaged)} damaged" if damaged else "all is whole")
    if stay and not arguments.remove:
        print("`kernelvm store verify --remove` removes them; they are made again when needed")
    return Verdict.HARNESS_ERROR.exit_code if stay else 0


def _show_faults(damaged: Mapping[Item, Sequence[str]]) -> None:
    for item, faults in damaged.items():
        for fault in faults[:SHOWN_FAULTS]:
            print(f"{item.path}: {fault}")
        if faults[SHOWN_FAULTS:]:
            print(f"{item.path}: {len(faults) - SHOWN_FAULTS} more files")


def _gc(arguments: argparse.Namespace) -> int:
    from pytest_kernelvm.store.gc import collect_garbage

    if arguments.older_than is None and arguments.max_size is None:
        raise BadInput(
            "neither --older-than nor --max-size is given",
            Evidence(next_step="--older-than 30d, --max-size 20G"),
        )
    store = store_of(arguments)
    with store.disk_errors():
        gone = collect_garbage(
            store, older_than_s=arguments.older_than, most_bytes=arguments.max_size
        )
    for item in gone:
        print(f"removed {item.path}  {_shown(item.size_bytes)}")
    print(f"{len(gone)} removed, {_shown(sum(item.size_bytes for item in gone))}")
    return 0
