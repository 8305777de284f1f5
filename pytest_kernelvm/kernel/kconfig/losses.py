"""Why symbols did not survive olddefconfig: a condition, a choice, a select, a type."""

from __future__ import annotations

import difflib
import enum
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from kconfiglib import AND, BOOL, HEX, INT, STRING, TRISTATE

from pytest_kernelvm.config.requests import Requested
from pytest_kernelvm.kernel.kconfig.descriptions import MOST_SHOWN, SymbolDescriptions
from pytest_kernelvm.kernel.kconfig.menus import (
    LEVELS,
    TYPES,
    Expression,
    Menus,
    as_text,
    prompts,
    symbols_in,
)
from pytest_kernelvm.kernel.kconfig.removed_symbols import REMOVED_SYMBOLS


class Reason(enum.Enum):
    """Why a symbol was lost, the most basic reason first."""

    UNKNOWN = "no such symbol"
    REMOVED = "no such symbol any more"
    OTHER_ARCH = "not for this architecture"
    TYPE = "wrong type"
    RANGE = "out of range"
    UNMET = "unmet dependency"
    LIMITED = "limited to m"
    INVISIBLE = "cannot be set by hand"
    CHOICE = "lost a choice"
    CHOICE_UNDECIDED = "a choice needs a winner"
    SELECTED = "forced by select"
    NO_MODULES = "raised to y"
    UNEXPLAINED = "conf decided otherwise"


_RANKS = {reason: rank for rank, reason in enumerate(Reason)}

# What the final value of a type has to look like: a pattern, and that in words.
_VALUES = {
    STRING: (r'".*"|n', "a text in quotes"),
    INT: (r"-?[0-9]+", "a whole number"),
    HEX: (r"(?:0[xX])?[0-9a-fA-F]+", "a hexadecimal number"),
}
_ANY_VALUE = (r".*", "anything")


@dataclass(frozen=True, kw_only=True, slots=True)
class Loss:
    """One request that the final .config does not honour, explained.

    Attributes:
        request: What was requested.
        got: The final value, n for a symbol that is absent.
        reason: Why it was lost.
        lines: The explanation.
        decided_by: The symbols whose values decide it.
    """

    request: Requested
    got: str
    reason: Reason
    lines: tuple[str, ...]
    decided_by: frozenset[str] = frozenset()


def explain_losses(
    lost: Sequence[Requested], menus: Menus, requests: Mapping[str, Requested], tree: Path
) -> tuple[Loss, ...]:
    """Return why requests were lost, the most basic loss first.

    Args:
        lost: The requests; `menus` honours none of them.
        menus: The Kconfig files with the final values.
        requests: All that was requested, by symbol.
        tree: The source of the kernel.
    """
    unknown = [request.name for request in lost if menus.symbol(request.name) is None]
    elsewhere = definitions(tree, unknown) if unknown else {}
    explainer = _Explainer(menus, requests, elsewhere)
    return _basic_first([explainer.loss(request) for request in lost])


def _basic_first(losses: Sequence[Loss]) -> tuple[Loss, ...]:
    """Sort by how many lost symbols stand behind a loss, then by reason, then by name."""
    by_name = {loss.request.name: loss for loss in losses}

    def depth(loss: Loss, path: frozenset[str]) -> int:
        inner = path | {loss.request.name}
        behind = (by_name[name] for name in loss.decided_by - inner if name in by_name)
        return max((depth(other, inner) + 1 for other in behind), default=0)

    def rank(loss: Loss) -> tuple[int, int, str]:
        return depth(loss, frozenset()), _RANKS[loss.reason], loss.request.name

    return tuple(sorted(losses, key=rank))


def definitions(tree: Path, names: Iterable[str] | None = None) -> dict[str, str]:
    """Return where Kconfig files of a kernel tree define symbols: the first place, `file:line`.

    Args:
        tree: The source of the kernel; the files of all architectures are searched.
        names: The symbols to look for, None for all.
    """
    wanted = "[A-Za-z0-9_]+" if names is None else "|".join(map(re.escape, names))
    pattern = re.compile(rf"^[ \t]*(?:menu)?config[ \t]+({wanted})[ \t]*$", re.MULTILINE)
    found: dict[str, str] = {}
    for path in sorted(tree.rglob("Kconfig*")):
        if not path.is_file():
            continue
        text = path.read_text(errors="replace")
        line, at = 1, 0
        for match in pattern.finditer(text):
            line += text.count("\n", at, match.start())
            at = match.start()
            found.setdefault(match[1], f"{path.relative_to(tree)}:{line}")
    return found


@dataclass(frozen=True, slots=True)
class _Cause:
    """Reason, explanation and deciding symbols of a loss; see Loss."""

    reason: Reason
    lines: Sequence[str]
    decided_by: frozenset[str] = frozenset()


class _Explainer:
    """Finds out why requests were lost."""

    def __init__(
        self, menus: Menus, requests: Mapping[str, Requested], elsewhere: Mapping[str, str]
    ) -> None:
        self._menus = menus
        self._elsewhere = elsewhere
        self._descriptions = SymbolDescriptions(menus, requests)

    def loss(self, request: Requested) -> Loss:
        symbol = self._menus.symbol(request.name)
        cause = self._unknown(request.name) if symbol is None else self._known(request, symbol)
        return Loss(
            request=request,
            got=self._menus.values.get(request.name, "n"),
            reason=cause.reason,
            lines=tuple(cause.lines),
            decided_by=cause.decided_by,
        )

    def _unknown(self, name: str) -> _Cause:
        if name in self._elsewhere:
            place = self._elsewhere[name]
            return _Cause(Reason.OTHER_ARCH, [f"{place}, which defines it, is not read"])
        if name in REMOVED_SYMBOLS:
            return _Cause(Reason.REMOVED, [str(REMOVED_SYMBOLS[name])])
        near = near_names(name, self._menus.names)
        hint = f"did you mean {' or '.join(near)}?" if near else "no symbol has a similar name"
        return _Cause(Reason.UNKNOWN, [hint])

    def _known(self, request: Requested, symbol: Any) -> _Cause:
        wrong = self._wrong_type(request, symbol)
        if wrong:
            return _Cause(Reason.TYPE, [wrong])
        if request.value in LEVELS and symbol.orig_type in (BOOL, TRISTATE):
            wanted = LEVELS.index(request.value)
            if self._menus.level(symbol) > wanted:
                return self._higher_than(wanted, symbol)
            return self._lower_than(wanted, symbol)
        return self._other_value(request, symbol)

    def _wrong_type(self, request: Requested, symbol: Any) -> str:
        kind, value, place = symbol.orig_type, request.value, self._place(symbol)
        levels = {BOOL: ("n", "y"), TRISTATE: LEVELS}.get(kind)
        if levels:
            allowed = ", ".join(reversed(levels))
            wrong = f"{TYPES[kind]} at {place}: may be {allowed}, not {value}"
            return "" if value in levels else wrong
        pattern, words = _VALUES.get(kind, _ANY_VALUE)
        if re.fullmatch(pattern, value):
            return ""
        return f"{TYPES.get(kind, 'untyped')} at {place}: needs {words}, not {value}"

    def _lower_than(self, wanted: int, symbol: Any) -> _Cause:
        if not prompts(symbol):
            return self._never_raised(symbol, wanted)
        visible = self._menus.visibility(symbol)
        if visible < wanted:
            return self._unmet(Reason.LIMITED if visible == 1 else Reason.UNMET, symbol, wanted)
        winner = self._winner(symbol)
        if winner:
            choice = self._place(symbol.choice)
            lines = [f"{self._descriptions.shown(winner)} won the choice at {choice}"]
            return _Cause(Reason.CHOICE, lines, frozenset({winner.name}))
        return self._unexplained(symbol)

    def _never_raised(self, symbol: Any, wanted: int) -> _Cause:
        """Describe the selects and defaults, which alone can raise a symbol without prompt."""
        place, selectors = self._place(symbol), self._menus.selectors(symbol)
        selects = [self._select(*each, wanted) for each in selectors[:MOST_SHOWN]]
        defaults = [
            self._default(value, condition, wanted)
            for value, condition in symbol.defaults[:MOST_SHOWN]
        ]
        if not (selects or defaults):
            line = f"it has no prompt, {place}, and nothing selects it"
            return _Cause(Reason.INVISIBLE, [line])
        lines = [
            f"it has no prompt, {place}; others decide",
            *(line for line, _ in selects),
            *_how_many_more(selectors),
            *(line for line, _ in defaults),
        ]
        named = (other.name for _, symbols in (*selects, *defaults) for other in symbols)
        return _Cause(Reason.INVISIBLE, lines, frozenset(named))

    def _select(
        self, other: Any, condition: Expression, place: str, wanted: int
    ) -> tuple[str, list[Any]]:
        """Return a line about a select, and the symbols that decide whether it is in force."""
        needed = [other]
        if self._menus.level(condition) < wanted:
            needed += self._below(wanted, symbols_in(condition))
        values = ", ".join(dict.fromkeys(map(self._descriptions.shown, needed)))
        return f"selected by {other.name}, {place}: {values}", needed

    def _default(
        self, value: Expression, condition: Expression, wanted: int
    ) -> tuple[str, Sequence[Any]]:
        """Return a line about a default, and the symbols that decide it."""
        named = symbols_in((AND, value, condition))
        short = self._below(wanted, named) or named
        values = ", ".join(map(self._descriptions.shown, short[:MOST_SHOWN]))
        return f"default {as_text(value)}" + (f": {values}" if values else ""), named

    def _below(self, wanted: int, symbols: Iterable[Any]) -> list[Any]:
        return [symbol for symbol in symbols if self._menus.level(symbol) < wanted]

    def _higher_than(self, wanted: int, symbol: Any) -> _Cause:
        menus = self._menus
        forcing = [
            (other, place)
            for other, condition, place in menus.selectors(symbol)
            if min(menus.level(other), menus.level(condition)) > wanted
        ]
        if forcing:
            return self._selected(forcing)
        if symbol.choice is not None and self._winner(symbol) is None:
            others = [other.name for other in symbol.choice.syms if other is not symbol]
            place, some = self._place(symbol.choice), ", ".join(others[:MOST_SHOWN])
            line = f"ask for another of the choice at {place}: {some}"
            return _Cause(Reason.CHOICE_UNDECIDED, [line], frozenset(others))
        if wanted == 1 and menus.level(menus.modules) == 0:
            shown = self._descriptions.shown(menus.modules)
            return _Cause(Reason.NO_MODULES, [shown], frozenset({"MODULES"}))
        if not prompts(symbol):
            return self._raised_by_default(symbol, wanted)
        if menus.visibility(symbol) == 0:
            unmet = self._unmet(Reason.INVISIBLE, symbol, 1)
            lines = ["its default applies while it is invisible", *unmet.lines]
            return _Cause(Reason.INVISIBLE, lines, unmet.decided_by)
        return self._unexplained(symbol)

    def _selected(self, forcing: Sequence[tuple[Any, str]]) -> _Cause:
        lines = [
            f"{self._descriptions.shown(other)} selects it, {place}"
            for other, place in forcing[:MOST_SHOWN]
        ]
        lines += _how_many_more(forcing)
        return _Cause(Reason.SELECTED, lines, frozenset(other.name for other, _ in forcing))

    def _raised_by_default(self, symbol: Any, wanted: int) -> _Cause:
        menus = self._menus
        for value, condition in symbol.defaults:
            if min(menus.level(value), menus.level(condition)) > wanted:
                named = symbols_in((AND, value, condition))
                values = ", ".join(map(self._descriptions.shown, named[:MOST_SHOWN]))
                because = f" because {values}" if values else " always"
                lines = [
                    f"it has no prompt, {self._place(symbol)}",
                    f"by default it is {menus.value(symbol)}{because}",
                ]
                return _Cause(Reason.INVISIBLE, lines, frozenset(other.name for other in named))
        return self._unexplained(symbol)

    def _other_value(self, request: Requested, symbol: Any) -> _Cause:
        """Explain why a text or a number is not what was requested."""
        menus, place = self._menus, self._place(symbol)
        if menus.visibility(symbol) == 0:
            if not prompts(symbol):
                return _Cause(Reason.INVISIBLE, [f"it has no prompt, {place}"])
            return self._unmet(Reason.UNMET, symbol, 1)
        for low, high, condition in symbol.ranges:
            if menus.level(condition) and not _within(request.value, menus, low, high):
                bounds = f"{menus.value(low)} to {menus.value(high)}"
                line = f"{request.value} is not in the range {bounds}, {place}"
                return _Cause(Reason.RANGE, [line])
        return self._unexplained(symbol)

    def _unexplained(self, symbol: Any) -> _Cause:
        value = self._menus.value(symbol) or "empty"
        line = f"{self._place(symbol)}: nothing there says why it is {value}"
        return _Cause(Reason.UNEXPLAINED, [line])

    def _unmet(self, reason: Reason, symbol: Any, wanted: int) -> _Cause:
        return _Cause(reason, *self._descriptions.unmet_conditions(symbol, wanted))

    def _winner(self, symbol: Any) -> Any | None:
        """Return the other symbol that its choice has chosen."""
        if symbol.choice is None:
            return None
        members = (member for member in symbol.choice.syms if member is not symbol)
        return next((member for member in members if self._menus.value(member) == "y"), None)

    def _place(self, item: Any) -> str:
        return self._menus.places(item)[0]


def _how_many_more(entries: Sequence[Any]) -> list[str]:
    return [f"and {len(entries) - MOST_SHOWN} more"] if len(entries) > MOST_SHOWN else []


def _within(value: str, menus: Menus, low: Any, high: Any) -> bool:
    def number(text: str) -> int:
        return int(text, 16 if text.lower().startswith("0x") else 10)

    try:
        return number(menus.value(low)) <= number(value) <= number(menus.value(high))
    except ValueError:
        return True


def near_names(name: str, names: Iterable[str]) -> list[str]:
    """Return up to three symbols with similar names: a misspelling, or another prefix.

    Args:
        name: The symbol that does not exist.
        names: The symbols that exist.
    """
    known = list(names)
    near = difflib.get_close_matches(name, known, n=3, cutoff=0.8)
    ending = sorted(other for other in known if other.endswith(f"_{name}"))
    return list(dict.fromkeys([*near, *ending]))[:3]
