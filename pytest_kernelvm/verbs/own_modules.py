"""`kernelvm module build` and `try`."""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from pytest_kernelvm.errors import KernelvmError
from pytest_kernelvm.kernel.store import remove_tree
from pytest_kernelvm.verbs.selection import add_source, one_cell, store_of

if TYPE_CHECKING:
    from pytest_kernelvm.verbs.selection import Verbs
    from pytest_kernelvm.vm.cell import Cell

LOOK_S = 0.1


def add_module(verbs: Verbs) -> None:
    """Declare the verb."""
    told = "build modules of your own against a stored kernel, and try them in a guest"
    module = verbs.add_parser("module", help=told, description=told)
    actions = module.add_subparsers(required=True, metavar="ACTION")
    for name, told_of, verb in (
        ("build", "build the modules of a directory; print the .ko files", _build),
        ("try", "build them, load them in a fresh guest, show its log, unload them", _try),
    ):
        parser = actions.add_parser(name, help=told_of, description=told_of)
        parser.add_argument("directory", type=Path, metavar="DIR", help="has a Kbuild or Makefile")
        parser.add_argument("--config", required=True, metavar="CELL", help="such as malta-6.12")
        parser.add_argument("--watch", action="store_true", help="again at each save, until Ctrl-C")
        add_source(parser)
        parser.set_defaults(verb=verb)
        if verb is _try:
            parser.add_argument(
                "--options",
                action="append",
                default=[],
                metavar="MODULE:NAME=VALUE",
                help="a module's parameters; repeatable",
            )


def _cell(arguments: argparse.Namespace) -> Cell:
    from pytest_kernelvm.vm.cell import Cell

    return Cell(one_cell(arguments, arguments.config), store_of(arguments))


def _build(arguments: argparse.Namespace) -> int:
    from pytest_kernelvm.vm.trial import build_for

    cell = _cell(arguments)

    def build() -> None:
        started = time.monotonic()
        built = build_for(cell, arguments.directory)
        if built.said:
            print(built.said, file=sys.stderr)
        for file in built.files:
            print(file)
        _tell(f"built in {time.monotonic() - started:.1f} s")

    return _once_or_watching(arguments, build)


def _try(arguments: argparse.Namespace) -> int:
    from pytest_kernelvm.vm.trial import try_modules

    cell = _cell(arguments)
    options = {name: words for name, _, words in (o.partition(":") for o in arguments.options)}

    def attempt() -> None:
        logs = cell.store.new_log_directory(cell.config.id)
        trial = try_modules(cell, arguments.directory, logs, options=options)
        remove_tree(logs)
        for line in trial.log:
            print(line)
        _tell(
            f"{', '.join(trial.modules)}: loaded and unloaded; built in {trial.build_s:.1f} s, "
            f"tried in {trial.guest_s:.1f} s"
        )

    return _once_or_watching(arguments, attempt)


def _tell(text: str) -> None:
    sys.stdout.flush()
    print(f"kernelvm: {text}", file=sys.stderr)


def _once_or_watching(arguments: argparse.Namespace, work: Callable[[], None]) -> int:
    from pytest_kernelvm.kernel.own_modules import sources_of

    if not arguments.watch:
        work()
        return 0
    done = None
    while True:
        found = sources_of(arguments.directory)
        if found == done:
            time.sleep(LOOK_S)
            continue
        done = found
        try:
            work()
        except KernelvmError as error:
            print(f"kernelvm: {error}", file=sys.stderr)
        _tell(f"watching {arguments.directory}")
