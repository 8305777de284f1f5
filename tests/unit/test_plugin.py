"""The plugin in projects of their own: what is collected, selected, refused; nothing is built."""

from __future__ import annotations

from pathlib import Path

import pytest
from xdist.remote import Producer

from pytest_kernelvm.plugin import MARKER, SPLATS_MARKER
from pytest_kernelvm.scheduling import TOGETHER, CellScheduling

MALTA = 'arch: mips\nkernel: {version: ["6.1", "6.12"]}\n'
AARCH64 = 'arch: aarch64\nkernel: {version: "6.12"}\n'
TESTS = """
def test_x(vm):
    raise AssertionError("nothing must run here")

def test_y(kernel):
    raise AssertionError("nothing must run here")

def test_plain():
    pass
"""
# A project may override the fixture; the cell itself is then all that its tests get.
BARE_CELL = """
import pytest

@pytest.fixture(scope="session")
def cell(request):
    return request.param
"""


with_configs = pytest.mark.usefixtures("configs")
pytestmark = pytest.mark.usefixtures("store")


@pytest.fixture
def store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty directory that is the store."""
    directory = tmp_path / "store"
    directory.mkdir()
    monkeypatch.setenv("KERNELVM_STORE", str(directory))
    # Hypothesis is imported whole by its plugin's summary, which costs a second a run.
    monkeypatch.setenv("PYTEST_ADDOPTS", "-p no:hypothesispytest")
    return directory


@pytest.fixture
def configs(pytester: pytest.Pytester) -> Path:
    """The vm-configs of a project, with two machines."""
    directory = pytester.mkdir("vm-configs")
    (directory / "malta.yaml").write_text(MALTA)
    (directory / "aarch64.yaml").write_text(AARCH64)
    return directory


def ids(result: pytest.RunResult) -> list[str]:
    """Return the tests that `--collect-only -q` lists."""
    return [line.partition("::")[2] for line in result.outlines if "::" in line]


def assert_usage_error(result: pytest.RunResult, *lines: str) -> None:
    """Check that a run ended at once with these lines, and without a traceback."""
    assert result.ret == pytest.ExitCode.USAGE_ERROR
    result.stderr.fnmatch_lines([line.replace("[", "[[]") for line in lines])
    result.stderr.no_fnmatch_line("*Traceback*")
    both = result.outlines + result.errlines
    assert not [line for line in both if "site-packages" in line or "INTERNALERROR" in line]
    assert len(result.errlines) < 12


# Cells


@with_configs
def test_each_cell_is_a_test_and_nothing_is_built(pytester: pytest.Pytester, store: Path) -> None:
    pytester.makepyfile(TESTS)
    result = pytester.runpytest_subprocess("--collect-only", "-q")
    assert result.ret == 0
    assert ids(result) == [
        *("test_x[aarch64-6.12]", "test_y[aarch64-6.12]"),
        *("test_x[malta-6.1]", "test_y[malta-6.1]"),
        *("test_x[malta-6.12]", "test_y[malta-6.12]"),
        "test_plain",
    ]
    assert list(store.iterdir()) == []


@with_configs
@pytest.mark.parametrize(
    ("arguments", "cells"),
    [
        (["--kernelvm-config=malta"], ["malta-6.1", "malta-6.12"]),
        (["--kernelvm-config=malta-6.12"], ["malta-6.12"]),
        (
            ["--kernelvm-config=malta-6.1", "--kernelvm-config=aarch64"],
            ["aarch64-6.12", "malta-6.1"],
        ),
        (["--kernelvm-config=vm-configs/aarch64.yaml"], ["aarch64-6.12"]),
        (["--kernelvm-arch=aarch64"], ["aarch64-6.12"]),
        (["--kernelvm-arch=mips", "--kernelvm-config=malta-6.1"], ["malta-6.1"]),
        (["-m", "vm"], ["aarch64-6.12", "malta-6.1", "malta-6.12"]),
        (["-m", "not vm"], []),
    ],
)
def test_selection(
    arguments: list[str], cells: list[str], pytester: pytest.Pytester, store: Path
) -> None:
    pytester.makepyfile(TESTS)
    result = pytester.runpytest_inprocess("--collect-only", "-q", *arguments)
    plain = [] if arguments == ["-m", "vm"] else ["test_plain"]
    assert result.ret == 0
    assert sorted(ids(result)) == sorted(
        [*plain, *(f"test_{name}[{cell}]" for name in "xy" for cell in cells)]
    )
    assert list(store.iterdir()) == []


@with_configs
def test_tests_that_boot_nothing_run_without_a_kernel(
    pytester: pytest.Pytester, store: Path
) -> None:
    pytester.makepyfile(TESTS)
    result = pytester.runpytest_inprocess("-m", "not vm", "--strict-markers")
    result.assert_outcomes(passed=1, deselected=6)
    assert list(store.iterdir()) == []


@pytest.mark.parametrize("by_option", [True, False])
def test_the_directory_of_vm_configs_is_chosen(
    by_option: bool, pytester: pytest.Pytester, configs: Path
) -> None:
    pytester.makepyfile(TESTS)
    configs.rename(pytester.path / "machines")
    if not by_option:
        pytester.makeini("[pytest]\nkernelvm_configs = machines\n")
    arguments = ["--kernelvm-configs=machines"] if by_option else []
    result = pytester.runpytest_inprocess("--collect-only", "-q", "-k", "test_x", *arguments)
    assert ids(result) == ["test_x[aarch64-6.12]", "test_x[malta-6.1]", "test_x[malta-6.12]"]


# What is refused


@with_configs
def test_an_unknown_config_is_a_usage_error(pytester: pytest.Pytester, store: Path) -> None:
    pytester.makepyfile(TESTS)
    result = pytester.runpytest_subprocess("--kernelvm-config=matla")
    assert_usage_error(
        result,
        "ERROR: bad-input: no vm-config or cell is called 'matla'",
        "*expected: one of aarch64, malta, aarch64-6.12, malta-6.1, malta-6.12",
        "*next: did you mean 'malta'?",
    )
    assert list(store.iterdir()) == []


def test_a_mistake_in_yaml_is_a_usage_error_with_its_place(
    pytester: pytest.Pytester, configs: Path
) -> None:
    pytester.makepyfile(TESTS)
    file = configs / "malta.yaml"
    file.write_text("arch: mips\nkernal: {version: 6.1}\n")
    result = pytester.runpytest_subprocess()
    assert_usage_error(
        result, "ERROR: bad-input: *", f"*{file}:2:1*unknown key 'kernal'*did you mean 'kernel'*"
    )


def test_tests_of_guests_without_vm_configs(pytester: pytest.Pytester) -> None:
    pytester.makepyfile(TESTS)
    result = pytester.runpytest_inprocess()
    assert_usage_error(
        result, f"ERROR: bad-input: no vm-configs in {pytester.path}/vm-configs", "*next: *"
    )


def assert_found_at_collection(
    pytester: pytest.Pytester, marked: str, complaint: str, usage: str
) -> None:
    """Assert that a marker with its arguments is complained of, and how it is used is said."""
    pytester.makepyfile(f"import pytest\n@pytest.mark.{marked}\ndef test_x(vm):\n    pass\n")
    result = pytester.runpytest_inprocess("--collect-only")
    assert_usage_error(result, f"ERROR: *::test_x[aarch64-6.12]: *{complaint}*")
    assert usage in result.stderr.str()


@with_configs
@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        ("'loop'", "the marker is"),
        ("moduls=['loop']", "unexpected keyword argument 'moduls'"),
        ("modules='loop'", "modules is a list of names, not the text 'loop'"),
        ("blacklist='loop'", "blacklist is a list of names, not the text 'loop'"),
        ("modules=[1]", "not names of modules: (1,)"),
        ("modules=1", "not iterable"),
    ],
)
def test_misuse_of_the_marker_is_found_at_collection(
    arguments: str, complaint: str, pytester: pytest.Pytester, store: Path
) -> None:
    assert_found_at_collection(pytester, f"kernelvm({arguments})", complaint, MARKER)
    assert list(store.iterdir()) == []


@with_configs
@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        ("'WARNING'", "allow and reason have names"),
        ("allow='WARNING'", "reason says why"),
        ("reason='why'", "allow is a regular expression or several, not ()"),
        ("allow='(', reason='why'", "not a regular expression: '('"),
        ("allow=7, reason='why'", "not iterable"),
        ("allowed='x', reason='why'", "unexpected keyword argument 'allowed'"),
    ],
)
def test_misuse_of_the_marker_for_splats_is_found_at_collection(
    arguments: str, complaint: str, pytester: pytest.Pytester, store: Path
) -> None:
    assert_found_at_collection(pytester, f"kernelvm_splats({arguments})", complaint, SPLATS_MARKER)
    assert list(store.iterdir()) == []


@pytest.mark.parametrize("arguments", ["allow='x', reason='y'", "allow=['x', 'z'], reason='y'"])
def test_good_use_of_the_marker_for_splats(arguments: str, pytester: pytest.Pytester) -> None:
    pytester.makepyfile(
        f"import pytest\n@pytest.mark.kernelvm_splats({arguments})\ndef test_x():\n    pass\n"
    )
    pytester.runpytest_inprocess("--strict-markers").assert_outcomes(passed=1)


def test_how_splats_count_is_one_of_three(pytester: pytest.Pytester) -> None:
    result = pytester.runpytest_subprocess("--kernelvm-splats=ignore")
    assert result.ret == pytest.ExitCode.USAGE_ERROR
    result.stderr.fnmatch_lines(["*--kernelvm-splats: invalid choice: 'ignore'*"])


def test_the_markers_are_documented(pytester: pytest.Pytester) -> None:
    result = pytester.runpytest_inprocess("--markers")
    assert f"@pytest.mark.{SPLATS_MARKER}" in result.outlines
    assert f"@pytest.mark.{MARKER}" in result.outlines
    assert [line for line in result.outlines if line.startswith("@pytest.mark.vm: ")]


# What a run says of itself


@with_configs
@pytest.mark.parametrize("workers", [0, 2])
def test_cells_are_told_once(workers: int, pytester: pytest.Pytester, store: Path) -> None:
    pytester.makeconftest(BARE_CELL)
    pytester.makepyfile("def test_x(cell): pass")
    result = pytester.runpytest_subprocess(f"-n{workers}", "--kernelvm-config=malta")
    result.assert_outcomes(passed=2)
    told = [line for line in result.outlines if line.startswith("kernelvm: ")]
    assert told[0] == "kernelvm: malta-6.1, malta-6.12"
    assert told[1].startswith("kernelvm: QEMU ")
    assert told[2:] == [f"kernelvm: store {store}"]
    assert [line for line in result.outlines if line.startswith("slowest: ")] == [
        line for line in result.outlines if " in 1 test" in line
    ]
    assert list(store.iterdir()) == []


@with_configs
@pytest.mark.parametrize("arguments", [["-m", "not vm"], ["-q"]])
def test_of_cells_that_are_not_tested_nothing_is_told(
    arguments: list[str], pytester: pytest.Pytester
) -> None:
    pytester.makeconftest(BARE_CELL)
    pytester.makepyfile("def test_x(cell): pass\ndef test_plain(): pass")
    result = pytester.runpytest_inprocess(*arguments)
    result.stdout.no_fnmatch_line("kernelvm: *")
    result.stdout.no_fnmatch_line("*slowest*")


# Runs without guests


@with_configs
def test_without_guests_nothing_heavy_is_imported(pytester: pytest.Pytester) -> None:
    pytester.makepyfile("def test_plain(): pass")
    pytester.makeconftest(
        """
        import sys

        def pytest_unconfigure():
            heavy = {"yaml", "pexpect", "qemu.qmp", "qemu", "asyncio"} & set(sys.modules)
            ours = [name for name in sys.modules if name.startswith("pytest_kernelvm")]
            print(f"heavy: {sorted(heavy)} ours: {sorted(ours)}", file=sys.stderr)
        """
    )
    result = pytester.runpytest_subprocess()
    result.assert_outcomes(passed=1)
    assert result.errlines[-1] == ("heavy: [] ours: ['pytest_kernelvm', 'pytest_kernelvm.plugin']")


def test_a_project_without_vm_configs_is_left_alone(pytester: pytest.Pytester, store: Path) -> None:
    pytester.makepyfile(test_a="def test_a(): pass", test_b="def test_b(tmp_path): pass")
    result = pytester.runpytest_inprocess("-W", "error", "--strict-markers")
    result.assert_outcomes(passed=2)
    assert list(store.iterdir()) == []


# Reports


@with_configs
def test_a_failure_of_ours_is_shown_without_our_frames(pytester: pytest.Pytester) -> None:
    pytester.makeconftest(BARE_CELL)
    pytester.makepyfile(
        """
        from pathlib import Path

        from pytest_kernelvm.arch import arch_named

        def test_x(cell):
            arch_named("mpis")  # the test's line

        def test_y(cell):
            assert cell.name == "malta", "words of the test"
        """
    )
    result = pytester.runpytest_inprocess("--kernelvm-config=aarch64", "--junit-xml=junit.xml")
    result.assert_outcomes(failed=2)
    result.stdout.fnmatch_lines(
        ["*the test's line", "*BadInput: bad-input: unknown arch 'mpis'", "*did you mean 'mips'?"]
    )
    result.stdout.no_fnmatch_line("*raise BadInput*")
    result.stdout.fnmatch_lines(["*AssertionError: words of the test*"])
    junit = (pytester.path / "junit.xml").read_text()
    assert 'name="kernelvm_verdict" value="bad-input"' in junit
    assert 'name="kernelvm_verdict" value="test-failed"' in junit


# xdist


@pytest.fixture
def scheduling(pytester: pytest.Pytester) -> CellScheduling:
    config = pytester.parseconfig("--tx=popen")
    cells = ["malta-6.1", "malta-6.12", "aarch64-6.12"]
    return CellScheduling(config, Producer("test", enabled=False), cells)


@pytest.mark.parametrize(
    ("test", "scope"),
    [
        ("test_x[malta-6.1]", "malta-6.1"),
        ("test_x[malta-6.12]", "malta-6.12"),
        ("TestX::test_x[aarch64-6.12]", "aarch64-6.12"),
        ("test_x[malta-6.12-other]", "malta-6.12"),
        ("test_x[other-malta-6.12]", "malta-6.12"),
        ("test_x[other-malta-6.1-other]", "malta-6.1"),
        ("test_plain", "tests/test_a.py"),
        ("test_x[other]", "tests/test_a.py"),
        ("test_x[malta]", "tests/test_a.py"),
        ("test_x[malta-6x1]", "tests/test_a.py"),
        ("test_x[malta-6.123]", "tests/test_a.py"),
        ("test_x[amalta-6.1]", "tests/test_a.py"),
    ],
)
def test_scopes(test: str, scope: str, scheduling: CellScheduling) -> None:
    nodeid = f"tests/test_a.py::{test}"
    scheduling._cut([nodeid])
    assert scheduling._split_scope(nodeid).removesuffix(" 0") == scope


def test_a_cell_is_cut_into_pieces_of_neighbours(scheduling: CellScheduling) -> None:
    nodeids = [f"a.py::test_x[malta-6.12-{number}]" for number in range(TOGETHER + 1)]
    scheduling._cut(nodeids)
    scopes = [scheduling._split_scope(nodeid) for nodeid in nodeids]
    assert scopes == ["malta-6.12 0"] * TOGETHER + ["malta-6.12 1"]


@with_configs
def test_workers_share_a_cell_and_keep_neighbours(pytester: pytest.Pytester, store: Path) -> None:
    pytester.makeconftest(BARE_CELL)
    pytester.makepyfile(
        """
        import pytest

        @pytest.mark.parametrize("number", range(6))
        def test_x(cell, number, worker_id):
            with open("workers", "a") as file:
                file.write(f"{worker_id} {number}\\n")
        """
    )
    result = pytester.runpytest_subprocess("-n2", "--kernelvm-config=malta-6.12")
    result.assert_outcomes(passed=6)
    ran = [tuple(line.split()) for line in (pytester.path / "workers").read_text().splitlines()]
    found = {worker: [number for who, number in ran if who == worker] for worker, _ in ran}
    assert sorted(found.values()) == [["0", "1", "2"], ["3", "4", "5"]]
    assert list(store.iterdir()) == []


@with_configs
def test_an_unknown_config_is_a_usage_error_with_xdist_too(pytester: pytest.Pytester) -> None:
    pytester.makepyfile(TESTS)
    result = pytester.runpytest_subprocess("-n1", "--kernelvm-config=matla")
    assert_usage_error(result, "ERROR: bad-input: no vm-config or cell is called 'matla'")


def test_a_feature_that_no_patch_brings_skips_the_test(pytester: pytest.Pytester) -> None:
    """Before anything is built: the vm-config's patches say it."""
    pytester.mkdir("vm-configs")
    configs = pytester.path / "vm-configs"
    (configs / "p.patch").write_text("")
    (configs / "m.yaml").write_text(
        "arch: mips\nkernel:\n  version: ['0.98', '0.99']\n"
        "  patches: [{file: p.patch, versions: '<0.99', features: [phram]}]\n"
    )
    pytester.makepyfile(
        """
        import pytest

        @pytest.mark.kernelvm_features("phram", "other")
        def test_two(cell): ...

        @pytest.mark.kernelvm_features("phram")
        def test_one(cell):
            assert cell.config.kernel.features == ("phram",)
        """
    )
    result = pytester.runpytest_subprocess("-rs")
    result.assert_outcomes(passed=1, skipped=3)
    result.stdout.fnmatch_lines(["*no patch of m-0.99 brings phram"])
