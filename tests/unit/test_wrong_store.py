"""A directory that is named as the store by mistake: nothing in it is removed."""

from __future__ import annotations

from pathlib import Path

import pytest

from pytest_kernelvm.cli.main import main
from pytest_kernelvm.store.digest import digest_of
from pytest_kernelvm.store.kinds import LOCKS

OF_OTHERS = (
    f"containers/{digest_of('container')}/config.v2.json",
    f"overlay2/{digest_of('layer')}/diff",
    f".cache/{digest_of('cached')}/data",
    "projects/shop/entry.json",
    "images/README",
)
LIKE_OURS = (
    "git/project/HEAD",
    "downloads/thesis.pdf",
    "packages/shop/setup.py",
    "headers/linux/types.h",
    "logs/today/messages",
    "builds/shop/main.o",
    f"kernels/{digest_of('kernel')}/image",
)
REMOVING = (
    ["clean"],
    ["clean", "--sources", "--downloads"],
    ["store", "gc", "--older-than", "0s"],
    ["store", "gc", "--max-size", "0K"],
    ["store", "verify", "--remove"],
)


def fill(root: Path, *names: str) -> None:
    for name in names:
        path = root / name
        path.parent.mkdir(parents=True)
        path.write_text("{}")


def files(root: Path) -> set[str]:
    return {str(path.relative_to(root)) for path in root.rglob("*") if path.is_file()}


@pytest.mark.parametrize("argv", REMOVING, ids=" ".join)
def test_a_directory_that_is_no_store_is_refused(
    argv: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    fill(tmp_path, *OF_OTHERS, *LIKE_OURS)
    assert main(["--store", str(tmp_path), *argv]) == 2
    assert f"{tmp_path} is no store" in capsys.readouterr().err
    assert files(tmp_path) == {*OF_OTHERS, *LIKE_OURS}


@pytest.mark.parametrize("argv", REMOVING, ids=" ".join)
def test_what_is_no_entry_stays_in_a_store(argv: list[str], tmp_path: Path) -> None:
    fill(tmp_path, *OF_OTHERS)
    (tmp_path / LOCKS.name).mkdir()
    assert main(["--store", str(tmp_path), *argv]) == 0
    assert {*OF_OTHERS} <= files(tmp_path)


def test_directories_that_others_have_too_keep_what_is_not_of_the_store(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A home directory that was once named as the store has `locks` from then on."""
    of_others = ("git/project/HEAD", "downloads/thesis.pdf", "packages/shop/setup.py")
    ours = f"git/{digest_of('repository')}/HEAD", f"downloads/{digest_of('file')}.part"
    for name in (*of_others, *ours):
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("{}")
    (tmp_path / LOCKS.name).mkdir()
    assert main(["--store", str(tmp_path), "clean", "--downloads"]) == 0
    assert {*of_others} == {name for name in files(tmp_path) if not name.startswith("locks/")}
    assert f"removed what the store had in {tmp_path / 'git'}" in capsys.readouterr().out


@pytest.mark.parametrize("argv", REMOVING, ids=" ".join)
def test_a_store_that_is_not_there_is_none_to_refuse(argv: list[str], tmp_path: Path) -> None:
    assert main(["--store", str(tmp_path / "absent"), *argv]) == 0
