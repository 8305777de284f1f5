"""modules.dep: the file of every module, and what it needs."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from pytest_kernelvm.errors import BadInput, Evidence
from pytest_kernelvm.modules.metadata import refuse_line
from pytest_kernelvm.modules.names import MODULE_SUFFIXES, name_of_file

_LINE = re.compile(
    r"^((?!/)(?:[^: \n]*/)?([^/.: \n]+)[^/: \n]*\.ko(?:\.xz|\.zst|\.gz)?):(.*)\n", re.MULTILINE
)


@dataclass(frozen=True, kw_only=True, slots=True)
class ModuleFile:
    """A module that modules.dep lists. `ModuleTree.has_file` returns whether the file exists.

    Attributes:
        name: The module, normalised.
        directory: The tree.
        relative: The path below the tree, as in modules.dep.
        dependencies: The names of all that it needs, in the order of modules.dep: nearest first.
    """

    name: str
    directory: Path
    relative: str
    dependencies: tuple[str, ...]

    @property
    def path(self) -> Path:
        """Where the file is."""
        return self.directory / self.relative

    @property
    def size_bytes(self) -> int:
        """The size of the file on disk, compressed if it is. Raises BadInput without a file."""
        try:
            return self.path.stat().st_size
        except OSError as error:
            raise BadInput(
                f"the file of module {self.name} cannot be read",
                Evidence(seen=str(error.strerror), where=(str(self.path),)),
            ) from None


class ModulesDep(Mapping[str, ModuleFile]):
    """The modules of a modules.dep by name, in its order. Source: modules.dep(5).

    A `ModuleFile` is made when it is read for the first time.
    """

    def __init__(self, path: Path, text: str) -> None:
        """Index the lines.

        Raises BadInput for a line that is not `FILE: FILE…`, for a file outside of the tree and for
        two files of one name.

        Args:
            path: The modules.dep of a tree.
            text: Its content.
        """
        self._path = path
        self._text = text
        found = _LINE.findall(self._text)
        files, stems, needed = zip(*found, strict=True) if found else ((), (), ())
        # One replacement for all is much faster than one for each.
        names = "\n".join(stems).replace("-", "_").split("\n") if found else []
        self._relative = dict(zip(names, files, strict=True))
        self._needed = dict(zip(names, needed, strict=True))
        self._names = dict(zip(files, names, strict=True))
        self._files: dict[str, ModuleFile] = {}
        self._needs: dict[str, tuple[str, ...]] = {}
        self._without_line: dict[str, str] = {}
        # If these numbers agree, the lines need not be checked one by one.
        outside = ".." in text and any(".." in file for file in files)
        if outside or not self._text.count("\n") == len(found) == len(self._needed):
            self._check_each_line()

    def __getitem__(self, name: str) -> ModuleFile:
        file = self._files.get(name)
        if file is None:
            file = self._files[name] = ModuleFile(
                name=name,
                directory=self._path.parent,
                relative=self._relative[name],
                dependencies=self.needs(name),
            )
        return file

    def needs(self, name: str) -> tuple[str, ...]:
        """Return the names of what the line of a module lists, nearest first.

        Raises BadInput for a dependency that is no module file or outside of the tree.

        Args:
            name: A module that has a line.
        """
        needs = self._needs.get(name)
        if needs is None:
            names = self._names
            files = self._needed[name].split()
            needs = self._needs[name] = tuple(
                [names.get(file) or self._unlisted(name, file) for file in files]
            )
        return needs

    def whole_lines(self) -> dict[str, tuple[str, ...]]:
        """Return what each module needs, as `needs` does.

        Modules are left out that need one without a line.
        """
        names = self._names
        lines = {
            name: tuple(map(names.get, needed.split())) if needed else ()
            for name, needed in self._needed.items()
        }
        return {name: needs for name, needs in lines.items() if None not in needs}  # type: ignore[misc]

    def relative(self, name: str) -> str:
        """Return the path below the tree of a module that is in some line."""
        return self._relative.get(name) or self._without_line[name]

    def __contains__(self, name: object) -> bool:
        return name in self._needed

    def __iter__(self) -> Iterator[str]:
        return iter(self._needed)

    def __len__(self) -> int:
        return len(self._needed)

    def line_of(self, name: str) -> str:
        """Return `PATH:LINE` of a module that has a line.

        Args:
            name: Normalised, with underscores.
        """
        return f"{self._path}:{self._number_of(self._relative[name])}"

    def _number_of(self, file: str) -> int:
        text = f"\n{self._text}"
        return text.count("\n", 0, text.index(f"\n{file}:") + 1)

    def _unlisted(self, owner: str, file: str) -> str:
        """Return the name of a dependency without a line; whether it may be so, others decide."""
        number = self._number_of(self._relative[owner])
        if not file.endswith(MODULE_SUFFIXES):
            refuse_line(self._path, number, expected="paths of .ko files", seen=repr(file))
        self._check_inside(number, file)
        name = name_of_file(file)
        self._without_line[name] = file
        return name

    def _check_each_line(self) -> None:
        seen: dict[str, str] = {}
        for number, line in enumerate(self._text.split("\n"), 1):
            if not line or line[0] == "#":
                continue
            file = line.partition(":")[0]
            self._check_inside(number, file)
            if not _LINE.fullmatch(f"{line}\n"):
                refuse_line(self._path, number, expected="FILE.ko: FILE.ko …", seen=repr(line))
            name = name_of_file(file)
            if name in seen:
                raise self._twice(name, seen[name], number, file)
            seen[name] = file

    def _check_inside(self, number: int, file: str) -> None:
        if file.startswith("/") or ".." in file.split("/"):
            refuse_line(
                self._path,
                number,
                expected=f"files below {self._path.parent}",
                seen=f"{file!r}, which is outside",
            )

    def _twice(self, name: str, first: str, number: int, file: str) -> BadInput:
        return BadInput(
            f"modules.dep lists module {name} twice",
            Evidence(
                expected="one file for each module, as depmod chooses it",
                seen=f"{first} and {file}",
                where=(f"{self._path}:{self._number_of(first)}", f"{self._path}:{number}"),
                next_step="run depmod again for this tree",
            ),
        )
