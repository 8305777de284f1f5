"""From a configuration that a person has edited to the fragment that makes the same changes."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from pytest_kernelvm.kernel.kconfig.dot_config import not_set, parse_config, same_value

# Takes the symbols of a fragment, and returns the .config that olddefconfig makes with it.
Olddefconfig = Callable[[Mapping[str, str]], str]


def changed_values(before: str, after: str) -> dict[str, str]:
    """Return the symbols whose values differ between two .config texts, with the later value.

    Args:
        before: The earlier text.
        after: The later text.
    """
    old, new = _values(before), _values(after)
    return {
        name: new.get(name, "n")
        for name in sorted({*old, *new})
        if not same_value(old.get(name, "n"), new.get(name, "n"))
    }


def smallest_fragment(before: str, after: str, olddefconfig: Olddefconfig) -> dict[str, str]:
    """Return the fewest changed symbols with which olddefconfig makes one .config into another.

    Args:
        before: The text of the first .config.
        after: The text of the second one.
        olddefconfig: Runs olddefconfig on the first one with a fragment.

    Returns:
        The symbols of the fragment with their values. If not even all changed symbols together
        lead to `after`, they are all returned.
    """
    wanted = "".join(f"CONFIG_{name}={value}\n" for name, value in parse_config(after).items())
    changed = changed_values(before, after)

    def suffices(values: Mapping[str, str]) -> bool:
        return not changed_values(wanted, olddefconfig(values))

    if not changed or not suffices(changed):
        return changed
    # Symbols that were invisible before have mostly come with others: try without all of them.
    known = _values(before)
    visible = {name: value for name, value in changed.items() if name in known}
    if visible and len(visible) < len(changed) and suffices(visible):
        changed = visible
    return _without_needless(changed, suffices)


def _without_needless(
    values: dict[str, str], suffices: Callable[[Mapping[str, str]], bool]
) -> dict[str, str]:
    """Leave out groups of symbols while the rest suffices: halves first, single symbols last."""
    size = (len(values) + 1) // 2
    while size:
        names = list(values)
        for start in range(0, len(names), size):
            group = set(names[start : start + size])
            fewer = {name: value for name, value in values.items() if name not in group}
            if len(fewer) < len(values) and suffices(fewer):
                values = fewer
        size = 0 if size == 1 else (size + 1) // 2
    return values


def _values(text: str) -> dict[str, str]:
    return dict.fromkeys(not_set(text), "n") | parse_config(text)
