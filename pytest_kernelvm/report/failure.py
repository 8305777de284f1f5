"""The report of a failed test with guests."""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from pytest_kernelvm.errors import BadInput, KernelvmError, Verdict
from pytest_kernelvm.failures.bundle_writer import BundleWriter, Failure
from pytest_kernelvm.vm.machine.vm import Vm

PACKAGE = Path(__file__).parent.parent


def verdict_on(error: BaseException) -> Verdict:
    """Return the verdict on a test that ended with an exception."""
    return error.verdict if isinstance(error, KernelvmError) else Verdict.TEST_FAILED


def describe_failure(
    report: pytest.TestReport,
    excinfo: pytest.ExceptionInfo[BaseException],
    guests: Sequence[Vm],
    bundle_writer: BundleWriter | None,
) -> None:
    """Add to a failed test's report what its guests show, and leave out this package's frames.

    The test's bundle is written for it.

    Args:
        report: The report, which is changed.
        excinfo: What the test ended with.
        guests: The test's guests.
        bundle_writer: Writes the test's bundle; None for a test that has none.
    """
    error = excinfo.value
    verdict = verdict_on(error)
    report.user_properties.append(("kernelvm_verdict", str(verdict)))
    if isinstance(error, KernelvmError):
        report.longrepr = _without_our_frames(excinfo, error)
    bundle_lines = (
        _bundle_lines(report.nodeid, error, guests, bundle_writer) if bundle_writer else {}
    )
    for guest in guests:
        log, qemu_log = guest.control.logs
        lines = [
            f"verdict:    {verdict}",
            f"console:    {log}",
            f"QEMU's log: {qemu_log}",
            f"boot it:    {guest.control.boot_command}",
            f"or bare:    {guest.control.quoted_argv}",
            *([f"packets:    {guest.network.capture}"] if guest.boot.network else []),
            *bundle_lines.get(guest, ()),
        ]
        # Errors with a verdict on the guest have the console in their message.
        if verdict is Verdict.TEST_FAILED:
            lines += ["", guest.console.tail()]
        report.sections.append((f"guest {guest.label}", "\n".join(lines)))


def _bundle_lines(
    test: str, error: BaseException, guests: Sequence[Vm], bundle_writer: BundleWriter
) -> dict[Vm, list[str]]:
    """Write the test's bundle; return for each guest the lines that say what to do with it."""
    words = str(error).strip() or type(error).__name__
    failure = Failure(test=test, verdict=str(verdict_on(error)), error=words)
    try:
        bundle = bundle_writer.write(failure, guests)
    except (OSError, BadInput) as error:
        return {guests[0]: [f"no bundle:  {error}"]} if guests else {}
    if bundle is None:
        return {}
    lines: dict[Vm, list[str]] = {guests[0]: [f"replay it:  {bundle_writer.command('replay')}"]}
    for vm, kept in zip(guests, bundle.guests, strict=True):
        if kept.is_saved:
            line = f"attach:     {bundle_writer.command('attach')}"
            if len(guests) > 1:
                line += f" --guest {kept.directory.name}"
            lines.setdefault(vm, []).append(line)
        elif bundle_writer.saves_states:
            lines.setdefault(vm, []).append(f"not saved:  {kept.note.why_not_saved}")
    return lines


def _without_our_frames(excinfo: pytest.ExceptionInfo[BaseException], error: KernelvmError) -> Any:
    frames = [
        entry
        for entry in excinfo.traceback
        if not Path(entry.path).is_relative_to(PACKAGE) and "_pytest" not in str(entry.path)
        # The context managers of this package are called through it.
        if str(entry.path) != contextlib.__file__
    ]
    tests = [entry for entry in frames if "pluggy" not in str(entry.path)]
    if tests:
        traceback = type(excinfo.traceback)(tests)
        representation = excinfo.getrepr(style="long", tbfilter=lambda _all: traceback)
    else:
        representation = excinfo.getrepr(style="value")
    if representation.reprcrash:
        # pytest prints one line for each failure in its summary, and does not cut it in CI.
        representation.reprcrash.message = f"{error.verdict}: {error.summary}"
    return representation
