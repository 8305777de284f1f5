"""From a configuration that a person changed to the fragment that makes the same change."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from pytest_kernelvm.kernel.kconfig.dot_config import offered, parse_config, same_value

# From the symbols of a fragment to the .config that olddefconfig makes with it.
Decide = Callable[[Mapping[str, str]], str]


def changed_values(before: str, after: str) -> dict[str, str]:
    """Return the symbols whose values differ between two .config texts, with the later value."""
    old, new = _values(before), _values(after)
    return {
        name: new.get(name, "n")
        for name in sorted({*old, *new})
        if not same_value(old.get(name, "n"), new.get(name, "n"))
    }


def smallest_fragment(before: str, after: str, decide: Decide) -> dict[str, str]:
    """Return the fewest changed symbols that make one .config into another, as olddefconfig says.

    before, after: texts of .config. decide: runs olddefconfig with a fragment.
    Groups of symbols are left out on trial, halves first, single ones last. If even all changed
    symbols together do not come to `after`, all are returned.
    """
    wanted = parse_config(after)
    kept = changed_values(before, after)

    def suffices(values: Mapping[str, str]) -> bool:
        return not changed_values(_text(wanted), decide(values))

    if not kept or not suffices(kept):
        return kept
    # What was out of sight before has mostly come with something else.
    known = _values(before)
    seen = {name: value for name, value in kept.items() if name in known}
    if seen and len(seen) < len(kept) and suffices(seen):
        kept = seen
    size = (len(kept) + 1) // 2
    while size:
        names = list(kept)
        for start in range(0, len(names), size):
            left_out = set(names[start : start + size])
            fewer = {name: value for name, value in kept.items() if name not in left_out}
            if len(fewer) < len(kept) and suffices(fewer):
                kept = fewer
        size = 0 if size == 1 else (size + 1) // 2
    return kept


def _values(text: str) -> dict[str, str]:
    return dict.fromkeys(offered(text), "n") | parse_config(text)


def _text(values: Mapping[str, str]) -> str:
    return "".join(f"CONFIG_{name}={value}\n" for name, value in values.items())
