"""Why a symbol did not survive olddefconfig: the condition, the choice, the select, the type."""

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
from pytest_kernelvm.kernel.kconfig.menus import (
    LEVELS,
    TYPES,
    Condition,
    Menus,
    as_text,
    operands,
    prompts,
    symbols_in,
)
from pytest_kernelvm.kernel.kconfig.renames import DEPARTED

# Of long lists only this many are shown.
_SHOWN = 6


class Reason(enum.Enum):
    """Why a symbol was lost, the most basic first."""

    UNKNOWN = "no such symbol"
    DEPARTED = "no such symbol any more"
    ELSEWHERE = "not for this architecture"
    TYPE = "wrong type"
    RANGE = "out of range"
    UNMET = "unmet dependency"
    LIMITED = "limited to m"
    INVISIBLE = "cannot be set by hand"
    CHOICE = "lost a choice"
    NEEDED = "a choice needs a winner"
    SELECTED = "forced by select"
    RAISED = "raised to y"
    OTHERWISE = "conf decided otherwise"


_RANKS = {reason: rank for rank, reason in enumerate(Reason)}


@dataclass(frozen=True, kw_only=True, slots=True)
class Loss:
    """One request that the final .config does not honour, explained.

    got: the final value, n for a symbol that is not there. lines: the explanation.
    blamed: the symbols whose values decide it.
    """

    request: Requested
    got: str
    reason: Reason
    lines: tuple[str, ...]
    blamed: frozenset[str] = frozenset()


def explain_losses(
    lost: Sequence[Requested], menus: Menus, requests: Mapping[str, Requested], tree: Path
) -> tuple[Loss, ...]:
    """Return why requests were lost, the most basic cause first.

    lost: the requests, none honoured by `menus`. requests: all that was asked for, by symbol.
    tree: the kernel's source.
    """
    unknown = [request.name for request in lost if menus.symbol(request.name) is None]
    elsewhere = definitions(tree, unknown) if unknown else {}
    explainer = Explainer(menus, requests, elsewhere)
    return _basic_first([explainer.loss(request) for request in lost])


def _basic_first(losses: Sequence[Loss]) -> tuple[Loss, ...]:
    """Sort by how many lost symbols stand behind a loss, then by reason, then by name."""
    by_name = {loss.request.name: loss for loss in losses}

    def depth(loss: Loss, path: frozenset[str]) -> int:
        inner = path | {loss.request.name}
        behind = (by_name[name] for name in loss.blamed if name in by_name and name not in inner)
        return max((depth(other, inner) + 1 for other in behind), default=0)

    def rank(loss: Loss) -> tuple[int, int, str]:
        return depth(loss, frozenset()), _RANKS[loss.reason], loss.request.name

    return tuple(sorted(losses, key=rank))


def definitions(tree: Path, names: Iterable[str] | None = None) -> dict[str, str]:
    """Return where Kconfig files of a kernel tree define symbols: `file:line`, the first.

    names: only these, by default all.
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


class Explainer:
    """Puts into words why symbols are as they are.

    menus: with the values in question. requests: all that was asked for, by symbol.
    elsewhere: where symbols are defined that these Kconfig files lack.
    """

    def __init__(
        self, menus: Menus, requests: Mapping[str, Requested], elsewhere: Mapping[str, str]
    ) -> None:
        self.menus = menus
        self.requests = requests
        self.elsewhere = elsewhere

    def loss(self, request: Requested) -> Loss:
        """Return why a request was lost."""
        symbol = self.menus.symbol(request.name)
        got = self.menus.values.get(request.name, "n")
        if symbol is None:
            reason, lines, blamed = *self._unknown(request.name), frozenset[str]()
        else:
            reason, lines, blamed = self._known(request, symbol)
        return Loss(request=request, got=got, reason=reason, lines=tuple(lines), blamed=blamed)

    def _unknown(self, name: str) -> tuple[Reason, list[str]]:
        if name in self.elsewhere:
            place = self.elsewhere[name]
            return Reason.ELSEWHERE, [f"{place}, which defines it, is not read"]
        if name in DEPARTED:
            return Reason.DEPARTED, [str(DEPARTED[name])]
        near = near_names(name, self.menus.names)
        hint = f"did you mean {' or '.join(near)}?" if near else "no symbol has a similar name"
        return Reason.UNKNOWN, [hint]

    def _known(self, request: Requested, symbol: Any) -> tuple[Reason, list[str], frozenset[str]]:
        wrong = self._wrong_type(request, symbol)
        if wrong:
            return Reason.TYPE, [wrong], frozenset()
        if request.value in LEVELS and symbol.orig_type in (BOOL, TRISTATE):
            wanted = LEVELS.index(request.value)
            if self.menus.level(symbol) > wanted:
                return self._too_much(symbol, wanted)
            return self._too_little(symbol, wanted)
        return self._text(request, symbol)

    def _wrong_type(self, request: Requested, symbol: Any) -> str:
        kind, value = symbol.orig_type, request.value
        place = self.menus.places(symbol)[0]
        fits = {BOOL: ("n", "y"), TRISTATE: LEVELS}
        if kind in fits:
            if value in fits[kind]:
                return ""
            return (
                f"{TYPES[kind]} at {place}: may be {', '.join(reversed(fits[kind]))}, not {value}"
            )
        patterns = {
            STRING: (r'".*"|n', "a text in quotes"),
            INT: (r"-?[0-9]+", "a whole number"),
            HEX: (r"(?:0[xX])?[0-9a-fA-F]+", "a hexadecimal number"),
        }
        pattern, words = patterns.get(kind, (r".*", "anything"))
        if re.fullmatch(pattern, value):
            return ""
        return f"{TYPES.get(kind, 'untyped')} at {place}: needs {words}, not {value}"

    def _too_little(self, symbol: Any, wanted: int) -> tuple[Reason, list[str], frozenset[str]]:
        menus = self.menus
        if not prompts(symbol):
            return self._without_prompt(symbol, wanted)
        visible = menus.visibility(symbol)
        if visible < wanted:
            lines, blamed = self._unmet(symbol, wanted)
            reason = Reason.LIMITED if visible == 1 else Reason.UNMET
            return reason, lines, blamed
        winner = self._winner(symbol)
        if winner:
            lines = [f"{self.shown(winner)} won the choice at {menus.places(symbol.choice)[0]}"]
            return Reason.CHOICE, lines, frozenset({winner.name})
        return self._otherwise(symbol)

    def _winner(self, symbol: Any) -> Any | None:
        if symbol.choice is None:
            return None
        members = (member for member in symbol.choice.syms if member is not symbol)
        return next((member for member in members if self.menus.value(member) == "y"), None)

    def _too_much(self, symbol: Any, wanted: int) -> tuple[Reason, list[str], frozenset[str]]:
        menus = self.menus
        forcing = [
            (other, condition, place)
            for other, condition, place in menus.selectors(symbol)
            if min(menus.level(other), menus.level(condition)) > wanted
        ]
        if forcing:
            lines = [
                f"{self.shown(other)} selects it, {place}" for other, _, place in forcing[:_SHOWN]
            ]
            lines += _rest(forcing)
            return Reason.SELECTED, lines, frozenset(other.name for other, _, _ in forcing)
        if symbol.choice is not None and self._winner(symbol) is None:
            place = menus.places(symbol.choice)[0]
            others = [other.name for other in symbol.choice.syms if other is not symbol]
            line = f"ask for another of the choice at {place}: {', '.join(others[:_SHOWN])}"
            return Reason.NEEDED, [line], frozenset(others)
        if wanted == 1 and menus.level(menus.modules) == 0:
            return Reason.RAISED, [f"{self.shown(menus.modules)}"], frozenset({"MODULES"})
        if not prompts(symbol):
            return self._by_default(symbol, wanted)
        visible = menus.visibility(symbol)
        if visible == 0:
            lines, blamed = self._unmet(symbol, 1)
            return Reason.INVISIBLE, ["its default applies while it is invisible", *lines], blamed
        return self._otherwise(symbol)

    def _by_default(self, symbol: Any, wanted: int) -> tuple[Reason, list[str], frozenset[str]]:
        menus = self.menus
        for value, condition in symbol.defaults:
            if min(menus.level(value), menus.level(condition)) > wanted:
                named = symbols_in((AND, value, condition))
                values = ", ".join(self.shown(other) for other in named[:_SHOWN])
                because = f" because {values}" if values else " always"
                place = menus.places(symbol)[0]
                lines = [
                    f"it has no prompt, {place}",
                    f"by default it is {menus.value(symbol)}{because}",
                ]
                return Reason.INVISIBLE, lines, frozenset(other.name for other in named)
        return self._otherwise(symbol)

    def _without_prompt(self, symbol: Any, wanted: int) -> tuple[Reason, list[str], frozenset[str]]:
        menus = self.menus
        lines = [f"it has no prompt, {menus.places(symbol)[0]}; others decide"]
        blamed: set[str] = set()
        selectors = menus.selectors(symbol)
        for other, condition, place in selectors[:_SHOWN]:
            needed = [other]
            if menus.level(condition) < wanted:
                needed += [each for each in symbols_in(condition) if menus.level(each) < wanted]
            blamed.update(named.name for named in needed)
            values = ", ".join(dict.fromkeys(self.shown(named) for named in needed))
            lines.append(f"selected by {other.name}, {place}: {values}")
        lines += _rest(selectors)
        for value, condition in symbol.defaults[:_SHOWN]:
            named = symbols_in((AND, value, condition))
            blamed.update(other.name for other in named)
            short = [other for other in named if menus.level(other) < wanted] or list(named)
            values = ", ".join(self.shown(other) for other in short[:_SHOWN])
            lines.append(f"default {as_text(value)}" + (f": {values}" if values else ""))
        if len(lines) == 1:
            lines = [f"it has no prompt, {menus.places(symbol)[0]}, and nothing selects it"]
        return Reason.INVISIBLE, lines, frozenset(blamed)

    def _text(self, request: Requested, symbol: Any) -> tuple[Reason, list[str], frozenset[str]]:
        menus = self.menus
        if menus.visibility(symbol) == 0:
            if not prompts(symbol):
                place = menus.places(symbol)[0]
                return Reason.INVISIBLE, [f"it has no prompt, {place}"], frozenset()
            lines, blamed = self._unmet(symbol, 1)
            return Reason.UNMET, lines, blamed
        for low, high, condition in symbol.ranges:
            if menus.level(condition) and not _within(request.value, menus, low, high):
                bounds = f"{menus.value(low)} to {menus.value(high)}"
                line = f"{request.value} is not in the range {bounds}, {menus.places(symbol)[0]}"
                return Reason.RANGE, [line], frozenset()
        return self._otherwise(symbol)

    def _otherwise(self, symbol: Any) -> tuple[Reason, list[str], frozenset[str]]:
        place = self.menus.places(symbol)[0]
        line = f"{place}: nothing there says why it is {self.menus.value(symbol) or 'empty'}"
        return Reason.OTHERWISE, [line], frozenset()

    def _unmet(self, symbol: Any, wanted: int) -> tuple[list[str], frozenset[str]]:
        """Return the conditions that keep a prompt from sight, of the node that lacks least."""
        lacking = [self._lacking(node, wanted) for node in prompts(symbol)]
        fewest = min(lacking, key=len)
        parts: dict[str, tuple[Condition, Any]] = {}
        for each in fewest:
            for part in self._failing(each.expression, wanted):
                parts.setdefault(as_text(part), (each, part))
        return self._aligned(parts)

    def _aligned(
        self, parts: Mapping[str, tuple[Condition, Any]]
    ) -> tuple[list[str], frozenset[str]]:
        """Return a line for each condition, and the symbols in them."""
        texts = [f"{each.words} {text}" for text, (each, _) in parts.items()]
        width = min(max(map(len, texts), default=0), 50)
        lines = []
        blamed: set[str] = set()
        for text, (each, part) in zip(texts, parts.values(), strict=True):
            named = symbols_in(part)
            blamed.update(other.name for other in named)
            values = ", ".join(self.shown(other) for other in named[:_SHOWN])
            lines.append(f"{text:{width}}  {each.place}: {values}")
        return lines, frozenset(blamed)

    def _lacking(self, node: Any, wanted: int) -> list[Condition]:
        needed = 1 if node.item.orig_type != TRISTATE else wanted
        conditions = self.menus.conditions(node)
        return [each for each in conditions if self.menus.level(each.expression) < needed]

    def _failing(self, expression: Any, wanted: int) -> list[Any]:
        """Return the parts of a conjunction that are less than wanted; an m && MODULES as one."""
        parts = [
            part for part in operands(expression, AND) if self.menus.level(part) < max(wanted, 1)
        ]
        return parts or [expression]

    def conditions(self, symbol: Any) -> list[str]:
        """Return all lines that limit a symbol's prompts, with the values that decide them."""
        conditions = [each for node in prompts(symbol) for each in self.menus.conditions(node)]
        return self._aligned(
            {as_text(each.expression): (each, each.expression) for each in reversed(conditions)}
        )[0]

    def shown(self, symbol: Any) -> str:
        """Return a symbol with its value and, if somebody asked for just that, who."""
        name = symbol.name
        if not symbol.nodes:
            return f"{name} is defined nowhere"
        value = self.menus.value(symbol)
        shown = f"{name}={value}" if symbol.orig_type in (BOOL, TRISTATE) else f'{name}="{value}"'
        request = self.requests.get(name)
        if request is None:
            return shown
        if request.value == self.menus.values.get(name, "n"):
            return f"{shown} (asked for: {request.where})"
        return f"{shown} (itself lost)"


def _rest(shown: Sequence[Any]) -> list[str]:
    return [f"and {len(shown) - _SHOWN} more"] if len(shown) > _SHOWN else []


def _within(value: str, menus: Menus, low: Any, high: Any) -> bool:
    def number(text: str) -> int:
        return int(text, 16 if text.lower().startswith("0x") else 10)

    try:
        return number(menus.value(low)) <= number(value) <= number(menus.value(high))
    except ValueError:
        return True


def near_names(name: str, names: Iterable[str]) -> list[str]:
    """Return up to three symbols whose names are like one: misspelt, or with other prefixes."""
    known = list(names)
    near = difflib.get_close_matches(name, known, n=3, cutoff=0.8)
    ending = sorted(other for other in known if other.endswith(f"_{name}"))
    return list(dict.fromkeys([*near, *ending]))[:3]
