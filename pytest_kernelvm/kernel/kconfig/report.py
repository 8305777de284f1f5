"""The report of lost symbols: what was requested, what came out, why, and what would help."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from pytest_kernelvm.config.requests import Requested
from pytest_kernelvm.errors import ConfigLost, Evidence
from pytest_kernelvm.kernel.kconfig.dot_config import config_line
from pytest_kernelvm.kernel.kconfig.losses import Loss, Reason, definitions
from pytest_kernelvm.kernel.kconfig.remedy import Remedy

_MISSING = frozenset({Reason.UNKNOWN, Reason.REMOVED, Reason.OTHER_ARCH})
_ADVICE = "ask for what these symbols depend on, or drop the request"


def explained(label: str, losses: Sequence[Loss], remedy: Remedy | None) -> ConfigLost:
    """Return the error for losses that are explained.

    Args:
        label: What the kernel is called.
        losses: Most basic first.
        remedy: What was tried and helps; None if nothing was found.
    """
    got = {loss.request.name: _got(loss) for loss in losses}
    heads = _heads([loss.request for loss in losses], got)
    lines = []
    for head, loss in zip(heads, losses, strict=True):
        lines.append(head)
        if len(loss.lines) == 1:
            lines.append(f"    {loss.reason.value}: {loss.lines[0]}")
        else:
            lines.append(f"    {loss.reason.value}:")
            lines += [f"      {line}" for line in loss.lines]
    next_step = _ADVICE
    if remedy:
        lines += ["", *_remedy_lines(remedy, len(losses))]
        next_step = "add these lines to a fragment, or drop the requests that they are for"
    return _error(label, len(losses), lines, next_step)


def unexplained(
    label: str, lost: Sequence[Requested], values: Mapping[str, str], tree: Path, reason: str
) -> ConfigLost:
    """Return the error for losses that could not be explained.

    Args:
        label: What the kernel is called.
        lost: The lost requests.
        values: The values of the final .config.
        tree: The source of the kernel.
        reason: Why they could not be explained.
    """
    known = definitions(tree, [request.name for request in lost])
    got = {
        name: values.get(name, "n") if name in known else _NO_SUCH
        for name in (request.name for request in lost)
    }
    lines = [*_heads(lost, got), "", f"not explained: {reason}"]
    return _error(label, len(lost), lines, _ADVICE)


_NO_SUCH = "no such symbol here"


def _got(loss: Loss) -> str:
    return _NO_SUCH if loss.reason in _MISSING else loss.got


def _heads(lost: Sequence[Requested], got: Mapping[str, str]) -> list[str]:
    width = max(len(request.name) for request in lost)
    return [
        f"{request.name:{width}}  requested {request.value}, got {got[request.name]}  "
        f"({request.where})"
        for request in lost
    ]


def _remedy_lines(remedy: Remedy, lost: int) -> list[str]:
    count = len(remedy.saved)
    saved = ", ".join(remedy.saved)
    if count == lost:
        saved = "it" if lost == 1 else f"all {lost}"
    these = "this as well" if len(remedy.extra) == 1 else "these as well"
    lines = [config_line(name, value).rstrip() for name, value in sorted(remedy.extra.items())]
    return [f"tried: olddefconfig keeps {saved} with {these}", *(f"    {line}" for line in lines)]


def _error(label: str, count: int, lines: Sequence[str], next_step: str) -> ConfigLost:
    return ConfigLost(
        f"{count} symbol{'s' if count > 1 else ''} of {label} did not survive olddefconfig",
        Evidence(
            expected="every requested symbol in the final .config",
            excerpt="\n".join(lines),
            next_step=next_step,
        ),
    )
