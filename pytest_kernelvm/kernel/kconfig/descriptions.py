"""Symbols and the conditions of their prompts in words, with the values that decide them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from kconfiglib import AND, BOOL, TRISTATE

from pytest_kernelvm.config.requests import Requested
from pytest_kernelvm.kernel.kconfig.menus import (
    Condition,
    Menus,
    as_text,
    operands,
    prompts,
    symbols_in,
)

# Of long lists only this many entries are shown.
MOST_SHOWN = 6
# Texts of conditions are padded up to this width.
_WIDEST = 50

# The text of a part of a condition → that condition, and the part.
_Parts = Mapping[str, tuple[Condition, Any]]


class SymbolDescriptions:
    """Describes symbols as they are in one configuration.

    Attributes:
        menus: The Kconfig files, with the values of the configuration.
    """

    def __init__(self, menus: Menus, requests: Mapping[str, Requested]) -> None:
        """Describe nothing yet.

        Args:
            menus: With the values of the configuration.
            requests: All that was requested, by symbol.
        """
        self.menus = menus
        self._requests = requests

    def shown(self, symbol: Any) -> str:
        """Return a symbol with its value, and where this value was requested, if it was.

        Args:
            symbol: A kconfiglib.Symbol.
        """
        name = symbol.name
        if not symbol.nodes:
            return f"{name} is defined nowhere"
        value = self.menus.value(symbol)
        shown = f"{name}={value}" if symbol.orig_type in (BOOL, TRISTATE) else f'{name}="{value}"'
        request = self._requests.get(name)
        if request is None:
            return shown
        if request.value == self.menus.values.get(name, "n"):
            return f"{shown} (asked for: {request.where})"
        return f"{shown} (itself lost)"

    def conditions(self, symbol: Any) -> list[str]:
        """Return a line for each condition that limits a prompt of a symbol.

        Args:
            symbol: One of Kconfiglib's.
        """
        conditions = [each for node in prompts(symbol) for each in self.menus.conditions(node)]
        return self._lines(
            {as_text(each.expression): (each, each.expression) for each in reversed(conditions)}
        )

    def unmet_conditions(self, symbol: Any, wanted: int) -> tuple[list[str], frozenset[str]]:
        """Describe why a symbol is not visible enough.

        Args:
            symbol: One with prompts. Of several, that with the fewest unmet conditions counts.
            wanted: The value that it is to get: 1 for m, 2 for y.

        Returns:
            A line for each unmet condition, and the names of the symbols in them.
        """
        unmet = min((self._unmet(node, wanted) for node in prompts(symbol)), key=len)
        parts: dict[str, tuple[Condition, Any]] = {}
        for condition in unmet:
            for part in self._failing_parts(condition.expression, wanted):
                parts.setdefault(as_text(part), (condition, part))
        named = {other.name for _, part in parts.values() for other in symbols_in(part)}
        return self._lines(parts), frozenset(named)

    def _unmet(self, node: Any, wanted: int) -> list[Condition]:
        needed = 1 if node.item.orig_type != TRISTATE else wanted
        conditions = self.menus.conditions(node)
        return [each for each in conditions if self.menus.level(each.expression) < needed]

    def _failing_parts(self, expression: Any, wanted: int) -> list[Any]:
        """Return the parts of a conjunction that are less than wanted.

        Where only the parts together are less, as in `m && MODULES`, that is the whole.
        """
        parts = [
            part for part in operands(expression, AND) if self.menus.level(part) < max(wanted, 1)
        ]
        return parts or [expression]

    def _lines(self, parts: _Parts) -> list[str]:
        texts = [f"{condition.words} {text}" for text, (condition, _) in parts.items()]
        width = min(max(map(len, texts), default=0), _WIDEST)
        lines = []
        for text, (condition, part) in zip(texts, parts.values(), strict=True):
            values = ", ".join(self.shown(other) for other in symbols_in(part)[:MOST_SHOWN])
            lines.append(f"{text:{width}}  {condition.place}: {values}")
        return lines
