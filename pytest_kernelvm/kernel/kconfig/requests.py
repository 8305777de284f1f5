"""The requests for a kernel: read from fragments, chosen by version, without contradictions."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path
from typing import Any, NoReturn

from pytest_kernelvm.config.kernel import KernelConfig
from pytest_kernelvm.config.requests import Conditional, Fragment, Requested
from pytest_kernelvm.errors import BadInput, Evidence
from pytest_kernelvm.kernel.kconfig.dot_config import SET_LINE, UNSET_LINE, same_value, well_formed


def read_fragment(path: Path) -> tuple[Requested, ...]:
    """Return what a fragment requests, line by line.

    Args:
        path: The fragment.

    Raises:
        BadInput: With file:line, for a line that is neither a setting nor a comment, and for a
            value that conf could not read.
    """
    requests = []
    try:
        lines = path.read_text(encoding="utf-8").split("\n")
    except (OSError, UnicodeDecodeError) as error:
        raise BadInput(f"cannot read {path}: {error}", Evidence(where=(str(path),))) from None
    for number, line in enumerate(lines, start=1):
        where = f"{path}:{number}"
        text = line.strip()
        if found := SET_LINE.fullmatch(text):
            if not well_formed(found[2]):
                raise BadInput(
                    f"not a value of a .config: {found[2]}",
                    Evidence(
                        where=(where,),
                        expected="y, m, n, a number, or a text in quotes, where a backslash stands "
                        "before each quote and backslash",
                    ),
                )
            requests.append(Requested(name=found[1], value=found[2], where=where))
        elif found := UNSET_LINE.fullmatch(text):
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


def _of_fragment(fragment: Fragment) -> Iterable[Requested]:
    for request in read_fragment(fragment.path):
        yield replace(
            request,
            optional=fragment.optional,
            force=fragment.force,
            versions=fragment.versions,
        )


def _all_requests(kernel: KernelConfig) -> list[Requested]:
    """Return all that fragments and vm-config ask of any version, conditional symbols left out."""
    fragments = (request for each in kernel.fragments for request in _of_fragment(each))
    return [*fragments, *kernel.symbols]


def requests_of(kernel: KernelConfig, version: str = "") -> dict[str, Requested]:
    """Return the symbols that the fragments and the vm-config of a kernel request, by name.

    Raises BadInput, with both places, where two of them request different values.

    Args:
        kernel: The kernel.
        version: The version of the source; empty for what the vm-config says about it.
    """
    return merge(for_version(_all_requests(kernel), version or kernel.version))


def conditionals_of(kernel: KernelConfig, version: str) -> tuple[Conditional, ...]:
    """Return the conditional symbols of a kernel, without requests for other versions.

    Args:
        kernel: The kernel.
        version: Of its source.
    """
    return tuple(
        replace(each, symbols=for_version(each.symbols, version)) for each in kernel.conditional
    )


def for_version(requests: Iterable[Requested], version: str) -> tuple[Requested, ...]:
    """Return those of the requests that are for a kernel version.

    Args:
        requests: Those of one symbol or of several.
        version: That of the source.
    """
    return tuple(request for request in requests if request.versions.includes(version))


def requests_key(kernel: KernelConfig) -> dict[str, Any]:
    """Return all that a kernel's fragments and vm-config say about symbols, as JSON for a key.

    Places are left out, so that a request that moves to another file stays the same.
    """
    return {
        "symbols": _keys(_all_requests(kernel)),
        "conditional": sorted(
            [each.name, each.value, _keys(each.symbols)] for each in kernel.conditional
        ),
        "auto_modules": kernel.auto_modules,
        "prefer_builtin": kernel.prefer_builtin,
    }


def _keys(requests: Iterable[Requested]) -> list[Any]:
    return sorted(
        [each.name, each.value, each.versions.text, each.optional, each.force] for each in requests
    )


def merge(requests: Iterable[Requested]) -> dict[str, Requested]:
    """Return the request that counts for each symbol.

    Raises BadInput, with all places, where requests for a symbol have different values and not
    exactly one of the values is forced.

    Args:
        requests: All requests for one kernel version.
    """
    by_name: dict[str, list[Requested]] = {}
    for request in requests:
        by_name.setdefault(request.name, []).append(request)
    conflicts = []
    merged = {}
    for name, of_symbol in by_name.items():
        counting = [request for request in of_symbol if request.force] or of_symbol
        if all(same_value(counting[0].value, other.value) for other in counting):
            # The symbol may be lost only if all of its requests are optional.
            merged[name] = min(counting, key=lambda request: request.optional)
        else:
            conflicts.append(counting)
    if conflicts:
        _refuse_contradictions(conflicts)
    return merged


def _refuse_contradictions(conflicts: list[list[Requested]]) -> NoReturn:
    count = len(conflicts)
    shown = [request for conflict in conflicts for request in conflict]
    width = max(len(str(request)) for request in shown)
    forced = any(request.force for request in shown)
    example = conflicts[0][-1]
    next_step = (
        "let only one of them force"
        if forced
        else "take one of them away, or let one win: in a vm-config's symbols, "
        f"{example.name}: {{value: {example.value}, force: true}}"
    )
    raise BadInput(
        f"{count} symbol{'s are' if count > 1 else ' is'} asked for with different values",
        Evidence(
            expected="one value for each symbol",
            excerpt="\n".join(f"{request!s:{width}}  {request.where}" for request in shown),
            next_step=next_step,
        ),
    )
