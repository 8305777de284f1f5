"""Kernel configuration as values: what is requested, what came out, what was lost."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from pytest_kernelvm.config import Requested
from pytest_kernelvm.errors import BadInput, ConfigLost, Evidence

_SET = re.compile(r"CONFIG_([A-Za-z0-9_]+)=(.*)")
_UNSET = re.compile(r"# CONFIG_([A-Za-z0-9_]+) is not set")


def parse_config(text: str) -> dict[str, str]:
    """Return the symbols of a .config that are set, by name without CONFIG_.

    Symbols that are absent or `is not set` are left out: Kconfig's conf reads both as n.
    """
    return {found[1]: found[2] for line in text.splitlines() if (found := _SET.fullmatch(line))}


def read_fragment(path: Path) -> tuple[Requested, ...]:
    """Return what a fragment asks for, line by line.

    Raises BadInput, with file:line, for a line that is neither a setting nor a comment.
    """
    requests = []
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise BadInput(f"cannot read {path}: {error}", Evidence(where=(str(path),))) from None
    for number, line in enumerate(lines, start=1):
        where = f"{path}:{number}"
        text = line.strip()
        if found := _SET.fullmatch(text):
            requests.append(Requested(name=found[1], value=found[2], where=where))
        elif found := _UNSET.fullmatch(text):
            requests.append(Requested(name=found[1], value="n", where=where))
        elif text and not text.startswith("#"):
            raise BadInput(
                f"not a line of a .config: {text!r}",
                Evidence(
                    where=(where,),
                    expected="CONFIG_X=value, `# CONFIG_X is not set`, or a comment",
                ),
            )
    return tuple(requests)


def merge(requests: Iterable[Requested]) -> dict[str, Requested]:
    """Return the request that counts for each symbol: the last one."""
    return {request.name: request for request in requests}


def as_config(requests: Mapping[str, Requested]) -> str:
    """Return requests as the text of a fragment."""
    lines = []
    for name, request in sorted(requests.items()):
        if request.value == "n":
            lines.append(f"# CONFIG_{name} is not set")
        else:
            lines.append(f"CONFIG_{name}={request.value}")
    return "".join(f"{line}\n" for line in lines)


def lost(requests: Mapping[str, Requested], final: Mapping[str, str]) -> tuple[Requested, ...]:
    """Return the requests that the final configuration does not honour."""
    return tuple(
        request
        for name, request in sorted(requests.items())
        if request.value != final.get(name, "n")
    )


def check_nothing_lost(
    requests: Mapping[str, Requested], final: Mapping[str, str], *, tree: Path, label: str
) -> None:
    """Raise ConfigLost that lists every lost symbol: requested, got, by whom."""
    gone = lost(requests, final)
    if not gone:
        return
    known = symbols_defined(tree, [request.name for request in gone])
    width = max(len(request.name) for request in gone)
    lines = []
    for request in gone:
        got = final.get(request.name, "n") if request.name in known else "no such symbol here"
        lines.append(
            f"{request.name:{width}}  requested {request.value}, got {got}  ({request.where})"
        )
    raise ConfigLost(
        f"{len(gone)} symbol{'s' if len(gone) > 1 else ''} of {label} did not survive olddefconfig",
        Evidence(
            expected="every requested symbol in the final .config",
            excerpt="\n".join(lines),
            next_step="ask for what these symbols depend on, or drop the request",
        ),
    )


def symbols_defined(tree: Path, names: Sequence[str]) -> frozenset[str]:
    """Return those of the names that some Kconfig file of a kernel tree defines."""
    pattern = re.compile(rf"^\s*(?:menu)?config\s+({'|'.join(map(re.escape, names))})\s*$", re.M)
    found: set[str] = set()
    for path in tree.rglob("Kconfig*"):
        if path.is_file():
            found.update(pattern.findall(path.read_text(errors="replace")))
    return frozenset(found)
