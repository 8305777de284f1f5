"""The plugin in projects of their own: what is collected, selected, refused; nothing is built."""

from __future__ import annotations

from pathlib import Path

import pytest
from xdist.remote import Producer

from pytest_kernelvm.plugin.markers import (
    FEATURES_MARKER,
    SPLATS_MARKER,
    descriptions,
    guest_marker,
)
from pytest_kernelvm.plugin.scheduling import TOGETHER, CellScheduling

# What is imported in every run.
LIGHT = [
    "pytest_kernelvm",
    "pytest_kernelvm.plugin",
    *(
        f"pytest_kernelvm.plugin.{name}"
        for name in (
            "cells",
            "claims",
            "fixtures",
            "guest_check",
            "hooks",
            "markers",
            "options",
            "reporting",
            "short_fixtures",
            "stash",
        )
    ),
    "pytest_kernelvm.session",
    "pytest_kernelvm.session.fresh",
]
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


@pytest.mark.parametrize(
    "arguments",
    [
        ["--kernelvm-config=malta"],
        ["--kernelvm-configs=vm-configs"],
        ["--kernelvm-arch=mips"],
        ["--kernelvm-config=malta", "-n1"],
    ],
)
def test_a_mistake_in_a_vm_config_that_is_named_ends_the_run(
    arguments: list[str], pytester: pytest.Pytester, configs: Path
) -> None:
    pytester.makepyfile(TESTS)
    file = configs / "malta.yaml"
    file.write_text("arch: mips\nkernal: {version: 6.1}\n")
    result = pytester.runpytest_subprocess(*arguments)
    assert_usage_error(
        result, "ERROR: bad-input: *", f"*{file}:2:1*unknown key 'kernal'*did you mean 'kernel'*"
    )


@pytest.mark.parametrize(
    ("ini", "words"),
    [
        ("kernelvm_splats = ignore", "kernelvm_splats is one of fail, warn, off, not 'ignore'"),
        ("kernelvm_fresh = booted", "kernelvm_fresh is one of restore, boot, share, not 'booted'"),
        ("kernelvm_short_fixtures = maybe", "kernelvm_short_fixtures is true or false: *"),
    ],
)
def test_a_mistake_in_the_ini_file_ends_the_run(
    ini: str, words: str, pytester: pytest.Pytester
) -> None:
    pytester.makeini(f"[pytest]\n{ini}\n")
    pytester.makepyfile("def test_plain(): pass")
    assert_usage_error(pytester.runpytest_subprocess(), f"ERROR: {words}")


@with_configs
def test_an_unknown_arch_ends_the_run(pytester: pytest.Pytester) -> None:
    pytester.makepyfile(TESTS)
    result = pytester.runpytest_subprocess("--kernelvm-arch=mpis")
    assert_usage_error(result, "ERROR: bad-input: unknown arch 'mpis'")


MARKER = guest_marker()
MISUSES = [
    ("kernelvm('loop')", "the marker kernelvm: its arguments have names", MARKER),
    ("kernelvm(modules='loop')", "modules is a list of names, not the text 'loop'", MARKER),
    ("kernelvm(modules=(each for each in 'ab'))", "modules is read more than once", MARKER),
    ("kernelvm(closure=7)", "unexpected keyword argument 'closure'", MARKER),
    ("kernelvm_splats('WARNING')", "allow and reason have names", SPLATS_MARKER),
    ("kernelvm_splats(allow='WARNING')", "reason says why", SPLATS_MARKER),
    ("kernelvm_splats(reason='why')", "allow is a regular expression or several", SPLATS_MARKER),
    ("kernelvm_splats(allow='(', reason='why')", "not a regular expression: '('", SPLATS_MARKER),
    ("kernelvm_splats(allow=7, reason='why')", "not iterable", SPLATS_MARKER),
    ("kernelvm_splats(allow=iter('x'), reason='y')", "allow is read more than once", SPLATS_MARKER),
    ("kernelvm_splats(allowed='x', reason='y')", "keyword argument 'allowed'", SPLATS_MARKER),
    ("kernelvm_features()", "it names at least one feature", FEATURES_MARKER),
    ("kernelvm_features(7)", "a feature is named by a text, not 7", FEATURES_MARKER),
    ("kernelvm_features(['phram'])", "a feature is named by a text, not", FEATURES_MARKER),
    ("kernelvm_features(name='phram')", "unexpected keyword argument 'name'", FEATURES_MARKER),
]


@with_configs
@pytest.mark.parametrize(
    "arguments", [["-n2"], ["-n2", "--dist=worksteal"], [], ["--collect-only"]], ids=" ".join
)
def test_misuse_of_a_marker_fails_its_test_alone(
    arguments: list[str], pytester: pytest.Pytester, store: Path
) -> None:
    tests = [
        f"@pytest.mark.{marked}\ndef test_{number}({'vm' if number % 2 else ''}): pass\n"
        for number, (marked, _complaint, _usage) in enumerate(MISUSES)
    ]
    plain = "import pytest\ndef test_plain(): pass\ndef test_cell(cell): pass\n"
    pytester.makepyfile("".join([plain, *tests]))
    result = pytester.runpytest_subprocess("--kernelvm-config=malta-6.12", "-ra", *arguments)
    text = result.stdout.str()
    for _marked, complaint, usage in MISUSES:
        assert complaint in text
        assert usage in text
    assert "site-packages" not in text
    assert "Traceback" not in text
    assert len([line for line in result.outlines if line.startswith("ERROR ")]) == len(MISUSES)
    if arguments == ["--collect-only"]:
        assert result.ret == pytest.ExitCode.INTERRUPTED
    else:
        result.assert_outcomes(errors=len(MISUSES), passed=2)
    assert list(store.iterdir()) == []


@with_configs
def test_a_misused_marker_that_is_not_selected_is_no_error(pytester: pytest.Pytester) -> None:
    pytester.makepyfile(
        """
        import pytest

        @pytest.mark.kernelvm(modules="loop")
        def test_x(vm): pass

        def test_plain(): pass
        """
    )
    for chosen in (["-m", "not vm"], ["-k", "plain"], ["--collect-only", "-k", "plain"]):
        assert pytester.runpytest_inprocess(*chosen).ret == 0


@pytest.mark.parametrize("arguments", ["allow='x', reason='y'", "allow=['x', 'z'], reason='y'"])
def test_the_splats_marker_takes_one_pattern_or_several(
    arguments: str, pytester: pytest.Pytester
) -> None:
    pytester.makepyfile(
        f"import pytest\n@pytest.mark.kernelvm_splats({arguments})\ndef test_x():\n    pass\n"
    )
    pytester.runpytest_inprocess("--strict-markers").assert_outcomes(passed=1)


def test_an_unknown_value_of_the_splats_option_is_refused(pytester: pytest.Pytester) -> None:
    result = pytester.runpytest_subprocess("--kernelvm-splats=ignore")
    assert result.ret == pytest.ExitCode.USAGE_ERROR
    result.stderr.fnmatch_lines(["*--kernelvm-splats: invalid choice: 'ignore'*"])


def test_the_markers_are_documented(pytester: pytest.Pytester) -> None:
    result = pytester.runpytest_inprocess("--markers")
    assert {f"@pytest.mark.{marker}" for marker in descriptions(with_signature=True)} <= {
        *result.outlines
    }


# What a run says of itself


@with_configs
@pytest.mark.parametrize("workers", [0, 2])
def test_the_header_is_printed_once(workers: int, pytester: pytest.Pytester, store: Path) -> None:
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
def test_no_header_without_tests_of_cells(arguments: list[str], pytester: pytest.Pytester) -> None:
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
    assert result.errlines[-1] == "heavy: [] ours: " + str(LIGHT)


def test_a_project_without_vm_configs_is_left_alone(pytester: pytest.Pytester, store: Path) -> None:
    pytester.makepyfile(test_a="def test_a(): pass", test_b="def test_b(tmp_path): pass")
    result = pytester.runpytest_inprocess("-W", "error", "--strict-markers")
    result.assert_outcomes(passed=2)
    assert list(store.iterdir()) == []


# Reports


@with_configs
def test_a_failure_of_ours_is_shown_without_our_frames(pytester: pytest.Pytester) -> None:
    pytester.makepyfile(
        """
        from pathlib import Path

        from pytest_kernelvm.arch.registry import arch_named

        def test_x(cell):
            arch_named("mpis")  # the test's line

        def test_y(cell):
            assert cell.config.name == "malta", "words of the test"
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
