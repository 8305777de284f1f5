"""The compiler's wrapper: what it makes does not depend on the directory."""

from __future__ import annotations

import os
import shutil
from dataclasses import replace
from pathlib import Path

import pytest

from pytest_kernelvm.arch.base import Arch
from pytest_kernelvm.arch.registry import ARCHES
from pytest_kernelvm.errors import ToolMissing
from pytest_kernelvm.process import run
from pytest_kernelvm.progress import Silent
from pytest_kernelvm.store.digest import file_digest
from pytest_kernelvm.store.store import Store
from pytest_kernelvm.toolchain.compiler import (
    ANSWERS_VARIABLE,
    ccache_summary,
    compiler_directory,
    compiler_version,
    require_arch,
)


@pytest.mark.parametrize("arch", ARCHES.values(), ids=ARCHES)
def test_debug_information_does_not_know_the_directory(arch: Arch, tmp_path: Path) -> None:
    store = Store(tmp_path / "store", Silent())
    try:
        directory = compiler_directory(store, arch)
    except ToolMissing as missing:
        pytest.skip(str(missing))
    digests = set()
    for place in ("one", "two/below"):
        tree = tmp_path / place / "tree"
        (tree / ".objects").mkdir(parents=True)
        (tree / "a.c").write_text("int a;\n")
        compiler = str(directory / f"{arch.toolchain_prefix}gcc")
        # As kbuild names sources, and as arch/mips/vdso names one of them.
        for source in ("../a.c", str(tree / "a.c")):
            run([compiler, "-g", "-c", "-o", "a.o", source], cwd=tree / ".objects", timeout_s=60)
            if source.startswith("/"):
                digests.add(file_digest(tree / ".objects" / "a.o"))
    assert len(digests) == 1
    assert compiler_directory(store, arch) == directory


def test_hits_and_misses_of_ccache_are_counted(tmp_path: Path) -> None:
    """Lines of ccache 4.7's log."""
    log = tmp_path / "log"
    assert ccache_summary(log) == ""
    log.write_text(
        "# init/main.c\ndirect_cache_hit\nlocal_storage_hit\n"
        "# a.c\ncache_miss\ndirect_cache_miss\n# b.c\npreprocessed_cache_hit\n"
        "# -\ncalled_for_link\n"
    )
    assert ccache_summary(log) == "ccache had 2 of 3 objects"


COUNTING = """\
#!/bin/sh
echo "$@" >>{log}
exec {program} "$@"
"""
FLAG = ["-Werror", "-fno-common", "-c", "-x", "c", "/dev/null", "-o"]


@pytest.fixture
def counted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[Path, Path]:
    """The program that stands for a compiler whose calls are counted, and their log."""
    prefix = ARCHES["mips"].toolchain_prefix
    program = shutil.which(f"{prefix}gcc")
    if not program:
        pytest.skip(f"{prefix}gcc is not installed")
    (tmp_path / "bin").mkdir()
    log = tmp_path / "calls"
    stand_in = tmp_path / "bin" / f"{prefix}gcc"
    stand_in.write_text(COUNTING.format(log=log, program=program))
    stand_in.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path / 'bin'}{os.pathsep}{os.environ['PATH']}")
    store = Store(tmp_path / "store", Silent())
    return compiler_directory(store, ARCHES["mips"]) / f"{prefix}gcc", log


def test_a_known_flag_is_tried_once(counted: tuple[Path, Path], tmp_path: Path) -> None:
    compiler, log = counted
    answers = {ANSWERS_VARIABLE: str(tmp_path / "answers")}
    for number in range(3):
        run(
            [compiler, *FLAG, tmp_path / f".tmp_{number}/tmp"],
            env=answers,
            timeout_s=60,
            check=False,
        )
    calls = log.read_text().splitlines()
    assert len(calls) == 3, "its directory was missing: no answer"
    for number in range(3):
        (tmp_path / f".tmp_{number}").mkdir()
        run([compiler, *FLAG, tmp_path / f".tmp_{number}/tmp"], env=answers, timeout_s=60)
    assert len(log.read_text().splitlines()) == 4
    run([compiler, *FLAG, tmp_path / ".tmp_0/tmp"], timeout_s=60)
    assert len(log.read_text().splitlines()) == 5


def test_an_unknown_flag_is_tried_once(counted: tuple[Path, Path], tmp_path: Path) -> None:
    compiler, log = counted
    answers = {ANSWERS_VARIABLE: str(tmp_path / "answers")}
    (tmp_path / ".tmp_1").mkdir()
    for asked, flag in enumerate(("-fnot-known", "-Wnot-known", "-Wa,-mnot-known"), start=1):
        argv: list[str | Path] = [compiler, "-Werror", flag, *FLAG[2:], tmp_path / ".tmp_1/tmp"]
        for _time in range(2):
            assert run(argv, env=answers, timeout_s=60, check=False).status == 1
        assert len(log.read_text().splitlines()) == asked


def test_an_answer_is_for_the_whole_command(counted: tuple[Path, Path], tmp_path: Path) -> None:
    """The last flag may be known only because of another one."""
    compiler, log = counted
    answers = {ANSWERS_VARIABLE: str(tmp_path / "answers")}
    (tmp_path / ".tmp_1").mkdir()
    for first, status in (("-O2", 0), ("-fnot-known", 1), ("-O2", 0), ("-fnot-known", 1)):
        argv: list[str | Path] = [compiler, "-Werror", first, *FLAG[1:], tmp_path / ".tmp_1/tmp"]
        assert run(argv, env=answers, timeout_s=60, check=False).status == status
    assert len(log.read_text().splitlines()) == 2


@pytest.mark.parametrize("llvm", ["", "1"])
@pytest.mark.parametrize("arch", ARCHES.values(), ids=ARCHES)
def test_compilers_of_all_architectures(arch: Arch, llvm: str, tmp_path: Path) -> None:
    try:
        version = compiler_version(arch, llvm)
    except ToolMissing as missing:
        pytest.skip(str(missing))
    assert ("clang" in version, "LLD" in version) == (bool(llvm), bool(llvm))
    require_arch(arch, llvm, tmp_path)


def test_a_compiler_without_the_architecture(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    host = shutil.which("gcc")
    if not host or os.uname().machine.startswith("mips"):
        pytest.skip("no gcc of another architecture is installed")
    name = f"{ARCHES['mips'].toolchain_prefix}gcc"
    (tmp_path / name).symlink_to(host)
    monkeypatch.setenv("PATH", f"{tmp_path}{os.pathsep}{os.environ['PATH']}")
    with pytest.raises(ToolMissing, match=f"{name} does not compile for mips") as failed:
        require_arch(ARCHES["mips"], "", tmp_path)
    assert failed.value.evidence.seen == "another machine's"
    assert failed.value.evidence.where == (str(tmp_path / name),)
    little = replace(ARCHES["mips"], toolchain_prefix="nowhere-none-")
    if shutil.which("clang"):
        with pytest.raises(ToolMissing, match="clang does not compile for mips") as failed:
            require_arch(little, "1", tmp_path)
        assert failed.value.evidence.excerpt.startswith("error: un")


def test_llvm_of_a_version_that_is_not_installed() -> None:
    with pytest.raises(ToolMissing) as missing:
        compiler_version(ARCHES["mips"], "-3")
    assert missing.value.evidence.next_step == "apt-get install clang-3 lld-3 llvm-3"
