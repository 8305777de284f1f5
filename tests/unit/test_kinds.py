"""Every directory of a store is a row of the registry; docs/reference/store.md has all rows."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from pytest_kernelvm.cli.main import main
from pytest_kernelvm.store.kinds import KINDS, Clean, Form, Kind, cleaned_by, kind_of
from pytest_kernelvm.store.store import default_store
from tests.unit.debian_packages import KIND as DEBIAN_PACKAGES

ROOT = Path(__file__).parents[2]
PACKAGE = ROOT / "pytest_kernelvm"
# Methods of Store take rows, which mypy checks; nobody goes around them.
_BY_NAME = re.compile(r"\bstore\.root\s*/|\b_root\s*/\s*[\"']")


def lines_that(pattern: re.Pattern[str], directory: Path) -> Iterator[str]:
    for path in sorted(directory.rglob("*.py")):
        for number, line in enumerate(path.read_text().splitlines(), start=1):
            if pattern.search(line):
                yield f"{path.relative_to(ROOT)}:{number}: {line.strip()}"


def test_names_are_unique() -> None:
    assert len({kind.name for kind in KINDS}) == len(KINDS)
    assert all(kind_of(kind.name) is kind for kind in KINDS)


def test_directories_of_a_store_are_named_by_rows_alone() -> None:
    assert list(lines_that(_BY_NAME, PACKAGE)) == []


def test_a_directory_that_is_named_by_a_string_is_found() -> None:
    for line in ('store.root / "kernels"', "store.root/kind"):
        assert _BY_NAME.search(line)
    assert not _BY_NAME.search("store.place(KERNELS) / digest")


def test_the_store_of_this_machine_has_known_directories() -> None:
    store = default_store()
    if not store.is_dir():
        pytest.skip(f"there is no store in {store}")
    known = {kind.name for kind in (*KINDS, DEBIAN_PACKAGES)}
    assert {path.name for path in store.iterdir()} - known == set()


@pytest.mark.parametrize("kind", KINDS, ids=str)
def test_rows_are_consistent(kind: Kind) -> None:
    assert kind.what
    # What collects garbage needs to know when something was used, and never takes the only copy.
    assert not kind.collected or kind.remade
    assert bool(kind.note) is (kind.form is Form.WORK)
    # Nobody waits for the end of what has no time of its last use.
    assert str(kind.limits) == "" or kind.form is not Form.INTERNAL


def test_an_unknown_directory_is_taken_for_entries() -> None:
    kind = kind_of("of-the-future")
    assert kind.collected
    assert kind not in cleaned_by(*Clean)


@pytest.mark.parametrize("argv", [["store", "ls", "--help"], ["clean", "--help"]])
def test_help_names_the_rows(argv: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(argv)
    said = capsys.readouterr().out
    expected = KINDS if argv[0] == "store" else cleaned_by(*list(Clean)[:-1])
    assert [kind.name for kind in expected if not re.search(rf"\b{kind}\b", said)] == []


def test_the_document_has_all_rows() -> None:
    text = (ROOT / "docs" / "reference" / "store.md").read_text()
    rows = [
        f"| `{kind}` | {kind.what} | {kind.removed_by or 'nothing'} |"
        f" {'yes' if kind.remade else 'no'} |"
        for kind in KINDS
    ]
    assert [row for row in rows if row not in text] == []
