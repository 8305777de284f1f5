"""The verbs `replay`, `attach`, `export` and `kept`: what failed tests left."""

from __future__ import annotations

import argparse
import contextlib
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from pytest_kernelvm.cli.selection import store_of
from pytest_kernelvm.errors import BadInput, Evidence, KernelvmError, Verdict
from pytest_kernelvm.printable import printable
from pytest_kernelvm.store.kinds import HISTORY

if TYPE_CHECKING:
    from pytest_kernelvm.cli.selection import Verbs
    from pytest_kernelvm.failures.bundle import Bundle, BundleGuest, Permissions
    from pytest_kernelvm.failures.replay import Comparison
    from pytest_kernelvm.vm.agent.journal import JournalEntry
    from pytest_kernelvm.vm.machine.vm import Vm

BUNDLE = "a failure's name, its directory, or a file made by `kernelvm export`"
# What a bundle may do only if the user says so.
ALLOWED = {
    "qmp": "any QMP command that is in its journal",
    "outside": "a network card with a way to what this machine reaches",
    "no-sandbox": "QEMU without its seccomp filter",
}
# The user is told why a replay waits for longer than this.
LONG_PAUSE_S = 30.0
# At most this many differences are shown.
MOST_SHOWN = 5


def add_replay(verbs: Verbs) -> None:
    """Declare `replay`, `attach`, `export` and `kept`."""
    _add_replay(verbs)
    _add_attach(verbs)
    _add_export(verbs)
    _add_kept(verbs)


def _add_replay(verbs: Verbs) -> None:
    help_text = "do with fresh guests what a failed test did, and compare their answers"
    replay = verbs.add_parser(
        "replay", help=help_text, description=f"{help_text}; 0 if it came out as before"
    )
    replay.add_argument("bundle", metavar="BUNDLE", help=BUNDLE)
    replay.add_argument(
        "--boot",
        action="store_true",
        help="boot the guests, even if there is a snapshot to restore",
    )
    replay.add_argument(
        "--fast", action="store_true", help="leave out the pauses that the test made"
    )
    replay.add_argument("--console", action="store_true", help="show the console as it comes")
    replay.add_argument(
        "--shell", action="store_true", help="give a prompt in the guest afterwards"
    )
    _add_allow(replay, list(ALLOWED))
    replay.set_defaults(verb=_replay)


def _add_attach(verbs: Verbs) -> None:
    help_text = "talk with a guest as a failure left it (pytest --kernelvm-keep=failed)"
    attach = verbs.add_parser("attach", help=help_text, description=help_text)
    attach.add_argument("bundle", metavar="ID", help=BUNDLE)
    attach.add_argument(
        "--guest", metavar="GUEST", help="which one, if the test had several: guest-0, guest-1, …"
    )
    attach.add_argument("--paused", action="store_true", help="do not let the guest go on")
    attach.add_argument("--gdb", action="store_true", help="have QEMU listen for gdb as well")
    _add_allow(attach, [name for name in ALLOWED if name != "qmp"])
    attach.set_defaults(verb=_attach)


def _add_export(verbs: Verbs) -> None:
    help_text = "write what a failed test left into one file, for another machine"
    export = verbs.add_parser("export", help=help_text, description=help_text)
    export.add_argument("bundle", metavar="ID", help=BUNDLE)
    export.add_argument(
        "file",
        type=Path,
        metavar="FILE",
        help="what to write; its name ends in .tar.gz, .tar.zst or .tar.xz",
    )
    export.set_defaults(verb=_export)


def _add_kept(verbs: Verbs) -> None:
    help_text = "list what failed tests left"
    kept = verbs.add_parser("kept", help=help_text, description=help_text)
    kept.add_argument(
        "--end", nargs="*", metavar="ID", help="remove these bundles instead; without an ID all"
    )
    kept.set_defaults(verb=_kept)


def _add_allow(parser: argparse.ArgumentParser, words: Sequence[str]) -> None:
    parser.add_argument(
        "--allow",
        action="append",
        default=[],
        choices=words,
        help="let a bundle that you trust do more: "
        + "; ".join(f"{word}: {ALLOWED[word]}" for word in words),
    )


def _allowed(arguments: argparse.Namespace) -> Permissions:
    from pytest_kernelvm.failures.bundle import Permissions

    return Permissions(**{word.replace("-", "_"): word in arguments.allow for word in ALLOWED})


def _say_sandbox(bundle: Bundle, allowed: Permissions) -> None:
    """Say that a guest whose QEMU ran without the sandbox gets one that has it."""
    if not allowed.no_sandbox and any(not kept.note.boot.machine.sandbox for kept in bundle.guests):
        print(
            "kernelvm: its QEMU ran without the sandbox and runs with it here; "
            "--allow=no-sandbox, if this QEMU has none",
            file=sys.stderr,
        )


def _say(text: str) -> None:
    """Print a text that may have parts of a guest's or of somebody else's bundle."""
    print(printable(text), flush=True)


def _replay(arguments: argparse.Namespace) -> int:
    from pytest_kernelvm.failures.bundle import open_bundle
    from pytest_kernelvm.failures.replay import recorded_entries, replay, replayed_guests
    from pytest_kernelvm.shell.shell import EXIT_HINT, GuestShell, interact
    from pytest_kernelvm.store.writing import remove_tree

    store = store_of(arguments)
    with open_bundle(store, arguments.bundle) as bundle, contextlib.ExitStack() as stack:
        allowed = _allowed(arguments)
        entries = recorded_entries(bundle, allowed)
        _introduce(bundle)
        _say_sandbox(bundle, allowed)
        directory = store.new_log_directory(bundle.name)
        starting = replayed_guests(
            bundle,
            store,
            directory,
            allowed=allowed,
            fresh="boot" if arguments.boot else "restore",
            started=_consoles(stack) if arguments.console else lambda _vm: None,
        )
        try:
            guests = stack.enter_context(starting)
        except KernelvmError as error:
            return _not_ready(bundle, error)
        _say_ready(guests)
        if entries and not arguments.fast and entries[-1][1].at_s > LONG_PAUSE_S:
            _say(f"its test took {entries[-1][1].at_s:.0f} s, and so does this without --fast")
        comparison = replay(bundle, entries, guests, pauses=not arguments.fast, show=_show_entry)
        if not comparison.error:
            # With an error the logs stay, as it names them.
            stack.callback(remove_tree, directory)
        _say_splats(guests)
        status = _conclude(bundle, comparison)
        if arguments.shell:
            interact(
                GuestShell(guests[-1], sys.stdout), history=store.place(HISTORY), intro=EXIT_HINT
            )
        return status


def _say_ready(guests: Sequence[Vm]) -> None:
    for vm in guests:
        how = "restored" if vm.snapshot else "booted"
        _say(f"{vm.label}: {how} in {vm.ready_s:.2f} s")


def _say_splats(guests: Sequence[Vm]) -> None:
    for vm in guests:
        for splat in vm.splats:
            _say(f"{vm.label}: its kernel found something wrong: {splat.title}")


def _introduce(bundle: Bundle) -> None:
    from pytest_kernelvm.failures.bundle import package_version
    from pytest_kernelvm.failures.bundle_notes import shown_line

    note = bundle.note
    first = (note.error.splitlines() or [""])[0].removeprefix(f"{note.verdict}: ")
    _say(f"{shown_line(note.test)}: {shown_line(first)}")
    _say(f"{note.verdict}, written on {note.at} by pytest-kernelvm {note.version}")
    if note.version != package_version():
        print(
            f"kernelvm: this is {package_version()}, which may behave differently", file=sys.stderr
        )


def _consoles(stack: contextlib.ExitStack) -> Callable[[Vm], None]:
    from pytest_kernelvm.report.observer import LinePrefixer
    from pytest_kernelvm.vm.machine.recording import following

    def show(vm: Vm) -> None:
        labelled = LinePrefixer(vm.label)

        def write(text: str) -> None:
            sys.stdout.write(labelled(text))
            sys.stdout.flush()

        stack.enter_context(following(vm.console, write, since=vm.console.size_bytes))

    return show


def _not_ready(bundle: Bundle, error: KernelvmError) -> int:
    """Return the exit code for guests that do not get ready: 0 if the test ended so as well.

    Any other failure is raised.
    """
    if error.verdict.label != bundle.note.verdict or any(
        guest.note.ready_s for guest in bundle.guests
    ):
        raise error
    _say(str(error))
    _say("as before: the guest does not get ready")
    return 0


def _show_entry(vm: Vm, entry: JournalEntry, word: str) -> None:
    from pytest_kernelvm.failures.bundle_notes import shown_line
    from pytest_kernelvm.vm.agent.journal import ConsoleInput, Exchange, QemuSignal, QmpCommand

    match entry:
        case Exchange():
            text = f"{shown_line(entry.what):50}  {word}"
        case ConsoleInput():
            text = f"typed {entry.text!r}"
        case QmpCommand():
            text = f"QMP {entry.command}"
        case QemuSignal():
            text = f"signal {entry.number} to QEMU"
    _say(f"{entry.at_s:9.3f}  {vm.label}: {text}")


def _conclude(bundle: Bundle, comparison: Comparison) -> int:
    from pytest_kernelvm.failures.bundle_notes import shown_line

    for difference in (*comparison.differing, *comparison.alike)[:MOST_SHOWN]:
        _say(f"{difference.number}. {shown_line(difference.what)}")
        _say(f"  before: {difference.recorded}")
        _say(f"  now:    {difference.replayed}")
    if comparison.error:
        _say(str(comparison.error))
    counts = f"{comparison.same} of {comparison.exchanges} replies are the same"
    if comparison.alike:
        counts += f", {len(comparison.alike)} differ in what was read"
    before = bundle.note.verdict
    now = comparison.error.verdict.label if comparison.error else ""
    other_end = now and now != before and before != Verdict.TEST_FAILED.label
    if comparison.differing or other_end:
        _say(f"not as before: {counts}, {len(comparison.differing)} commands end differently")
        return comparison.error.verdict.exit_code if comparison.error else 1
    _say(f"as before: {counts}")
    return 0


def _attach(arguments: argparse.Namespace) -> int:
    from pytest_kernelvm.failures.bundle import open_bundle
    from pytest_kernelvm.failures.saved_state import attach, resume_or_error
    from pytest_kernelvm.shell.debugging import gdb_command, serve_gdb, stub_directory
    from pytest_kernelvm.shell.shell import EXIT_HINT, GuestShell, interact
    from pytest_kernelvm.store.writing import remove_tree
    from pytest_kernelvm.vm.machine.recording import following

    store = store_of(arguments)
    with open_bundle(store, arguments.bundle) as bundle, contextlib.ExitStack() as stack:
        kept = _one_guest(bundle, arguments.guest)
        allowed = _allowed(arguments)
        snapshot, bootable = kept.saved_state(), kept.bootable(store, allowed)
        _introduce(bundle)
        _say_sandbox(bundle, allowed)
        directory = store.new_log_directory(bundle.name)
        stack.callback(remove_tree, directory)
        vm = stack.enter_context(attach(bootable, directory, snapshot))
        if arguments.gdb:
            socket = serve_gdb(vm, stack.enter_context(stub_directory()))
            _say(gdb_command(socket, kept.vmlinux(store)))
        shell = GuestShell(vm, sys.stdout)
        _say(vm.console.tail())
        stack.enter_context(following(vm.console, shell.show_console, since=vm.console.size_bytes))
        if arguments.paused:
            _say(f"{vm.label} is stopped; `monitor cont` lets it go on")
        elif error := resume_or_error(vm):
            _say(f"{error.verdict}: {error.summary}; QEMU answers: `monitor info registers`")
        interact(shell, history=store.place(HISTORY), intro=EXIT_HINT)
        return 0


def _one_guest(bundle: Bundle, named: str | None) -> BundleGuest:
    guests = {guest.directory.name: guest for guest in bundle.guests}
    if named is None and len(guests) == 1:
        return bundle.guests[0]
    if named not in guests:
        raise BadInput(
            f"{bundle.named} has {len(guests)} guests",
            Evidence(expected=f"--guest {' or '.join(guests)}", seen=named or "no --guest"),
        )
    return guests[named]


def _export(arguments: argparse.Namespace) -> int:
    from pytest_kernelvm.failures.bundle import open_bundle
    from pytest_kernelvm.failures.bundle_files import export_bundle

    with open_bundle(store_of(arguments), arguments.bundle) as bundle:
        export_bundle(bundle.directory, arguments.file)
    size_mib = arguments.file.stat().st_size / (1 << 20)
    _say(
        f"{arguments.file}: {size_mib:.1f} MiB; "
        f"on another machine: kernelvm replay {arguments.file.name}"
    )
    return 0


def _kept(arguments: argparse.Namespace) -> int:
    from pytest_kernelvm.failures.bundle import bundles, remove_bundle
    from pytest_kernelvm.failures.bundle_notes import shown_line

    store = store_of(arguments)
    if arguments.end is None:
        for bundle in bundles(store):
            what = "attach, replay" if any(guest.is_saved for guest in bundle.guests) else "replay"
            note = bundle.note
            test = shown_line(note.test)
            _say(f"{shown_line(bundle.name)}  {note.at}  {note.verdict}  {test}  ({what})")
        return 0
    names = arguments.end or [bundle.name for bundle in bundles(store)]
    for name in names:
        remove_bundle(store, name)
        _say(f"removed {shown_line(name)}")
    return 0
