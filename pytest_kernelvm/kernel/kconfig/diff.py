"""Two configurations compared: what is new, gone, and changed."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass

from pytest_kernelvm.config.requests import Requested
from pytest_kernelvm.kernel.kconfig.dot_config import not_set, parse_config, same_value


@dataclass(frozen=True, kw_only=True, slots=True)
class ComparedConfig:
    """One of two configurations.

    Attributes:
        label: What it is called.
        text: Its .config.
        names: All symbols that its Kconfig files define; None where these files are not at hand.
        requests: What was requested, by symbol.
    """

    label: str
    text: str
    names: Collection[str] | None
    requests: Mapping[str, Requested]

    @property
    def values(self) -> dict[str, str]:
        """The symbols that are set or, where they are visible, n."""
        return dict.fromkeys(not_set(self.text), "n") | parse_config(self.text)

    def knows(self, name: str) -> bool:
        """Return whether its Kconfig files define a symbol; assumed where these are not at hand.

        Args:
            name: Of a symbol, without CONFIG_.
        """
        return self.names is None or name in self.names


@dataclass(frozen=True, kw_only=True, slots=True)
class SymbolChange:
    """A symbol that differs.

    Attributes:
        name: Without CONFIG_.
        before: Its value in the first configuration, empty where it is not defined.
        after: Its value in the second one, empty where it is not defined.
    """

    name: str
    before: str
    after: str


@dataclass(frozen=True, kw_only=True, slots=True)
class ConfigDiff:
    """What differs between two configurations.

    Attributes:
        new: Symbols that only the second one defines.
        gone: Symbols that only the first one defines.
        requested: Symbols with other values that were requested for one of them.
        unrequested: Symbols with other values that nobody requested: defaults, and what other
            symbols select.
    """

    new: tuple[SymbolChange, ...]
    gone: tuple[SymbolChange, ...]
    requested: tuple[SymbolChange, ...]
    unrequested: tuple[SymbolChange, ...]

    def __bool__(self) -> bool:
        return bool(self.new or self.gone or self.requested or self.unrequested)


def diff_configs(one: ComparedConfig, other: ComparedConfig) -> ConfigDiff:
    """Return what differs between two configurations, each part sorted by name.

    Symbols that are n or invisible in both do not count as different.

    Args:
        one: The first configuration.
        other: The second configuration.
    """
    new: list[SymbolChange] = []
    gone: list[SymbolChange] = []
    requested: list[SymbolChange] = []
    unrequested: list[SymbolChange] = []
    before, after = one.values, other.values
    for name in sorted({*before, *after}):
        change = SymbolChange(
            name=name,
            before=before.get(name, "n") if one.knows(name) else "",
            after=after.get(name, "n") if other.knows(name) else "",
        )
        if not one.knows(name):
            new.append(change)
        elif not other.knows(name):
            gone.append(change)
        elif not same_value(change.before, change.after):
            named = name in one.requests or name in other.requests
            (requested if named else unrequested).append(change)
    return ConfigDiff(
        new=tuple(new), gone=tuple(gone), requested=tuple(requested), unrequested=tuple(unrequested)
    )


def diff_text(found: ConfigDiff, one: ComparedConfig, other: ComparedConfig) -> str:
    """Return a difference as text for a terminal, one symbol a line.

    Args:
        found: The difference.
        one: The first configuration.
        other: The second configuration.
    """
    parts = []
    for title, changes in (
        (f"gone: {other.label} does not define them", found.gone),
        (f"new: {one.label} does not define them", found.new),
        ("asked for", found.requested),
        ("changed with others, or by default", found.unrequested),
    ):
        if changes:
            width = max(len(change.name) for change in changes)
            lines = (f"  {change.name:{width}}  {_shown(change)}" for change in changes)
            parts.append("\n".join([f"{title} ({len(changes)})", *lines]))
    return "\n\n".join(parts) or f"{one.label} and {other.label} say the same"


def _shown(change: SymbolChange) -> str:
    return " -> ".join(value for value in (change.before, change.after) if value)
