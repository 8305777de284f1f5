"""JSON that others have written, read field by field: each is checked or told with its place."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterable
from typing import Any, NoReturn

from pytest_kernelvm.errors import BadInput, Evidence

_SHOWN_CHARACTERS = 80
SHA256 = r"[0-9a-f]{64}"
# One line: neither what ends one nor what a terminal would obey.
LINE = r"[^\x00-\x1f\x7f-\x9f\u2028\u2029\ud800-\udfff]*"


class BadField(BadInput):
    """A field of a JSON file, or all of it, is not what it can be."""


def parse_json(data: bytes | str, where: str) -> Any:
    """Return what a JSON text says. where: its file, perhaps with the line.

    Raises BadInput for what is no JSON: a key given twice, NaN and what is nested too deeply too.
    """
    try:
        return json.loads(data, object_pairs_hook=_unique, parse_constant=_refuse_constant)
    except (ValueError, RecursionError) as error:
        raise BadField(
            "a file is damaged",
            Evidence(expected="JSON", seen=str(error)[:200], where=(where,)),
        ) from None


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        raise ValueError("a key stands there twice")
    return found


def _refuse_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is no number")


class Fields:
    """The fields of one JSON object; each is taken once, and `done` refuses what is left.

    where: the file. path: the object's place in it, empty for all of it.
    All raise BadInput with file and field.
    """

    def __init__(self, given: Any, where: str, path: str = "") -> None:
        self._where = where
        self._path = path
        if not isinstance(given, dict):
            raise self._bad(path or "it", "an object", given)
        self._left: dict[str, Any] = dict(given)

    def take(self, name: str) -> Any:
        """Return a field as it is."""
        if name not in self._left:
            raise self.refused(name, "that it is there", "nothing")
        return self._left.pop(name)

    def refused(self, name: str, expected: str, seen: str) -> BadField:
        """Return the error about a field."""
        return BadField(
            f"{self._named(name)} is not what it can be",
            Evidence(expected=expected, seen=seen, where=(self._where,)),
        )

    def _bad(self, name: str, expected: str, value: Any) -> BadField:
        shown = ascii(value)
        if len(shown) > _SHOWN_CHARACTERS:
            shown = f"{shown[:_SHOWN_CHARACTERS]}…"
        return self.refused(name, expected, shown)

    def _named(self, name: str) -> str:
        return f"{self._path}.{name}" if self._path and name != self._path else name

    def text(self, name: str, *, pattern: str = LINE, shape: str, most: int = 4096) -> str:
        """Return a text. pattern: of all of it; shape: that in words. most: characters."""
        value = self.take(name)
        if not isinstance(value, str) or len(value) > most or not re.fullmatch(pattern, value):
            raise self._bad(name, shape, value)
        return value

    def choice(self, name: str, allowed: Iterable[str]) -> str:
        """Return one of a few texts."""
        value = self.take(name)
        known = tuple(allowed)
        if not isinstance(value, str) or value not in known:
            raise self._bad(name, f"one of {', '.join(map(repr, known))}", value)
        return value

    def number(self, name: str, least: float, most: float) -> float:
        """Return a number between two bounds."""
        return float(self._within(name, self.take(name), least, most, (int, float)))

    def whole(self, name: str, least: int, most: int) -> int:
        """Return a whole number between two bounds."""
        return int(self._within(name, self.take(name), least, most, (int,)))

    def _within(
        self, name: str, value: Any, least: float, most: float, types: tuple[type, ...]
    ) -> Any:
        # To Python true is a number as well.
        fits = isinstance(value, types) and not isinstance(value, bool)
        if not fits or not math.isfinite(value) or not least <= value <= most:
            kind = "a whole number" if types == (int,) else "a number"
            raise self._bad(name, f"{kind} from {least:g} to {most:g}", value)
        return value

    def flag(self, name: str) -> bool:
        """Return true or false."""
        value = self.take(name)
        if not isinstance(value, bool):
            raise self._bad(name, "true or false", value)
        return value

    def fields(self, name: str) -> Fields:
        """Return the fields of an object in this one."""
        return Fields(self.take(name), self._where, self._named(name))

    def fields_or_none(self, name: str) -> Fields | None:
        """Return the fields of an object in this one, None where there is null."""
        return None if self.is_null(name) else self.fields(name)

    def items(self, name: str, most: int) -> list[Any]:
        """Return a list, its items not yet checked. most: of them."""
        value = self.take(name)
        if not isinstance(value, list) or len(value) > most:
            shown = f"a list of {len(value)}" if isinstance(value, list) else value
            raise self._bad(name, f"a list of at most {most}", shown)
        return value

    def objects(self, name: str, most: int) -> list[Fields]:
        """Return the fields of each object in a list."""
        path = self._named(name)
        return [
            Fields(each, self._where, f"{path}[{number}]")
            for number, each in enumerate(self.items(name, most))
        ]

    def whole_numbers(self, name: str, least: int, most: int, count: int) -> tuple[int, ...]:
        """Return a list of whole numbers. count: how many there may be."""
        return tuple(
            self._within(f"{name}[{number}]", value, least, most, (int,))
            for number, value in enumerate(self.items(name, count))
        )

    def numbers_by_name(self, name: str, pattern: str, most: int) -> dict[str, int]:
        """Return an object whose values are whole numbers of 32 bits. most: of them."""
        found = self.fields(name)
        if len(found._left) > most:
            raise self.refused(name, f"at most {most} names", f"{len(found._left)}")
        for key in found._left:
            if not re.fullmatch(pattern, key):
                raise self._bad(name, "names of C", key)
        return {key: found.whole(key, -(1 << 31), (1 << 32) - 1) for key in list(found._left)}

    @property
    def names(self) -> tuple[str, ...]:
        """The fields that are left."""
        return tuple(self._left)

    def has(self, name: str) -> bool:
        """Return whether a field is left."""
        return name in self._left

    def is_null(self, name: str) -> bool:
        """Return whether a field is null, which takes it then."""
        if self._left.get(name, 0) is None:
            del self._left[name]
            return True
        return False

    def done(self) -> None:
        """Raise BadInput if there are fields that nobody has taken."""
        if self._left:
            name = next(iter(self._left))
            raise self._bad(
                name if re.fullmatch(r"\w{1,40}", name) else "a field", "no such field", name
            )
