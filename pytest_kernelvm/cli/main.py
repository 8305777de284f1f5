"""The command `kernelvm`: the same work as in tests, by hand."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

from pytest_kernelvm import __version__
from pytest_kernelvm.cli import (
    configuration,
    doctor,
    guests,
    kernels,
    modules,
    out_of_tree,
    replay,
    schema,
    services,
    store,
)
from pytest_kernelvm.errors import KernelvmError, Verdict
from pytest_kernelvm.process import signals_interrupt

VERBS = (
    doctor.add_doctor,
    kernels.add_list,
    kernels.add_build,
    guests.add_boot,
    replay.add_replay,
    modules.add_closure,
    modules.add_modules,
    services.add_services,
    configuration.add_config,
    out_of_tree.add_module,
    schema.add_schema,
    store.add_store,
    store.add_clean,
)

INTERRUPTED = 130


def main(argv: Sequence[str] | None = None) -> int:
    """Run one verb.

    Args:
        argv: What stands behind `kernelvm` on the command line; None means that of this process.

    Returns:
        The exit code, which says the verdict.
    """
    arguments = command_parser().parse_args(argv)
    verb: Callable[[argparse.Namespace], int] = arguments.verb
    try:
        with signals_interrupt():
            status = verb(arguments)
        sys.stdout.flush()
        return status
    except KernelvmError as error:
        print(f"kernelvm: {error}", file=sys.stderr)
        return error.verdict.exit_code
    except KeyboardInterrupt:
        print("kernelvm: interrupted", file=sys.stderr)
        return INTERRUPTED
    except BrokenPipeError:
        # Who read our output has seen enough. Python writes the rest at its exit: to nowhere.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0


def command_parser() -> argparse.ArgumentParser:
    """Return the parser of the whole command line, with every verb."""
    codes = ", ".join(f"{each.exit_code} {each.label}" for each in Verdict)
    parser = argparse.ArgumentParser(
        prog="kernelvm",
        description="Build Linux kernels, boot them in QEMU, look at their modules.",
        epilog=f"exit codes: {codes}, {INTERRUPTED} interrupted",
    )
    parser.add_argument("--version", action="version", version=f"%(prog)s {__version__}")
    parser.add_argument(
        "--configs",
        type=Path,
        default=Path("vm-configs"),
        metavar="DIR",
        help="directory of vm-configs, default %(default)s",
    )
    parser.add_argument(
        "--store",
        type=Path,
        metavar="DIR",
        help="where built kernels are kept, default $KERNELVM_STORE or ~/.cache/kernelvm",
    )
    verbs = parser.add_subparsers(title="verbs", required=True, metavar="VERB")
    for add in VERBS:
        add(verbs)
    return parser
