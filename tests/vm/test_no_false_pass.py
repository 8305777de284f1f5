"""A guest that misbehaves fails its test, however little is seen of it; no other guest does.

The tests of tests/vm/inner are run by a pytest of their own.
"""

from __future__ import annotations

import xml.etree.ElementTree as ET
from pathlib import Path

import pytest

from pytest_kernelvm import Cell
from pytest_kernelvm.process import spawn
from pytest_kernelvm.vm.machine.start import boot_guest
from tests.vm.project import pytest_argv

pytestmark = [pytest.mark.slow, pytest.mark.spread("no-false-pass")]

INNER = Path(__file__).parent / "inner"
TIMEOUT_S = 1200.0


def outcomes(cell: Cell, directory: Path, name: str) -> dict[str, tuple[str, str]]:
    """Run a file of tests; return by test what JUnit calls its outcome, and its words."""
    tests, junit, output = directory / f"test_{name}.py", directory / "junit.xml", directory / "out"
    tests.write_text((INNER / f"{name}.py").read_text())
    repository = INNER.parent.parent.parent
    argv = pytest_argv(cell, directory, "-c", "/dev/null", f"--rootdir={directory}", "-q")
    argv += ["-o", f"pythonpath={repository}", f"--junit-xml={junit}", str(tests)]
    with spawn(argv, output=output) as child:
        assert child.wait(TIMEOUT_S) is not None, output.read_text()
    found: dict[str, tuple[str, str]] = {}
    for case in ET.parse(junit).iter("testcase"):
        for result in case:
            if result.tag in ("failure", "error", "skipped"):
                found[case.attrib["name"]] = result.tag, result.attrib.get("message", "")
        found.setdefault(case.attrib["name"], ("passed", ""))
    assert found, output.read_text()
    return found


def test_no_provocation_passes(cell: Cell, tmp_path: Path) -> None:
    found = outcomes(cell, tmp_path, "provocations")
    missed = [name for name, (outcome, _) in found.items() if outcome not in ("failure", "error")]
    assert missed == []
    assert len(found) >= 60
    unclear = {
        name: words
        for name, (_, words) in found.items()
        if not any(f"{verdict}: " in words for verdict in ("splat", "panic", "hang", "guest-died"))
    }
    assert unclear == {}


def test_no_clean_use_fails(cell: Cell, tmp_path: Path) -> None:
    found = outcomes(cell, tmp_path, "clean_uses")
    assert {
        name: words for name, (outcome, words) in found.items() if outcome in ("failure", "error")
    } == {}
    assert [name for name, (outcome, _) in found.items() if outcome == "skipped"] == [
        f"test_skipped[{cell.config.id}]"
    ]


def test_a_tests_end_is_one_round_trip(cell: Cell, tmp_path: Path) -> None:
    """With a boot's log to be read before; nothing is asked twice of a guest that nobody used."""
    with boot_guest(cell.bootable(), tmp_path) as vm:
        vm.control.answer_for()
        assert "Linux version" in vm.dmesg
        vm.ping()
        for requests in (1, 0):
            before = vm.control.channel.last_id
            assert vm.control.conclude("the test", ask=True) is None
            assert vm.control.channel.last_id - before == requests
