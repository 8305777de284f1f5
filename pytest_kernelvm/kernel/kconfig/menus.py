"""The Kconfig files of a kernel, parsed by Kconfiglib. It explains; the kernel's conf decides.

Values come from a .config that conf wrote, never from Kconfiglib's own calculation. Kconfiglib
14.1.0 is from 2020: newer syntax of the language is rewritten for it.
"""

from __future__ import annotations

import contextlib
import os
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import kconfiglib
from kconfiglib import AND, BOOL, EQUAL, HEX, INT, NOT, OR, STRING, TRISTATE, Choice, Symbol

from pytest_kernelvm.errors import HarnessError
from pytest_kernelvm.kernel.kconfig import shell_cache

TYPES = {BOOL: "bool", TRISTATE: "tristate", STRING: "string", INT: "int", HEX: "hex"}
LEVELS = ("n", "m", "y")

# An expression as Kconfiglib has it: a symbol, a choice, or a tuple of an operator and operands.
Expression = Any

_MODULES_LINE = re.compile(r"\s*modules\s*(?:#.*)?")
_TRANSITIONAL_LINE = re.compile(r"\s*transitional\s*(?:#.*)?")
_DEPENDS_IF_LINE = re.compile(r"(\s*depends\s+on\s+)([^\"'#]+?)\s+if\s+([^#]+?)\s*(?:#.*)?")


@dataclass(frozen=True, kw_only=True, slots=True)
class Condition:
    """One line that limits what it stands in or around.

    Attributes:
        words: How it begins, such as `depends on`.
        expression: The condition.
        place: `file:line`, relative to the source.
    """

    words: str
    expression: Expression
    place: str


class _Parser(kconfiglib.Kconfig):  # type: ignore[misc]
    """Kconfiglib, made to understand newer lines and to keep where each condition stands."""

    def __init__(self, file: str) -> None:
        self.conditions: dict[Any, list[Condition]] = {}
        self.enclosing: dict[Any, Any] = {}
        self._owner: Any = None
        self._last: Expression = None
        with contextlib.ExitStack() as self._opened:
            super().__init__(file, warn=False)
        self.selecting: dict[Any, list[Any]] = {}
        for symbol in self.unique_defined_syms:
            for chosen in dict.fromkeys(chosen for chosen, _ in symbol.selects):
                self.selecting.setdefault(chosen, []).append(symbol)

    def _open(self, filename: str, mode: str) -> Any:
        # After an error Kconfiglib leaves files open.
        return self._opened.enter_context(super()._open(filename, mode))

    def _tokenize(self, s: str) -> Any:
        return super()._tokenize(for_kconfiglib(s))

    def _parse_props(self, node: Any) -> None:
        self.enclosing[node] = node.parent
        self._owner = node
        super()._parse_props(node)
        self._owner = None

    def _parse_block(self, end_token: Any, parent: Any, prev: Any) -> Any:
        # An `if` block is the only one whose node has no item; its line was the last one parsed.
        if parent is not None and parent.item is None and parent not in self.enclosing:
            self.enclosing[parent] = parent.parent
            self._note(parent, "if", self._last)
        return super()._parse_block(end_token, parent, prev)

    def _expect_expr_and_eol(self) -> Expression:
        self._last = super()._expect_expr_and_eol()
        if self._owner is not None:
            self._note(self._owner, " ".join(self._line.split()[:2]), self._last)
        return self._last

    def _parse_prompt(self, node: Any) -> None:
        super()._parse_prompt(node)
        if node.prompt[1] is not self.y:
            self._note(node, "prompt if", node.prompt[1])

    def _note(self, node: Any, words: str, expression: Expression) -> None:
        condition = Condition(
            words=words, expression=expression, place=f"{self.filename}:{self.linenr}"
        )
        self.conditions.setdefault(node, []).append(condition)


def for_kconfiglib(line: str) -> str:
    """Return a Kconfig line in the syntax of 2020.

    `modules` stood behind `option` until v5.14; `transitional` came in v6.18, `depends on X if Y`
    in v7.0 (Documentation/kbuild/kconfig-language.rst).

    Args:
        line: With its newline, if it has one.
    """
    text = line.rstrip("\n")
    if _MODULES_LINE.fullmatch(text):
        return "\toption modules\n"
    if _TRANSITIONAL_LINE.fullmatch(text):
        return "\n"
    if found := _DEPENDS_IF_LINE.fullmatch(text):
        return f"{found[1]}({found[2]}) || !({found[3]})\n"
    return line


@contextlib.contextmanager
def _environment(variables: Mapping[str, str]) -> Iterator[None]:
    """Give this process the environment of a kernel's make: Kconfiglib reads no other."""
    before = dict(os.environ)
    try:
        os.environ.clear()
        os.environ.update(variables)
        os.environ["KCONFIG_FUNCTIONS"] = shell_cache.__name__
        yield
    finally:
        os.environ.clear()
        os.environ.update(before)


class Menus:
    """The Kconfig files of a kernel, and the values of one configuration.

    Attributes:
        values: The values of the final .config, by symbol.
    """

    def __init__(self, parser: _Parser, values: Mapping[str, str]) -> None:
        """Take the values; see `parse`.

        Args:
            parser: The parsed files.
            values: The values of the final .config, by symbol.
        """
        self._parser = parser
        self.values = dict(values)

    @classmethod
    def parse(
        cls, file: str, *, environment: Mapping[str, str], values: Mapping[str, str]
    ) -> Menus:
        """Parse a Kconfig file and all files that it sources.

        Args:
            file: Relative to `srctree`.
            environment: All variables that conf would see.
            values: The values of the final .config, by symbol.

        Returns:
            The parsed files with the values.

        Raises:
            HarnessError: Where Kconfiglib fails; that is never a fault of the kernel.
        """
        try:
            with _environment(environment):
                parser = _Parser(file)
        # Kconfiglib may fail in any way on Kconfig files of the future.
        except (kconfiglib.KconfigError, OSError, RecursionError, AttributeError) as error:
            said = " ".join(str(error).split())
            raise HarnessError(f"Kconfiglib cannot parse {file}: {said}") from None
        return cls(parser, values)

    def with_values(self, values: Mapping[str, str]) -> Menus:
        """Return the same files with other values.

        Args:
            values: As `parse_config` returns them.
        """
        return Menus(self._parser, values)

    @property
    def modules(self) -> Any:
        """The symbol that enables modules."""
        return self._parser.modules

    @property
    def names(self) -> frozenset[str]:
        """The names of all symbols that are defined."""
        return frozenset(symbol.name for symbol in self._parser.unique_defined_syms)

    def symbol(self, name: str) -> Any | None:
        """Return the symbol of a name, None if no file defines it.

        Args:
            name: Without CONFIG_.
        """
        found = self._parser.syms.get(name)
        return found if found is not None and found.nodes else None

    def value(self, item: Any) -> str:
        """Return what a symbol, constant or choice is: y, m, n, or a text without quotes.

        Args:
            item: A kconfiglib.Symbol or kconfiglib.Choice.
        """
        if isinstance(item, Choice):
            return LEVELS[max((self.level(node.prompt[1]) for node in _prompts(item)), default=2)]
        if item.is_constant:
            return str(item.name)
        if not item.nodes:
            # An undefined symbol is n in logic and its own name in a comparison.
            return str(item.name)
        value = self.values.get(item.name, "n" if item.orig_type in (BOOL, TRISTATE) else "")
        return _unquoted(value)

    def level(self, expression: Expression) -> int:
        """Return the value of an expression: 0 for n, 1 for m, 2 for y.

        Args:
            expression: As Kconfiglib has it: a symbol, a choice, or a tuple of an operator and
                operands.
        """
        if not isinstance(expression, tuple):
            value = self.value(expression)
            return LEVELS.index(value) if value in LEVELS else 0
        operator = expression[0]
        if operator == AND:
            return min(self.level(expression[1]), self.level(expression[2]))
        if operator == OR:
            return max(self.level(expression[1]), self.level(expression[2]))
        if operator == NOT:
            return 2 - self.level(expression[1])
        return 2 if _compared(operator, *map(self.value, expression[1:])) else 0

    def conditions(self, node: Any) -> tuple[Condition, ...]:
        """Return what limits the prompt of a node: its own lines, then those around it.

        Args:
            node: A kconfiglib.MenuNode.
        """
        found: list[Condition] = []
        while node is not None:
            found.extend(self._parser.conditions.get(node, ()))
            node = self._parser.enclosing.get(node, node.parent)
        return tuple(found)

    def visibility(self, item: Any) -> int:
        """Return up to which value a user may set a symbol or choice: 0, 1 for m or 2 for y.

        It is 0 for an item without a prompt.

        Args:
            item: A kconfiglib.Symbol or kconfiglib.Choice.
        """
        return max((self._visible(node) for node in _prompts(item)), default=0)

    def _visible(self, node: Any) -> int:
        level = min((self.level(each.expression) for each in self.conditions(node)), default=2)
        is_bool = node.item.orig_type == BOOL
        return 2 if level == 1 and is_bool else level

    def selectors(self, symbol: Any) -> tuple[tuple[Any, Expression, str], ...]:
        """Return what may select a symbol: the other symbol, the condition, its `file:line`.

        Args:
            symbol: A kconfiglib.Symbol.
        """
        return tuple(
            (other, condition, f"{node.filename}:{node.linenr}")
            for other in self._parser.selecting.get(symbol, ())
            for node in other.nodes
            for chosen, condition in node.selects
            if chosen is symbol
        )

    def places(self, item: Any) -> tuple[str, ...]:
        """Return the `file:line` of each definition of an item.

        Args:
            item: A kconfiglib.Symbol or kconfiglib.Choice.
        """
        return tuple(f"{node.filename}:{node.linenr}" for node in item.nodes)


def _prompts(item: Any) -> list[Any]:
    return [node for node in item.nodes if node.prompt]


def prompts(item: Any) -> tuple[Any, ...]:
    """Return the nodes of an item that have a prompt.

    Args:
        item: A kconfiglib.Symbol or kconfiglib.Choice.
    """
    return tuple(_prompts(item))


def operands(expression: Expression, operator: int) -> list[Expression]:
    """Return what an operator joins: [a, b, c] for (a && b) && c.

    Args:
        expression: As Kconfiglib has it.
        operator: kconfiglib.AND or kconfiglib.OR.
    """
    return list(kconfiglib.split_expr(expression, operator))


def symbols_in(expression: Expression) -> tuple[Any, ...]:
    """Return the symbols in an expression that are no constants, in their order.

    Args:
        expression: As Kconfiglib stores it: a symbol, or a tuple of operator and operands.
    """
    if not isinstance(expression, tuple):
        named = isinstance(expression, Symbol) and not expression.is_constant
        return (expression,) if named else ()
    inner = [symbols_in(part) for part in expression[1:]]
    return tuple(dict.fromkeys(symbol for part in inner for symbol in part))


def as_text(expression: Expression) -> str:
    """Return an expression as a Kconfig file writes it.

    Args:
        expression: As Kconfiglib stores it: a symbol, or a tuple of operator and operands.
    """
    return str(kconfiglib.expr_str(expression))


def _unquoted(value: str) -> str:
    if value.startswith('"'):
        return re.sub(r"\\(.)", r"\1", value[1:-1])
    return value


def _compared(operator: int, left: str, right: str) -> bool:
    # As expr_calc_value() does: as numbers if both are numbers, else as texts.
    numbers = _number(left), _number(right)
    order: int
    if None not in numbers:
        order = (numbers[0] > numbers[1]) - (numbers[0] < numbers[1])  # type: ignore[operator]
    else:
        order = (left > right) - (left < right)
    return {
        EQUAL: order == 0,
        kconfiglib.UNEQUAL: order != 0,
        kconfiglib.LESS: order < 0,
        kconfiglib.LESS_EQUAL: order <= 0,
        kconfiglib.GREATER: order > 0,
        kconfiglib.GREATER_EQUAL: order >= 0,
    }[operator]


def _number(text: str) -> int | None:
    try:
        return int(text, 16 if text.lower().startswith("0x") else 10)
    except ValueError:
        return None
