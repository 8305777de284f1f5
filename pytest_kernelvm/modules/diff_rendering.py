"""What differs between two trees, as text and as JSON."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterator, Sequence

from pytest_kernelvm.modules.diff import ClosureDiff, ModuleChange, SizeChange, TreeDiff
from pytest_kernelvm.modules.tree_text import size_text

# A new kernel changes hundreds of modules; the rest is in the JSON.
_MOST_SHOWN = 20


def diff_json(diff: TreeDiff) -> str:
    """Return all differences as JSON; the keys are the attributes of TreeDiff."""
    return json.dumps(dataclasses.asdict(diff), indent=2) + "\n"


def diff_text(diff: TreeDiff, most: int = _MOST_SHOWN) -> str:
    """Return the differences for people.

    Args:
        diff: The differences.
        most: The largest number of lines in a section, 0 for all.
    """
    sections: tuple[tuple[str, Sequence[object]], ...] = (
        ("added", diff.added),
        ("removed", diff.removed),
        ("renamed", [_successors(change) for change in diff.renamed]),
        ("split", [_successors(change) for change in diff.split]),
        ("turned builtin", diff.turned_builtin),
        ("turned loadable", diff.turned_loadable),
        ("dependencies changed", diff.dependencies),
        ("aliases changed", diff.aliases),
        ("firmware changed", diff.firmware),
        ("size changed", diff.resized),
        ("closures", diff.closures),
    )
    lines = [f"{diff.before} → {diff.after}"]
    for title, entries in sections:
        if entries:
            lines.append(f"{title}: {len(entries)}")
            shown = entries[:most] if most else entries
            lines += [f"  {_entry(entry)}" for entry in shown]
            if len(shown) < len(entries):
                lines.append(f"  … and {len(entries) - len(shown)} more")
    if len(lines) == 1:
        lines.append("no difference")
    return "".join(f"{line}\n" for line in lines)


def _entry(entry: object) -> str:
    match entry:
        case ModuleChange():
            return " ".join([entry.name, *_plus_and_minus(entry)])
        case SizeChange():
            sizes = f"{size_text(entry.was_bytes)} → {size_text(entry.now_bytes)}"
            return f"{entry.name} {entry.now_bytes - entry.was_bytes:+d} B ({sizes})"
        case ClosureDiff():
            if entry.error:
                return f"{entry.name}: {entry.error}"
            sizes = f"({size_text(entry.was_bytes)} → {size_text(entry.now_bytes)})"
            return " ".join([entry.name, *_plus_and_minus(entry.change), sizes])
        case _:
            return str(entry)


def _successors(change: ModuleChange) -> str:
    return f"{change.name} → {', '.join(change.now)}"


def _plus_and_minus(change: ModuleChange) -> Iterator[str]:
    yield from (f"-{name}" for name in change.was)
    yield from (f"+{name}" for name in change.now)
