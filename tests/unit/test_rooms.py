"""docs/architecture.md is true: it has every room, and what it names is there."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PACKAGE = ROOT / "pytest_kernelvm"
ARCHITECTURE = ROOT / "docs" / "architecture.md"
MOST_FILES = 16
# Ruff has the limit of a function's branches (mccabe in pyproject.toml).
MOST_LINES_OF_FILE = 400
MOST_LINES_OF_FUNCTION = 45
# A library of its own, and flat.
ANY_NUMBER = ("modules/",)

_QUOTED = re.compile(r"`([^`\n]+)`")
_FILE = re.compile(r"(?:[\w.-]+/)*[\w-]+\.(?:py|c|h|S|yaml|json|md|toml|config)")
_DIRECTORY = re.compile(r"(?:[\w.-]+/)+")


def rooms(package: Path) -> Iterator[Path]:
    """Yield the directories below a package that have Python files."""
    for path in sorted(package.rglob("*")):
        if path.is_dir() and any(path.glob("*.py")):
            yield path


def room_name(path: Path, package: Path) -> str:
    return f"{path.relative_to(package).as_posix()}/"


def names(text: str, kind: re.Pattern[str]) -> list[str]:
    """Return the names of a kind that stand in backquotes, each once."""
    return [name for name in dict.fromkeys(_QUOTED.findall(text)) if kind.fullmatch(name)]


def exists(name: str, root: Path, package: Path) -> bool:
    """Whether something of a name is there: below the package or the repository.

    A file's name without a directory may be anywhere in the package.
    """
    if (package / name).exists() or (root / name).exists():
        return True
    return "/" not in name and any(package.rglob(name))


def missing_rooms(text: str, package: Path) -> list[str]:
    said = names(text, _DIRECTORY)
    return [name for room in rooms(package) if (name := room_name(room, package)) not in said]


def missing_files(text: str, root: Path, package: Path) -> list[str]:
    said = [*names(text, _FILE), *names(text, _DIRECTORY)]
    return [name for name in said if not exists(name, root, package)]


def crowded(package: Path) -> list[str]:
    """Return the directories that have more files than a person can look through."""
    found = []
    for room in (package, *(path for path in sorted(package.rglob("*")) if path.is_dir())):
        files = [path for path in room.iterdir() if path.is_file() and path.suffix != ".pyc"]
        name = room_name(room, package)
        if len(files) > MOST_FILES and name not in ANY_NUMBER:
            found.append(f"{name}: {len(files)} files")
    return found


def long_parts(package: Path) -> list[str]:
    """Return the Python files, and the functions in them, that are too long."""
    found = []
    for path in sorted(package.rglob("*.py")):
        text = path.read_text()
        place = path.relative_to(package).as_posix()
        if text.count("\n") > MOST_LINES_OF_FILE:
            found.append(place)
        for node in ast.walk(ast.parse(text)):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                assert node.end_lineno is not None
                if node.end_lineno - node.lineno >= MOST_LINES_OF_FUNCTION:
                    found.append(f"{place}: {node.name}")
    return found


def test_every_room_is_in_the_document() -> None:
    assert missing_rooms(ARCHITECTURE.read_text(), PACKAGE) == []


def test_all_that_the_document_names_exists() -> None:
    assert missing_files(ARCHITECTURE.read_text(), ROOT, PACKAGE) == []


def test_no_room_is_crowded() -> None:
    assert crowded(PACKAGE) == []


def test_nothing_is_too_long() -> None:
    assert long_parts(PACKAGE) == []


def test_every_room_says_what_it_owns() -> None:
    for room in rooms(PACKAGE):
        assert (room / "__init__.py").read_text().startswith('"""'), room


@pytest.fixture
def package(tmp_path: Path) -> Path:
    """A package with two rooms, one in the other."""
    for path in ("house/__init__.py", "house/vm/__init__.py", "house/vm/qemu/argv.py"):
        (tmp_path / path).parent.mkdir(exist_ok=True, parents=True)
        (tmp_path / path).touch()
    return tmp_path / "house"


def test_a_room_that_is_not_named_is_found(package: Path) -> None:
    assert missing_rooms("`vm/qemu/`", package) == ["vm/"]
    assert missing_rooms("`vm/` and `vm/qemu/`", package) == []


@pytest.mark.parametrize("name", ["vm/argv.py", "gone.py", "vm/klog/"])
def test_a_name_with_nothing_behind_it_is_found(package: Path, name: str) -> None:
    assert missing_files(f"`vm/qemu/argv.py`, `argv.py`, `{name}`", package.parent, package) == [
        name
    ]


def test_a_crowded_room_is_found(package: Path) -> None:
    for number in range(MOST_FILES + 1):
        (package / "vm" / f"part{number}.py").touch()
    assert crowded(package) == ["vm/: 18 files"]


def test_what_is_too_long_is_found(package: Path) -> None:
    within = "def short():\n" + "    pass\n" * (MOST_LINES_OF_FUNCTION - 1)
    beyond = "def long():\n" + "    pass\n" * MOST_LINES_OF_FUNCTION
    (package / "vm" / "a.py").write_text(within + beyond)
    (package / "vm" / "b.py").write_text("\n" * MOST_LINES_OF_FILE)
    (package / "vm" / "c.py").write_text("\n" * (MOST_LINES_OF_FILE + 1))
    assert long_parts(package) == ["vm/a.py: long", "vm/c.py"]
