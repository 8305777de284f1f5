"""A failed test with guests, as pytest shows it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from pytest_kernelvm.errors import KernelvmError, Verdict
from pytest_kernelvm.vm.vm import Vm

PACKAGE = Path(__file__).parent.parent


def describe_failure(
    report: pytest.TestReport, excinfo: pytest.ExceptionInfo[BaseException], guests: list[Vm]
) -> None:
    """Add to a failed test's report what its guests show, and leave out our own frames."""
    error = excinfo.value
    verdict = error.verdict if isinstance(error, KernelvmError) else Verdict.TEST_FAILED
    report.user_properties.append(("kernelvm_verdict", str(verdict)))
    if isinstance(error, KernelvmError):
        report.longrepr = _without_our_frames(excinfo, error)
    for guest in guests:
        log, qemu_log = guest.logs
        lines = [
            f"verdict:    {verdict}",
            f"console:    {log}",
            f"QEMU's log: {qemu_log}",
            f"boot it:    {guest.by_hand}",
            f"or bare:    {guest.argv_by_hand}",
        ]
        # The guest's own ends bring the console along.
        if verdict is Verdict.TEST_FAILED:
            lines += ["", guest.console.tail()]
        report.sections.append((f"guest {guest.label}", "\n".join(lines)))


def _without_our_frames(excinfo: pytest.ExceptionInfo[BaseException], error: KernelvmError) -> Any:
    frames = [
        entry
        for entry in excinfo.traceback
        if not Path(entry.path).is_relative_to(PACKAGE) and "_pytest" not in str(entry.path)
    ]
    tests = [entry for entry in frames if "pluggy" not in str(entry.path)]
    if not tests:
        return str(error)
    kept = type(excinfo.traceback)(tests)
    return excinfo.getrepr(style="long", tbfilter=lambda _found: kept)
