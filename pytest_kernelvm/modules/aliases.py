"""Aliases: which modules a name stands for, without trying every pattern for every name."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import NoReturn

from pytest_kernelvm.modules.metadata import refuse_line
from pytest_kernelvm.modules.names import (
    Matcher,
    OpenBracket,
    is_pattern,
    literal_parts,
    matcher,
    normalise,
)

# Patterns that start alike share a bucket. In it, a pattern is found by the end of its longest
# literal part: in thousands of `of:N*T*C…` that is the name of the device.
_HEAD_LENGTH = 3
_GRAM_LENGTH = 8

# A head with one of these does not tell how a matching name starts. A blank or newline stands
# behind a pattern that is shorter than a head.
_OPEN_HEAD = re.compile(r"[*?\[\\\s]")


class AliasIndex:
    """The aliases of a modules.alias or modules.symbols.

    A line is parsed only when a name could match it.
    Source of the format: kmod, tools/depmod.c.
    """

    def __init__(self, path: Path, text: str) -> None:
        """Index the lines by how their patterns start.

        Raises BadInput for a line that is neither an alias, nor empty, nor a comment; `lookup`,
        `matches` and `lines` raise it for an alias without a module.

        Args:
            path: The file, for errors.
            text: Its content: lines `alias PATTERN MODULE`. A pattern may have blanks, a module may
                not.
        """
        self._path = path
        # The first line is a comment of depmod; without one, an empty line takes its place.
        self._added = int(text.startswith("alias "))
        self._text = f"\n{text}" if self._added else text
        # Each piece but the first starts with a pattern; one split for thousands costs little.
        self._pieces = self._text.split("\nalias ")
        # If there are only aliases, and one line above them, no line can be bad.
        if self._text.count("\n") > len(self._pieces) or not text.startswith(("#", "alias ")):
            self._check_each_line()
        heads = [piece[:_HEAD_LENGTH] for piece in self._pieces]
        # All heads in one text, which is fast to search.
        self._heads = "\n".join(heads)
        if len(self._heads) != len(heads) * (_HEAD_LENGTH + 1) - 1:
            heads = [head.ljust(_HEAD_LENGTH) for head in heads]
            self._heads = "\n".join(heads)
        # Heads as names have them → as they are written. "": those that tell nothing about names.
        self._written: dict[str, set[str]] = {"": set()}
        for head in set(heads[1:]):
            known = "" if _OPEN_HEAD.search(head) else head.replace("-", "_")
            self._written.setdefault(known, set()).add(head)
        self._buckets: dict[str, _Bucket] = {}

    def lookup(self, name: str) -> tuple[str, ...]:
        """Return the modules whose patterns match, in the order of the lines, each once.

        Args:
            name: Normalised (names.normalise); patterns are normalised here.
        """
        return tuple(dict.fromkeys(module for _, _, module in self.matches(name)))

    def matches(self, name: str) -> list[tuple[int, str, str]]:
        """Return (number, pattern, module) of each line whose pattern matches, in their order.

        Args:
            name: Normalised.
        """
        found: list[tuple[int, str, str]] = []
        for head in {"", name[:_HEAD_LENGTH]} & self._written.keys():
            if head not in self._buckets:
                self._buckets[head] = _Bucket(self._parsed(self._written[head]))
            found.extend(self._buckets[head].matches(name))
        return sorted(found)

    def lines(self) -> Iterator[tuple[str, str]]:
        """Yield the (pattern, module) of all lines; patterns are not normalised."""
        for number in range(1, len(self._pieces)):
            yield self._line(number)

    def _line(self, number: int) -> tuple[str, str]:
        # A comment may follow in the same piece.
        pattern, blank, module = self._pieces[number].partition("\n")[0].rpartition(" ")
        if not (blank and module):
            before = "\nalias ".join(self._pieces[:number])
            self._refuse_line(before.count("\n") + 1)
        return pattern, module.replace("-", "_")

    def _parsed(self, heads: Iterable[str]) -> Iterator[tuple[int, str, str]]:
        for head in heads:
            for number in self._numbers(head):
                yield number, *self._line(number)

    def _numbers(self, head: str) -> Iterator[int]:
        """Yield the numbers of the pieces with a head."""
        width = _HEAD_LENGTH + 1
        at = self._heads.find(f"\n{head}", _HEAD_LENGTH)
        while at >= 0:
            number, beside = divmod(at + 1, width)
            if not beside:
                yield number
            at = self._heads.find(f"\n{head}", at + 1)

    def _check_each_line(self) -> None:
        if bad := re.search(r"^(?!alias |#|\n|\Z)", self._text, re.MULTILINE):
            self._refuse_line(self._text.count("\n", 0, bad.end()))

    def _refuse_line(self, place: int) -> NoReturn:
        seen = self._text.split("\n", place + 1)[place]
        number = place + 1 - self._added
        refuse_line(self._path, number, expected="alias PATTERN MODULE", seen=repr(seen))


class _Bucket:
    """Some (place, pattern, module); wildcard patterns by the end of their longest literal part."""

    def __init__(self, members: Iterable[tuple[int, str, str]]) -> None:
        self._exact: dict[str, list[tuple[int, str, str]]] = {}
        self._grams: dict[str, list[tuple[int, str, str]]] = {}
        self._fitting: dict[str, Matcher] = {}
        for place, written, module in members:
            try:
                pattern = normalise(written)
            except OpenBracket:
                # depmod warns and leaves it out of its index, so that nothing ever matches it.
                continue
            line = place, pattern, module
            if is_pattern(pattern):
                gram = max(literal_parts(pattern), key=len)[-_GRAM_LENGTH:]
                self._grams.setdefault(gram, []).append(line)
            else:
                self._exact.setdefault(pattern, []).append(line)
        self._lengths = {len(gram) for gram in self._grams}

    def matches(self, name: str) -> Iterator[tuple[int, str, str]]:
        """Yield (place, pattern, module) of every pattern that matches."""
        yield from self._exact.get(name, ())
        for length in self._lengths:
            grams = {name[at : at + length] for at in range(len(name) - length + 1)}
            for gram in grams & self._grams.keys():
                for line in self._grams[gram]:
                    if self._fits(line[1], name):
                        yield line

    def _fits(self, pattern: str, name: str) -> bool:
        fits = self._fitting.get(pattern)
        if fits is None:
            fits = self._fitting[pattern] = matcher(pattern)
        return fits(name)
