"""Other people's projects, where fixtures and parameters have our short names and are not ours."""

from __future__ import annotations

from pathlib import Path

import pytest

from pytest_kernelvm.plugin.short_fixtures import NAMES

MACHINES = {
    "malta.yaml": 'arch: mips\nkernel: {version: ["6.1", "6.12"]}\n',
    "aarch64.yaml": 'arch: aarch64\nkernel: {version: "6.12"}\n',
}
CELLS = ("aarch64-6.12", "malta-6.1", "malta-6.12")

# What is theirs: file and text. All of it passes, wherever it runs.
THEIRS = {
    "test_values": "\n".join(
        f"@pytest.mark.parametrize('{name}', [1, 2])\ndef test_{name}({name}): assert {name} < 3\n"
        for name in NAMES
    ),
    "test_fixtures": "\n".join(
        f"@pytest.fixture\ndef {name}(): return '{name}'\n"
        f"def test_{name}({name}): assert {name} == '{name}'\n"
        for name in NAMES
    ),
    "test_pairs": """
@pytest.mark.parametrize("cell, vm", [(1, 2)])
def test_words(cell, vm): assert (cell, vm) == (1, 2)

@pytest.mark.parametrize(("vm", "kernel"), [(1, 2)])
class TestX:
    def test_names(self, vm, kernel): assert (vm, kernel) == (1, 2)
""",
    "test_indirect": """
@pytest.fixture
def cell(request): return request.param * 2

@pytest.mark.parametrize("cell", [1, 2], indirect=True)
def test_indirect(cell): assert cell in (2, 4)
""",
    "test_params": """
@pytest.fixture(scope="module", params=["one", "other"])
def kernel(request): return request.param

@pytest.fixture
def vm(kernel): return kernel

def test_params(vm): assert vm in ("one", "other")
""",
    "test_class": """
class TestCells:
    @pytest.fixture
    def cell(self): return "mine"

    def test_method(self, cell): assert cell == "mine"

class Testvm:
    def test_named_so(self): pass
""",
    "test_autouse": """
@pytest.fixture(autouse=True)
def closure(): yield "always"

def test_without(): pass
def test_with(closure): assert closure == "always"
""",
    "test_renamed": """
@pytest.fixture(name="vm")
def machine_of_mine(): return "mine"

@pytest.mark.usefixtures("vm")
def test_used(request): assert request.getfixturevalue("vm") == "mine"
""",
    "test_unittest": """
import unittest

class TestCase(unittest.TestCase):
    @pytest.fixture(autouse=True)
    def cell(self): self.found = "mine"

    def test_case(self): assert self.found == "mine"
""",
    "test_of_conftest": "def test_it(initramfs): assert initramfs == 'of the conftest'\n",
    "test_of_plugin": "def test_it(vms): assert vms == 'of a plugin'\n",
    "test_of_later_plugin": "def test_it(boot_vm): assert boot_vm == 'of a later plugin'\n",
    "test_markers": """
@pytest.mark.vm
@pytest.mark.xfail(raises=AssertionError)
def test_of_their_machine(): assert False

@pytest.mark.vm
@pytest.mark.parametrize("cell", ["malta-6.12"])
def test_marked(cell): assert isinstance(cell, str)
""",
}
# A plugin that is named with -p is registered before ours, one of a conftest after it.
CONFTEST = """
import pytest

pytest_plugins = ["later_plugin"]

@pytest.fixture
def initramfs(): return "of the conftest"
"""
PLUGINS = {
    "other_plugin": ("vms", "of a plugin"),
    "later_plugin": ("boot_vm", "of a later plugin"),
}


@pytest.fixture(autouse=True)
def store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty directory that is the store."""
    directory = tmp_path / "store"
    directory.mkdir()
    monkeypatch.setenv("KERNELVM_STORE", str(directory))
    monkeypatch.setenv("PYTEST_ADDOPTS", "-p no:hypothesispytest")
    return directory


def add_machines(pytester: pytest.Pytester) -> None:
    """Give a project its vm-configs."""
    directory = pytester.mkdir("vm-configs")
    for name, text in MACHINES.items():
        (directory / name).write_text(text)


def passed(result: pytest.RunResult) -> list[str]:
    """Return the tests that a run with -rA tells as passed."""
    return sorted(line.split(" ", 1)[1] for line in result.outlines if line.startswith("PASSED "))


@pytest.mark.parametrize("configured", [False, True])
@pytest.mark.parametrize("options", [[], ["-n2"], ["--kernelvm-config=malta"]], ids=" ".join)
def test_tests_of_others_are_left_alone(
    configured: bool, options: list[str], pytester: pytest.Pytester
) -> None:
    if configured:
        add_machines(pytester)
    pytester.makeconftest(CONFTEST)
    for name, (fixture, words) in PLUGINS.items():
        (pytester.path / f"{name}.py").write_text(
            f"import pytest\n@pytest.fixture\ndef {fixture}(): return '{words}'\n"
        )
    for name, text in THEIRS.items():
        (pytester.path / f"{name}.py").write_text(f"import pytest\n{text}")
    result = pytester.runpytest_subprocess(
        "-rA", "-p", "other_plugin", "-W", "error", "--strict-markers", *options
    )
    alone = pytester.runpytest_subprocess(
        "-rA", "-p", "other_plugin", "-p", "no:kernelvm", "-m", "not vm or vm"
    )
    assert result.ret == 0, result.stdout.str()
    assert passed(result) == passed(alone)
    assert len(passed(result)) > 40
    if options != ["-n2"]:
        # Where the workers collect, no more than their tests' ids is known.
        result.stdout.no_fnmatch_line("kernelvm: *")


# What is ours, though somebody's fixture stands before it: file, text, tests of each cell.
OURS = {
    "test_long": """
@pytest.mark.parametrize("cell", ["mine"])
def test_both(cell, kernelvm_cell): assert cell == "mine" and kernelvm_cell.config
""",
    "test_overriding": """
@pytest.fixture
def kernel(kernel): return kernel

@pytest.fixture(scope="session")
def cell(cell): return [cell]

def test_module(cell): assert cell[0].config

class TestX:
    @pytest.fixture
    def cell(self, cell): return cell[0]

    def test_class(self, cell): assert cell.config
""",
    "test_through": """
@pytest.fixture
def machine(kernelvm_cell): return kernelvm_cell

@pytest.fixture
def vm(machine): return machine

def test_needed(vm): assert vm.config

@pytest.mark.usefixtures("machine")
def test_used(): pass
""",
    "test_autouse": """
@pytest.fixture(autouse=True)
def always(cell): return cell

def test_always(): pass
""",
    "test_mixed": """
@pytest.fixture
def kernel(): return "mine"

def test_kernel_is_mine(kernel, cell): assert kernel == "mine" and cell.config
""",
    "test_unittest": """
import unittest

class TestCase(unittest.TestCase):
    def test_not_ours(self): pass
""",
}
EACH_CELL = (
    *("test_both", "test_module", "test_class", "test_needed", "test_used", "test_always"),
    "test_kernel_is_mine",
)


def test_tests_of_the_plugin_are_distinguished_from_others(pytester: pytest.Pytester) -> None:
    add_machines(pytester)
    for name, text in OURS.items():
        (pytester.path / f"{name}.py").write_text(f"import pytest\n{text}")
    result = pytester.runpytest_subprocess("-rA", "-m", "vm")
    assert result.ret == 0, result.stdout.str()
    ids = [each.rpartition("::")[2] for each in passed(result)]
    assert sorted(each.partition("[")[0] for each in ids) == sorted([*EACH_CELL] * len(CELLS))
    result.assert_outcomes(passed=len(EACH_CELL) * len(CELLS), deselected=1)


def test_the_nearest_fixture_of_a_short_name_is_taken(pytester: pytest.Pytester) -> None:
    """A plugin's goes before ours, a conftest's before that, and each may ask for the next."""
    add_machines(pytester)
    (pytester.path / "other_plugin.py").write_text(
        "import pytest\n@pytest.fixture\ndef cell(cell): return ('plugin', cell)\n"
    )
    pytester.makeconftest(
        "import pytest\n@pytest.fixture\ndef cell(cell): return ('conftest', cell)"
    )
    pytester.makepyfile(
        """
        def test_x(cell, kernelvm_cell):
            assert cell == ("conftest", ("plugin", kernelvm_cell))
        """
    )
    result = pytester.runpytest_subprocess("--kernelvm-config=malta", "-p", "other_plugin")
    result.assert_outcomes(passed=2)


def test_short_names_can_be_switched_off(pytester: pytest.Pytester) -> None:
    add_machines(pytester)
    pytester.makeini("[pytest]\nkernelvm_short_fixtures = false\n")
    pytester.makepyfile(
        "".join(f"def test_{name}({name}): pass\n" for name in NAMES)
        + "def test_long(kernelvm_cell): pass\n"
    )
    result = pytester.runpytest_subprocess("--kernelvm-config=malta-6.12")
    result.assert_outcomes(passed=1, errors=len(NAMES))
    for name in NAMES:
        result.stdout.fnmatch_lines([f"*fixture '{name}' not found"])
    listed = pytester.runpytest_subprocess("--fixtures")
    assert not {line.partition(" ")[0] for line in listed.outlines} & {*NAMES}


def test_all_fixtures_have_both_names(pytester: pytest.Pytester) -> None:
    result = pytester.runpytest_subprocess("--fixtures")
    listed = {line.split(" ")[0] for line in result.outlines}
    assert listed >= {*NAMES, *(f"kernelvm_{name}" for name in NAMES)}


@pytest.mark.parametrize("options", [[], ["-n2"]], ids=" ".join)
def test_without_vm_configs_only_tests_of_guests_fail(
    options: list[str], pytester: pytest.Pytester
) -> None:
    pytester.makepyfile(
        """
        def test_one(vm): pass
        def test_plain(): pass
        def test_kernel_of_it(kernelvm_kernel): pass
        def test_another(): pass
        """
    )
    result = pytester.runpytest_subprocess("-rp", *options)
    assert result.ret == pytest.ExitCode.TESTS_FAILED
    result.assert_outcomes(errors=2, passed=2)
    text = result.stdout.str()
    assert text.count(f"bad-input: no vm-configs in {pytester.path}/vm-configs, and ") == 2
    assert text.count("each a vm-config, which says what kernel is built") == 2
    assert text.count("next: write one") == 2
    assert "site-packages" not in text


def test_without_vm_configs_collection_says_so_once(pytester: pytest.Pytester) -> None:
    pytester.makepyfile("def test_one(vm): pass\ndef test_two(cell): pass\ndef test_plain(): pass")
    result = pytester.runpytest_subprocess("--collect-only")
    assert result.ret == pytest.ExitCode.INTERRUPTED
    # Where CI is set, pytest's summary at the end has each message whole, once more.
    errors, _, _ = result.stdout.str().partition("short test summary info")
    assert errors.count("bad-input: no vm-configs") == 1
    result.stdout.fnmatch_lines(["*and so for 1 more tests"])
    assert pytester.runpytest_subprocess("--collect-only", "-m", "not vm").ret == 0


@pytest.mark.parametrize("options", [[], ["-n2"]], ids=" ".join)
def test_a_mistake_in_a_vm_config_fails_tests_of_guests(
    options: list[str], pytester: pytest.Pytester
) -> None:
    add_machines(pytester)
    file = pytester.path / "vm-configs" / "malta.yaml"
    file.write_text("arch: mips\nkernal: {version: 6.1}\n")
    pytester.makepyfile("def test_one(vm): pass\ndef test_plain(): pass")
    result = pytester.runpytest_subprocess(*options)
    result.assert_outcomes(errors=1, passed=1)
    result.stdout.fnmatch_lines([f"*{file}:2:1*unknown key 'kernal'*did you mean 'kernel'*"])


def test_a_fixture_asked_for_while_the_test_runs(pytester: pytest.Pytester) -> None:
    add_machines(pytester)
    pytester.makepyfile("def test_x(request): request.getfixturevalue('vm')\ndef test_y(): pass")
    result = pytester.runpytest_subprocess("-rA")
    result.assert_outcomes(failed=1, passed=1)
    result.stdout.fnmatch_lines(
        ["*bad-input: a test requests a fixture of a kernel while it runs", "*next: *"]
    )


@pytest.mark.parametrize("names", ["kernelvm_cell", "cell"])
def test_cells_that_a_test_chooses_itself(names: str, pytester: pytest.Pytester) -> None:
    add_machines(pytester)
    pytester.makepyfile(
        f"import pytest\n@pytest.mark.parametrize({names!r}, ['mine'])\n"
        f"def test_x({names}): assert {names} == 'mine'\n"
    )
    pytester.runpytest_subprocess().assert_outcomes(passed=1)


def test_our_warnings_have_a_class_of_their_own(pytester: pytest.Pytester) -> None:
    pytester.makeini(
        "[pytest]\nfilterwarnings =\n    error\n    ignore::pytest_kernelvm.KernelvmWarning\n"
    )
    pytester.makepyfile(
        """
        import warnings
        import pytest
        from pytest_kernelvm import KernelvmWarning

        def test_ours(request):
            warnings.warn(KernelvmWarning("ours"))
            request.node.warn(KernelvmWarning("ours"))

        def test_theirs():
            with pytest.raises(UserWarning): warnings.warn("theirs")
        """
    )
    result = pytester.runpytest_subprocess()
    result.assert_outcomes(passed=2, warnings=0)
