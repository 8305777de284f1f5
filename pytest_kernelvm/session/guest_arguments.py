"""How an argument of a guest request is described, checked and given on a command line."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

Check = Callable[[str, Any], Any]


@dataclass(frozen=True, kw_only=True, slots=True)
class CommandLineOption:
    """How `kernelvm boot` and `kernelvm argv` take an argument.

    Attributes:
        flag: The option.
        metavar: What stands for its value in the help text; empty where `choices` do, and for a
            flag without a value, which gives False.
        choices: The values that it may have, None for any text.
        meaning: One line of help, empty for the argument's own.
        from_text: Makes the argument from the option's value.
        to_text: Makes the option's value from the argument.
    """

    flag: str
    metavar: str = ""
    choices: tuple[str, ...] | None = None
    meaning: str = ""
    from_text: Callable[[str], Any] = str
    to_text: Callable[[Any], str] = str

    @property
    def has_value(self) -> bool:
        """Whether a value follows the option."""
        return bool(self.metavar or self.choices)


@dataclass(frozen=True, kw_only=True, slots=True)
class Argument:
    """What is known about one argument of a guest request.

    Attributes:
        meaning: One line that says what it is.
        check: Takes the argument's name and value; returns the value as the request stores it,
            or raises TypeError.
        by_marker: Whether the marker `kernelvm` may give it.
        by_call: Whether calls such as `boot_vm` may give it.
        option: Its option on a command line, None if it has none.
    """

    meaning: str
    check: Check
    by_marker: bool = True
    by_call: bool = True
    option: CommandLineOption | None = None

    def checked(self, name: str, value: Any) -> Any:
        """Return a value as the request stores it.

        Args:
            name: The argument, for the message.
            value: What was given; anything that its check takes.

        Returns:
            The value, with lists as tuples.

        Raises:
            TypeError: The value cannot be used for the argument.
        """
        if isinstance(value, Iterator):
            raise TypeError(f"{name} is read more than once: give a list, not {value!r}")
        return self.check(name, value)


def instance_of(kind: type, words: str) -> Check:
    """Return a check for values of a type.

    Args:
        kind: The type.
        words: What the argument is, for the message.
    """

    def check(name: str, value: Any) -> Any:
        if not isinstance(value, kind):
            raise TypeError(f"{name} is {words}, not {value!r}")
        return value

    return check


text = instance_of(str, "a text")
boolean = instance_of(bool, "True or False")


def optional(check: Check) -> Check:
    """Return a check that also takes None.

    Args:
        check: The check of any other value.
    """
    return lambda name, value: None if value is None else check(name, value)


def one_of(*words: str, none: str | None = None) -> Check:
    """Return a check for one of some words.

    Args:
        words: The words.
        none: What may be given for none of them.
    """

    def check(name: str, value: Any) -> Any:
        text(name, value)
        if value not in (none, *words):
            raise TypeError(f"{name} is one of {', '.join(words)}, not {value!r}")
        return value

    return check


def names(name: str, value: Any) -> tuple[str, ...]:
    """Check names of modules.

    Args:
        name: Of the argument, for messages.
        value: Whatever a test gave.

    Returns:
        The names.

    Raises:
        TypeError: It is no list of texts.
    """
    if isinstance(value, str | bytes):
        raise TypeError(f"{name} is a list of names, not the text {value!r}")
    if value is None:
        raise TypeError(f"{name} is a list of names, not None")
    found = tuple(value)
    if not all(isinstance(each, str) for each in found):
        raise TypeError(f"not names of modules: {found!r}")
    return found


def mapping_to(kind: type, words: str, example: str = "") -> Check:
    """Return a check for mappings from texts to values of a type.

    Args:
        kind: The type.
        words: What is mapped to what, for the message.
        example: A mapping, for the message about a wrong pair.
    """
    as_in = f", as in {example}" if example else ""

    def check(name: str, value: Any) -> Any:
        instance_of(Mapping, words)(name, value)
        for key, each in value.items():
            if not (isinstance(key, str) and isinstance(each, kind)):
                raise TypeError(f"{name} is {words}{as_in}; not {key!r}: {each!r}")
        return value

    return check


def none_is_empty(check: Check) -> Check:
    """Return a check for mappings that takes None for an empty one.

    Args:
        check: The check of any other value.
    """
    return lambda name, value: {} if value is None else check(name, value)


def seconds(name: str, value: Any) -> Any:
    """Check a duration.

    Args:
        name: Of the argument, for messages.
        value: Whatever a test gave.

    Returns:
        The seconds.

    Raises:
        TypeError: It is no number above 0.
    """
    if not isinstance(value, int | float):
        raise TypeError(f"{name} is a number of seconds, not {value!r}")
    # True is an int in Python, but nobody means one second by it.
    if isinstance(value, bool) or not 0 < value < math.inf:
        raise TypeError(f"{name} is a number of seconds above 0, not {value!r}")
    return value
