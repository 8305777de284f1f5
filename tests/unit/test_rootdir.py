"""Rootdir and ini file are where they were, however an option's value is written."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from pytest_kernelvm.plugin.options import VALUED

# By the option, a value that is a directory or a file which exists.
VALUES = {
    "--kernelvm-config": "{other}/malta.yaml",
    "--kernelvm-configs": "{other}",
    "--kernelvm-store": "{other}",
    "--kernelvm-source": "{other}",
    "--kernelvm-arch": "mips",
    "--kernelvm-fresh": "boot",
    "--kernelvm-keep": "none",
    "--kernelvm-splats": "warn",
}
INI = """
[pytest]
addopts = -p my_plugin --strict-markers
pythonpath = src
markers = mine: of this project
required_plugins = pytest-kernelvm
testpaths = tests
"""
TEST = """
import pytest
import of_my_source

@pytest.mark.mine
def test_x(pytestconfig, of_my_plugin):
    assert of_my_plugin
    assert pytestconfig.getoption("--kernelvm-fresh") in (None, "boot")
    print("count:", pytestconfig.get_verbosity())
"""


@pytest.fixture(autouse=True)
def project(pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A project whose ini file says a lot, and beside it a directory with an ini file as well."""
    monkeypatch.setenv("PYTEST_ADDOPTS", "-p no:hypothesispytest")
    pytester.makeini(INI)
    plugins = pytester.mkdir("plugins")
    (plugins / "my_plugin.py").write_text(
        "import pytest\n@pytest.fixture\ndef of_my_plugin(): return True\n"
    )
    monkeypatch.setenv("PYTHONPATH", str(plugins))
    monkeypatch.syspath_prepend(plugins)
    pytester.mkdir("src").joinpath("of_my_source.py").write_text("")
    pytester.mkdir("tests").joinpath("test_it.py").write_text(TEST)
    (pytester.path / "test_not_in_testpaths.py").write_text("def test_y(): assert False\n")
    return pytester.path


@pytest.fixture(params=["outside", "with an ini file", "inside"])
def other(request: pytest.FixtureRequest, pytester: pytest.Pytester, tmp_path: Path) -> Path:
    """A directory that an option names."""
    directory = pytester.path / "vm-configs" if request.param == "inside" else tmp_path / "other"
    directory.mkdir()
    (directory / "malta.yaml").write_text('arch: mips\nkernel: {version: "6.1"}\n')
    if request.param == "with an ini file":
        (directory / "pytest.ini").write_text("[pytest]\naddopts = -v\n")
    return directory


def test_all_options_with_values_are_known(pytester: pytest.Pytester) -> None:
    config = pytester.parseconfig()
    usage = config._parser.optparser.format_help()
    with_value = re.findall(r"^  (--kernelvm-[\w-]+)[= ][A-Z{]", usage, re.MULTILINE)
    assert {*with_value} == {*VALUED} == {*VALUES}


def test_an_option_with_its_value_behind_a_space(pytester: pytest.Pytester, other: Path) -> None:
    given = [
        word
        for option in ("--kernelvm-store", "--kernelvm-configs", "--kernelvm-config")
        for word in (option, VALUES[option].format(other=other))
    ]
    result = pytester.runpytest_subprocess(*given, "-rA")
    result.assert_outcomes(passed=1)
    result.stdout.fnmatch_lines([f"rootdir: {pytester.path}", "configfile: tox.ini", "count: 0"])
    assert "testpaths: tests" in result.outlines


@pytest.mark.parametrize("option", VALUES)
def test_each_option(option: str, pytester: pytest.Pytester, tmp_path: Path) -> None:
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "malta.yaml").write_text('arch: mips\nkernel: {version: "6.1"}\n')
    value = VALUES[option].format(other=tmp_path / "other")
    result = pytester.runpytest_inprocess(option, value, "-v")
    result.assert_outcomes(passed=1)
    result.stdout.fnmatch_lines([f"rootdir: {pytester.path}", "configfile: tox.ini"])


@pytest.mark.parametrize(
    "arguments",
    [
        ["tests/test_it.py"],
        ["-n1"],
        ["--rootdir=."],
        ["-c", "tox.ini"],
        ["--override-ini=kernelvm_fresh=boot"],
        ["--basetemp", "{base}"],
    ],
    ids=" ".join,
)
def test_with_other_arguments(
    arguments: list[str], pytester: pytest.Pytester, tmp_path: Path
) -> None:
    (tmp_path / "store").mkdir()
    words = [word.format(base=tmp_path / "base") for word in arguments]
    result = pytester.runpytest_subprocess("--kernelvm-store", str(tmp_path / "store"), *words)
    result.assert_outcomes(passed=1)
    result.stdout.fnmatch_lines([f"rootdir: {pytester.path}", "configfile: tox.ini"])


def test_the_option_may_be_in_the_environment(
    pytester: pytest.Pytester, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PYTEST_ADDOPTS", f"--kernelvm-store {tmp_path} -p no:hypothesispytest")
    result = pytester.runpytest_subprocess("-v")
    result.assert_outcomes(passed=1)
    result.stdout.fnmatch_lines([f"rootdir: {pytester.path}", "configfile: tox.ini"])
