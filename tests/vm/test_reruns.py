"""Who answers for a boot that left a splat, where tests run again or allow it."""

import re
from pathlib import Path

import pytest

from pytest_kernelvm import Cell
from tests.vm.test_verdicts import BOOT_SPLAT, pytest_output

pytestmark = [pytest.mark.slow, pytest.mark.any_cell]

# A failed test runs once more, with new fixtures, as pytest-rerunfailures does it.
RERUN = """
import pytest
from _pytest.runner import runtestprotocol

@pytest.hookimpl(tryfirst=True)
def pytest_runtest_protocol(item, nextitem):
    for last in (False, True):
        item._initrequest()
        reports = runtestprotocol(item, nextitem=nextitem, log=False)
        if last or not any(report.failed for report in reports):
            for report in reports:
                item.ihook.pytest_runtest_logreport(report=report)
            return True
"""
ALLOWING = "@pytest.mark.kernelvm_splats(allow='WARNING', reason='known')\ndef test_first("


def test_a_repeated_test_fails_for_its_splats_again(cell: Cell, tmp_path: Path) -> None:
    (tmp_path / "conftest.py").write_text(RERUN)
    said = pytest_output(cell, tmp_path, BOOT_SPLAT)
    assert re.search(r"= 1 passed, 1 error in ", said), said
    assert "splat: " in said


def test_a_test_that_allows_a_splat_does_not_fail_for_others(cell: Cell, tmp_path: Path) -> None:
    assert "def test_first(" in BOOT_SPLAT
    said = pytest_output(cell, tmp_path, BOOT_SPLAT.replace("def test_first(", ALLOWING))
    assert re.search(r"= 1 passed, 1 error in ", said), said
    assert re.search(r"^ERROR .*test_second", said, re.MULTILINE), said


@pytest.mark.parametrize("passes", [True, False])
def test_the_verdict_is_that_of_the_last_attempt(cell: Cell, tmp_path: Path, passes: bool) -> None:
    (tmp_path / "conftest.py").write_text(RERUN)
    tests = f"""
attempts = []

def test_x(vm):
    attempts.append(vm)
    assert len(attempts) == 2 and {passes}
"""
    junit = tmp_path / "junit.xml"
    said = pytest_output(cell, tmp_path, tests, f"--junit-xml={junit}")
    assert ("= 1 passed in" in said) is passes, said
    assert ("= 1 failed in" in said) is not passes, said
    assert junit.read_text().count('name="kernelvm_verdict"') == (0 if passes else 1)
