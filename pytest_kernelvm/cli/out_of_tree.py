"""The verb `module`: modules of the user, built, tried in a guest, or checked."""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from pytest_kernelvm.cli.selection import add_source, one_cell, store_of
from pytest_kernelvm.errors import BadInput, Evidence, KernelvmError
from pytest_kernelvm.printable import printable
from pytest_kernelvm.store.writing import remove_tree

if TYPE_CHECKING:
    from pytest_kernelvm.cli.selection import Verbs
    from pytest_kernelvm.session.cell import Cell

POLL_S = 0.1
# What the names of the arguments stand for.
ARGUMENTS = {
    "DIR": "a directory with a Kbuild or Makefile",
    "KO": ".ko files, which are loaded together",
}


def add_module(verbs: Verbs) -> None:
    """Declare `module build`, `module try` and `module check`."""
    help_text = "build modules of your own against a stored kernel, and try them in a guest"
    module = verbs.add_parser("module", help=help_text, description=help_text)
    actions = module.add_subparsers(required=True, metavar="ACTION")
    for name, what, help_text, verb in (
        ("build", "DIR", "build the modules of a directory; print the .ko files", _build),
        (
            "try",
            "DIR|KO",
            "build modules, load them in a fresh guest, show its log, unload them",
            _try,
        ),
        ("check", "KO", "say whether .ko files that were built elsewhere fit a kernel", _check),
    ):
        parser = actions.add_parser(name, help=help_text, description=help_text)
        files = "+" if "KO" in what else None
        about_argument = " or ".join(ARGUMENTS[word] for word in what.split("|"))
        parser.add_argument("what", type=Path, metavar=what, nargs=files, help=about_argument)
        parser.add_argument(
            "--config",
            required=True,
            metavar="CELL",
            help="for the kernel of this cell, such as malta-6.12",
        )
        add_source(parser)
        parser.set_defaults(verb=verb)
        if verb is not _check:
            _add_watch(parser)
        if verb is _try:
            _add_loading(parser)


def _add_watch(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--watch",
        action="store_true",
        help="do it again each time a file is saved, until Ctrl-C",
    )


def _add_loading(parser: argparse.ArgumentParser) -> None:
    """Declare the options of how modules are loaded."""
    parser.add_argument(
        "--options",
        action="append",
        default=[],
        metavar="MODULE:NAME=VALUE",
        help="a parameter of a module; repeatable",
    )
    parser.add_argument(
        "--timeout",
        type=float,
        metavar="SECONDS",
        help="how long loading or unloading a module may take; default timeouts.command_s",
    )


def _cell(arguments: argparse.Namespace) -> Cell:
    from pytest_kernelvm.session.cell import Cell

    return Cell(one_cell(arguments, arguments.config), store_of(arguments))


def _build(arguments: argparse.Namespace) -> int:
    from pytest_kernelvm.session.smoke_tests import build_for

    cell = _cell(arguments)

    def build() -> None:
        started = time.monotonic()
        built = build_for(cell, arguments.what)
        if built.said:
            print(printable(built.said), file=sys.stderr)
        for file in built.files:
            print(file)
        _say(f"built in {time.monotonic() - started:.1f} s")

    return _once_or_watching(arguments, (arguments.what,), build)


def _check(arguments: argparse.Namespace) -> int:
    from pytest_kernelvm.kernel.out_of_tree.compat import config_near, require_fit, unchecked

    files = _ko_files(arguments.what)
    kernel = _cell(arguments).kernel
    config = config_near(files)
    require_fit(kernel, files, config=config)
    unknown = "".join(f"; {each}" for each in unchecked(kernel, config=config))
    _say(f"{', '.join(file.name for file in files)} may be loaded on {kernel.release}{unknown}")
    return 0


def _ko_files(paths: Sequence[Path]) -> tuple[Path, ...]:
    for path in paths:
        if path.suffix != ".ko" or not path.is_file():
            raise BadInput(
                f"{path} is no module",
                Evidence(expected="files called NAME.ko, or one directory with a Kbuild"),
            )
    return tuple(paths)


def _try(arguments: argparse.Namespace) -> int:
    from pytest_kernelvm.session.smoke_tests import try_files, try_modules

    what: list[Path] = arguments.what
    directory = what[0] if len(what) == 1 and what[0].is_dir() else None
    files = () if directory else _ko_files(what)
    cell = _cell(arguments)
    timeout_s: float | None = arguments.timeout
    if timeout_s is not None and not timeout_s > 0:
        raise BadInput(f"--timeout {timeout_s:g}", Evidence(expected="more than 0 seconds"))
    options = {name: words for name, _, words in (o.partition(":") for o in arguments.options)}

    def attempt() -> None:
        logs = cell.store.new_log_directory(cell.config.id)
        if directory:
            result = try_modules(cell, directory, logs, options=options, timeout_s=timeout_s)
        else:
            result = try_files(cell, files, logs, options=options, timeout_s=timeout_s)
        remove_tree(logs)
        for line in result.log:
            print(printable(line))
        built = f"built in {result.build_s:.1f} s, " if directory else ""
        tests = f"{result.results}; " if result.results else ""
        unloaded = "loaded" if result.staying else "loaded and unloaded"
        for reason in result.staying:
            _say(reason)
        tried = f"tried in {result.guest_s:.1f} s"
        _say(f"{', '.join(result.modules)}: {unloaded}; {tests}{built}{tried}")

    return _once_or_watching(arguments, what, attempt)


def _say(text: str) -> None:
    sys.stdout.flush()
    print(f"kernelvm: {printable(text)}", file=sys.stderr)


def _once_or_watching(
    arguments: argparse.Namespace, what: Sequence[Path], work: Callable[[], None]
) -> int:
    if not arguments.watch:
        work()
        return 0
    done = None
    while True:
        found = _state(what)
        if found is None or found == done:
            time.sleep(POLL_S)
            continue
        done = found
        try:
            work()
        except KernelvmError as error:
            print(f"kernelvm: {error}", file=sys.stderr)
        _say(f"watching {', '.join(str(path) for path in what)}")


def _state(what: Sequence[Path]) -> object:
    from pytest_kernelvm.fetch.tree_copy import content_digest
    from pytest_kernelvm.kernel.out_of_tree.directory import sources_of

    try:
        return [sources_of(path) if path.is_dir() else content_digest(path) for path in what]
    except FileNotFoundError:
        # It is being written anew, by a compiler or an editor.
        return None
