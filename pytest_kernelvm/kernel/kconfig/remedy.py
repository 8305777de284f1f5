"""What else to request, so that lost symbols survive: searched here, proved by olddefconfig."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from kconfiglib import AND, BOOL, EQUAL, NOT, OR, TRISTATE, UNEQUAL, Choice

from pytest_kernelvm.config.requests import Requested
from pytest_kernelvm.kernel.kconfig.dot_config import same_value
from pytest_kernelvm.kernel.kconfig.losses import Loss, Reason
from pytest_kernelvm.kernel.kconfig.menus import LEVELS, Expression, Menus, prompts

# Takes requested symbols and their values, and returns the final configuration.
Olddefconfig = Callable[[Mapping[str, str]], Mapping[str, str]]

# One way to a goal: the symbols to request, with their values.
Way = frozenset[tuple[str, str]]

_NOTHING: Way = frozenset()

# Bounds of the search. A dependency seldom has more than three alternatives or is ten deep.
_WAYS = 6
_DEPTH = 14
_STEPS = 20_000
_ROUNDS = 4
_TRIALS = 12

# Losses that more requested symbols can undo.
_FIXABLE = frozenset(
    {Reason.UNMET, Reason.LIMITED, Reason.INVISIBLE, Reason.SELECTED, Reason.NO_MODULES}
)


@dataclass(frozen=True, kw_only=True, slots=True)
class Remedy:
    """Symbols to request in addition.

    Attributes:
        extra: Their values.
        saved: The lost symbols that olddefconfig then keeps, as a trial has shown.
    """

    extra: Mapping[str, str]
    saved: tuple[str, ...]


def find_remedy(
    losses: Sequence[Loss],
    menus: Menus,
    requests: Mapping[str, Requested],
    olddefconfig: Olddefconfig,
) -> Remedy | None:
    """Return the fewest symbols found that save lost ones; None if none can be saved.

    Args:
        losses: What was lost, most basic first.
        menus: The Kconfig files, with the values that lost them.
        requests: All that was requested, by symbol.
        olddefconfig: Runs olddefconfig with some values.
    """
    trials = _Trials(
        requested={name: request.value for name, request in requests.items()},
        lost={loss.request.name for loss in losses},
        menus=menus,
        olddefconfig=olddefconfig,
    )
    before = set(trials.lost)
    for _ in range(_ROUNDS):
        if not trials.lost or not trials.improve(losses):
            break
    else:
        return trials.remedy(before)
    # All at once may cost other requests: then try each by itself.
    for loss in losses[:_TRIALS]:
        if loss.request.name in trials.lost and len(losses) > 1:
            trials.improve([loss])
    return trials.remedy(before)


class _Trials:
    """Extra requests so far, all of which olddefconfig was seen to keep."""

    def __init__(
        self,
        *,
        requested: Mapping[str, str],
        lost: set[str],
        menus: Menus,
        olddefconfig: Olddefconfig,
    ) -> None:
        self.requested = requested
        self.lost = lost
        self.menus = menus
        self.olddefconfig = olddefconfig
        self.extra: dict[str, str] = {}

    def improve(self, losses: Sequence[Loss]) -> bool:
        """Try to save some losses; return whether fewer are lost now, and none that was not."""
        added = _search_all(losses, self.lost, self.menus, {**self.requested, **self.extra})
        if not added:
            return False
        extra = self.extra | added
        final = self.olddefconfig({**self.requested, **extra})
        still = _lost(self.requested, final)
        if not still < self.lost:
            return False
        self.extra, self.lost, self.menus = extra, still, self.menus.with_values(final)
        return True

    def remedy(self, before: set[str]) -> Remedy | None:
        """Return what saves some of the symbols lost before, without what is not needed for it."""
        if not self.extra:
            return None
        extra = _fewest(self.extra, self.requested, self.lost, self.olddefconfig)
        return Remedy(extra=dict(sorted(extra.items())), saved=tuple(sorted(before - self.lost)))


def _lost(requested: Mapping[str, str], final: Mapping[str, str]) -> set[str]:
    return {
        name for name, value in requested.items() if not same_value(value, final.get(name, "n"))
    }


def _search_all(
    losses: Sequence[Loss], lost: Iterable[str], menus: Menus, requested: Mapping[str, str]
) -> dict[str, str]:
    """Return symbols for all fixable losses, each search building on those before."""
    added: dict[str, str] = {}
    still = set(lost)
    for loss in losses:
        name = loss.request.name
        if name not in still or loss.reason not in _FIXABLE:
            continue
        ways = ways_to(menus, {**requested, **added}, loss.request)
        if ways:
            best = ways[0]
            added |= best
            menus = menus.with_values({**menus.values, **best, name: loss.request.value})
    return added


def _fewest(
    extra: dict[str, str], requested: Mapping[str, str], lost: set[str], olddefconfig: Olddefconfig
) -> dict[str, str]:
    """Return the extra symbols without those that are not needed, one trial each."""
    for name in sorted(extra)[:_TRIALS]:
        if len(extra) == 1:
            break
        fewer = {other: value for other, value in extra.items() if other != name}
        if _lost(requested, olddefconfig({**requested, **fewer})) <= lost:
            extra = fewer
    return extra


def ways_to(menus: Menus, requested: Mapping[str, str], request: Requested) -> list[dict[str, str]]:
    """Return sets of symbols that may make a request hold, the smallest first.

    They are found in the Kconfig files; whether conf agrees is not tried.

    Args:
        menus: The Kconfig files with their current values.
        requested: What must keep its value, by symbol.
        request: What is to hold.
    """
    return [dict(way) for way in _Search(menus, requested).ways(request)]


class _Search:
    """A backward search through dependencies that changes no requested value."""

    def __init__(self, menus: Menus, requested: Mapping[str, str]) -> None:
        self.menus = menus
        self.requested = requested
        self.steps = 0

    def ways(self, request: Requested) -> list[Way]:
        symbol = self.menus.symbol(request.name)
        if symbol is None:
            return []
        path = frozenset({symbol})
        if symbol.orig_type not in (BOOL, TRISTATE):
            return self._visible(symbol, 1, path)
        wanted = LEVELS.index(request.value) if request.value in LEVELS else 0
        if self.menus.level(symbol) > wanted:
            return self._not_forced(symbol, wanted, path)
        return self._obtained(symbol, wanted, path)

    def _visible(self, symbol: Any, wanted: int, path: frozenset[Any]) -> list[Way]:
        """Ways to let a symbol be set by hand; a bool may be set where its conditions are m."""
        needed = wanted if symbol.orig_type == TRISTATE else 1
        return _shortest(
            way
            for node in prompts(symbol)
            for way in self._all(
                [
                    self._at_least(each.expression, needed, path)
                    for each in self.menus.conditions(node)
                ]
            )
        )

    def _obtained(self, symbol: Any, wanted: int, path: frozenset[Any]) -> list[Way]:
        """Ways to raise a symbol: by hand, by a select, by a default."""
        level = wanted if symbol.orig_type == TRISTATE else 1
        by_prompt = self._visible(symbol, wanted, path) if self._free(symbol, wanted) else []
        value = LEVELS[wanted] if symbol.orig_type == TRISTATE else "y"
        ways = [way | self._setting(symbol, value) for way in by_prompt]
        shortest = min(map(len, ways), default=_STEPS)
        for other, condition, _ in self.menus.selectors(symbol):
            selected = self._all(
                [self._at_least(other, level, path), self._at_least(condition, level, path)]
            )
            # It is better to request a symbol by its name than through another one.
            ways += [way for way in selected if len(way) < shortest]
        if not prompts(symbol):
            for default, condition in symbol.defaults:
                ways += self._at_least((AND, default, condition), level, path)
        return _shortest(ways)

    def _not_forced(self, symbol: Any, most: int, path: frozenset[Any]) -> list[Way]:
        """Ways to lower a symbol: what selects it has to go, and then it, or its default."""
        menus = self.menus
        selecting = [
            (AND, other, condition)
            for other, condition, _ in menus.selectors(symbol)
            if min(menus.level(other), menus.level(condition)) > most
        ]
        freed = self._all([self._at_most(each, most, path) for each in selecting])
        setting = self._setting(symbol, LEVELS[most])
        ways = [
            way | setting for way in self._all([freed, self._visible(symbol, max(most, 1), path)])
        ]
        if menus.visibility(symbol) == 0:
            defaults = [
                (AND, value, condition)
                for value, condition in symbol.defaults
                if min(menus.level(value), menus.level(condition)) > most
            ]
            unset = [self._at_most(each, most, path) for each in defaults]
            ways += self._all([freed, *unset])
        return _shortest(ways)

    def _free(self, symbol: Any, wanted: int) -> bool:
        """Whether no lower value was requested, nor another symbol of the same choice."""
        value = self.requested.get(symbol.name)
        if value is not None and value in LEVELS and LEVELS.index(value) < wanted:
            return False
        rivals = symbol.choice.syms if symbol.choice is not None else ()
        return not any(
            self.requested.get(other.name) == "y" for other in rivals if other is not symbol
        )

    def _setting(self, symbol: Any, value: str) -> Way:
        return _NOTHING if symbol.name in self.requested else frozenset({(symbol.name, value)})

    def _at_least(self, expression: Expression, wanted: int, path: frozenset[Any]) -> list[Way]:
        if self.menus.level(expression) >= wanted:
            return [_NOTHING]
        if self._is_too_far(path):
            return []
        if isinstance(expression, tuple):
            return self._operation_at_least(expression, wanted, path)
        if isinstance(expression, Choice):
            return _shortest(
                way
                for node in prompts(expression)
                for way in self._at_least(node.prompt[1], 1, path)
            )
        if expression in path or expression.is_constant or not expression.nodes:
            return []
        if expression.orig_type not in (BOOL, TRISTATE):
            return []
        return self._obtained(expression, wanted, path | {expression})

    def _operation_at_least(
        self, expression: Expression, wanted: int, path: frozenset[Any]
    ) -> list[Way]:
        operator, left = expression[0], expression[1]
        if operator == NOT:
            return self._at_most(left, 2 - wanted, path)
        right = expression[2]
        if operator == AND:
            return self._all(
                [
                    self._at_least(left, wanted, path),
                    self._at_least(right, wanted, path),
                ]
            )
        if operator == OR:
            return _shortest(
                [
                    *self._at_least(left, wanted, path),
                    *self._at_least(right, wanted, path),
                ]
            )
        if operator in (EQUAL, UNEQUAL) and right.is_constant and right.name in LEVELS:
            level = LEVELS.index(right.name)
            if (operator == EQUAL) == (level > 0):
                return self._at_least(left, max(level, 1), path)
            return self._at_most(left, 0 if operator == EQUAL else 1, path)
        return []

    def _at_most(self, expression: Expression, most: int, path: frozenset[Any]) -> list[Way]:
        if self.menus.level(expression) <= most:
            return [_NOTHING]
        if self._is_too_far(path):
            return []
        if isinstance(expression, tuple):
            return self._operation_at_most(expression, most, path)
        if isinstance(expression, Choice) or expression.is_constant or expression in path:
            return []
        value = self.requested.get(expression.name, "n")
        if expression.choice is not None or (value in LEVELS and LEVELS.index(value) > most):
            return []
        return self._not_forced(expression, most, path | {expression})

    def _operation_at_most(
        self, expression: Expression, most: int, path: frozenset[Any]
    ) -> list[Way]:
        operator = expression[0]
        if operator == NOT:
            return self._at_least(expression[1], 2 - most, path)
        if operator not in (AND, OR):
            return []
        left, right = (self._at_most(side, most, path) for side in expression[1:])
        return _shortest([*left, *right]) if operator == AND else self._all([left, right])

    def _is_too_far(self, path: frozenset[Any]) -> bool:
        """Count a step of the search; return whether it has to end here."""
        self.steps += 1
        return self.steps > _STEPS or len(path) > _DEPTH

    def _all(self, goals: Sequence[Sequence[Way]]) -> list[Way]:
        """Ways to reach all goals at once: one way to each, none contradicting another."""
        found: list[Way] = [_NOTHING]
        for ways in goals:
            joined = (one | other for one, other in itertools.product(found, ways))
            found = _shortest(way for way in joined if len(dict(way)) == len(way))
            if not found:
                return []
        return found


def _shortest(ways: Iterable[Way]) -> list[Way]:
    return sorted(dict.fromkeys(ways), key=lambda way: (len(way), sorted(way)))[:_WAYS]
