"""The compiler that builds are given: what it makes does not depend on where."""

from pathlib import Path

import pytest

from pytest_kernelvm.arch import ARCHES, Arch
from pytest_kernelvm.errors import ToolMissing
from pytest_kernelvm.kernel.compiler import ccache_summary, compiler_directory
from pytest_kernelvm.kernel.store import Store, file_digest
from pytest_kernelvm.process import run
from pytest_kernelvm.progress import Silent


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


def test_what_ccache_had(tmp_path: Path) -> None:
    """Lines of ccache 4.7's log."""
    log = tmp_path / "log"
    assert ccache_summary(log) == ""
    log.write_text(
        "# init/main.c\ndirect_cache_hit\nlocal_storage_hit\n"
        "# a.c\ncache_miss\ndirect_cache_miss\n# b.c\npreprocessed_cache_hit\n"
        "# -\ncalled_for_link\n"
    )
    assert ccache_summary(log) == "ccache had 2 of 3 objects"
