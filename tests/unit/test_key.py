"""A kernel's key: what makes another kernel changes it, and nothing else does."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from pytest_kernelvm.config.load import read_config
from pytest_kernelvm.config.model import CellConfig
from pytest_kernelvm.kernel.build import keys
from pytest_kernelvm.kernel.build.keys import kernel_digest, request_key
from pytest_kernelvm.store.digest import digest_of

CONFIG = """\
arch: mips
kernel:
  version: "6.12"
  base: ./own.config
  fragments: [a.config]
  symbols: {LOG_BUF_SHIFT: 17}
  patches: [p.patch]
modules: [loop]
machine: {memory_mib: 128}
timeouts: {boot_s: 60}
"""


@pytest.fixture
def project(tmp_path: Path) -> Path:
    (tmp_path / "m.yaml").write_text(CONFIG)
    (tmp_path / "own.config").write_text("CONFIG_BASE=y\n")
    (tmp_path / "a.config").write_text("CONFIG_A=y\n")
    (tmp_path / "p.patch").write_text("--- a\n+++ b\n")
    return tmp_path


def key(project: Path, source: str = "source", compiler: str = "gcc 12") -> str:
    (cell,) = read_config(next(project.glob("*.yaml")))
    return digest_of(request_key(cell, source, compiler))


def rewrite(name: str, old: str, new: str) -> Callable[[Path], None]:
    def change(project: Path) -> None:
        path = project / name
        path.write_text(path.read_text().replace(old, new))

    return change


@pytest.mark.parametrize(
    "change",
    [
        rewrite("p.patch", "+++ b", "+++ c"),
        rewrite("a.config", "A=y", "A=m"),
        rewrite("a.config", "A=y", "A=y\nCONFIG_B=y"),
        rewrite("own.config", "BASE=y", "BASE=m"),
        rewrite("m.yaml", "17", "18"),
        rewrite("m.yaml", "./own.config", "allnoconfig"),
        rewrite("m.yaml", "patches: [p.patch]", "patches: []"),
        rewrite("m.yaml", "arch: mips", "arch: mipsel\ncookie: liminix"),
        rewrite("m.yaml", "modules:", "builtin_cmdline: quiet\nmodules:"),
        rewrite("m.yaml", "  base:", "  image: [vmlinux, vmlinuz]\n  base:"),
        rewrite("m.yaml", "[p.patch]", "[{file: p.patch, versions: '>=6.12.30'}]"),
        rewrite("m.yaml", "[p.patch]", "[{file: p.patch, versions: '<6.12'}]"),
    ],
)
def test_changes_that_change_the_request(project: Path, change: Callable[[Path], None]) -> None:
    before = key(project)
    change(project)
    assert key(project) != before


def test_source_compiler_and_recipe(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    found = {key(project), key(project, source="other"), key(project, compiler="gcc 13")}
    monkeypatch.setattr(keys, "RECIPE", keys.RECIPE + 1)
    assert len(found | {key(project)}) == 4


DIGESTED: dict[str, Any] = {
    "source": "s",
    "patches": ["p", "q"],
    "config": "CONFIG_A=y\n",
    "compiler": "gcc 12; ld 2.40",
    "images": ["vmlinux"],
}


@pytest.mark.parametrize(
    ("name", "other"),
    [
        ("source", "t"),
        ("patches", ["p"]),
        ("patches", ["q", "p"]),
        ("config", "CONFIG_A=m\n"),
        ("compiler", "gcc 12; ld 2.41"),
        ("compiler", "clang 14; LLD 14"),
        ("images", ["vmlinux", "vmlinuz"]),
    ],
)
def test_inputs_that_change_the_kernel_digest(name: str, other: Any) -> None:
    assert kernel_digest(**DIGESTED) == kernel_digest(**DIGESTED)
    assert kernel_digest(**{**DIGESTED, name: other}) != kernel_digest(**DIGESTED)


def test_the_recipe_changes_the_kernel_digest(monkeypatch: pytest.MonkeyPatch) -> None:
    before = kernel_digest(**DIGESTED)
    monkeypatch.setattr(keys, "RECIPE", keys.RECIPE + 1)
    assert kernel_digest(**DIGESTED) != before


def test_the_kernel_digest_has_no_other_input() -> None:
    """What is not in here cannot change it: cell, requests, fragments, jobs, paths, times."""
    names = set(inspect.signature(kernel_digest).parameters)
    assert names == DIGESTED.keys()


def rename(project: Path) -> None:
    (project / "m.yaml").rename(project / "other.yaml")
    (project / "p.patch").rename(project / "q.patch")
    rewrite("other.yaml", "p.patch", "q.patch")(project)


def move(project: Path) -> None:
    (project / "below").mkdir()
    (project / "a.config").rename(project / "below" / "b.config")
    rewrite("m.yaml", "a.config", "below/b.config")(project)


@pytest.mark.parametrize(
    "change",
    [
        rename,
        move,
        rewrite("a.config", "CONFIG_A", "# a comment\n\nCONFIG_A"),
        rewrite("m.yaml", "memory_mib: 128", "memory_mib: 64, cpu: 74Kf"),
        rewrite("m.yaml", "[loop]", "[dummy]"),
        rewrite("m.yaml", "boot_s: 60", "boot_s: 90, build_s: 50"),
        rewrite("m.yaml", "modules:", "cmdline: quiet\nmodules:"),
        rewrite("m.yaml", "[p.patch]", "[{file: p.patch, features: [f], versions: '>=6.0'}]"),
        rewrite("m.yaml", "modules:", "# as ever\nmodules:"),
    ],
)
def test_changes_that_do_not_change_the_request(
    project: Path, change: Callable[[Path], None]
) -> None:
    before = key(project)
    change(project)
    assert key(project) == before


def test_the_place_of_a_request_does_not_matter(project: Path) -> None:
    config: CellConfig
    (config,) = read_config(project / "m.yaml")
    moved = tuple(replace(each, where="elsewhere") for each in config.kernel.symbols)
    other = replace(config, id="other", kernel=replace(config.kernel, symbols=moved))
    assert request_key(config, "s", "c") == request_key(other, "s", "c")
