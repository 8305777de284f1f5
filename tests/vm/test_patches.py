"""The kernel patches that we ship, as a kernel maintainer would look at them first."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from pytest_kernelvm.config.patches import BUILTIN_PATCHES
from pytest_kernelvm.config.select import select_cells
from pytest_kernelvm.process import run
from pytest_kernelvm.store.store import Store
from tests.vm.project import unpacked_source

# The marker is the plugin's own; these tests boot nothing but need the sources that guests do.
pytestmark = pytest.mark.vm

SHIPPED = Path(__file__).parents[2] / "vm-configs"


@pytest.fixture(scope="module", params=["malta-6.1", "malta-6.12"])
def tree(request: pytest.FixtureRequest, kernelvm_store: Store) -> Path:
    (cell,) = select_cells(SHIPPED, names=[request.param])
    return unpacked_source(kernelvm_store, cell)


@pytest.mark.skipif(not shutil.which("perl"), reason="perl is not installed")
@pytest.mark.parametrize(
    "patch", sorted(BUILTIN_PATCHES.glob("*.patch")), ids=lambda patch: str(patch.stem)
)
def test_checkpatch_has_nothing_to_say(patch: Path, tree: Path) -> None:
    argv: list[str | Path] = [
        "perl",
        tree / "scripts/checkpatch.pl",
        "--strict",
        f"--root={tree}",
        "-",
    ]
    # A file that is named, and known to git, would be checked as source.
    done = run(argv, stdin=patch.read_bytes(), timeout_s=60, check=False)
    assert "total: 0 errors, 0 warnings, 0 checks" in done.stdout, done.stdout
    assert done.status == 0
