"""The markers: their signatures, what tests say with them, and what is wrong with that."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from pytest_kernelvm.errors import BadInput
    from pytest_kernelvm.session.guest_request import GuestRequest

GUEST_MEANING = "the guest of this test"
SPLATS_MARKER = (
    "kernelvm_splats(*, allow, reason): what the kernel of this test's guests may find wrong, by "
    "regular expressions found in a splat's text, and why"
)
FEATURES_MARKER = (
    "kernelvm_features(name, ...): skips the test where no patch of the kernel has the feature"
)
VM_MARKER = "vm: boots a guest; set by the plugin itself"


def guest_marker() -> str:
    """Return the marker `kernelvm` with its signature, from what a test may ask of its guest."""
    from pytest_kernelvm.session.guest_request import signature

    return f"kernelvm({signature()}): {GUEST_MEANING}"


def descriptions(*, with_signature: bool) -> tuple[str, ...]:
    """Return the lines that register the markers.

    Args:
        with_signature: Whether the marker `kernelvm` has its whole signature. Only
            `pytest --markers` shows it; a run without guests does not import what it comes from.
    """
    guest = guest_marker() if with_signature else f"kernelvm(...): {GUEST_MEANING}"
    return VM_MARKER, guest, SPLATS_MARKER, FEATURES_MARKER


def mistake_in(item: pytest.Item) -> BadInput | None:
    """Return what is wrong with the markers of a test.

    Returns:
        An error with the place of the test and the signature of the marker; None if all is right.
    """
    for name, check in (
        ("kernelvm", _check_guest),
        ("kernelvm_splats", _check_splats),
        ("kernelvm_features", _check_features),
    ):
        if item.get_closest_marker(name) is None:
            continue
        try:
            check(item)
        except TypeError as error:
            return _misused(item, name, str(error))
    return None


def guest_request_of(item: pytest.Item) -> GuestRequest:
    """Return what the markers `kernelvm` of a test ask for; the nearest one takes precedence.

    Raises:
        TypeError: A marker has a positional argument, or one that it cannot have. `mistake_in`
            finds that when the test is collected.
    """
    from pytest_kernelvm.session.guest_request import GuestRequest

    found: dict[str, Any] = {}
    for marker in reversed(list(item.iter_markers("kernelvm"))):
        if marker.args:
            raise TypeError("its arguments have names")
        found |= marker.kwargs
    return GuestRequest.from_marker(found)


def features_of(item: pytest.Item) -> set[str]:
    """Return the features of patches that a test needs in its kernel."""
    return {name for marker in item.iter_markers("kernelvm_features") for name in marker.args}


def _check_guest(item: pytest.Item) -> None:
    guest_request_of(item)


def _check_splats(item: pytest.Item) -> None:
    from pytest_kernelvm.plugin.splat_policy import allowed_by

    for marker in item.iter_markers("kernelvm_splats"):
        allow = marker.kwargs.get("allow")
        if isinstance(allow, Iterator):
            raise TypeError("allow is read more than once: give a list")
        allowed_by(*marker.args, **marker.kwargs)


def _check_features(item: pytest.Item) -> None:
    for marker in item.iter_markers("kernelvm_features"):
        if marker.kwargs:
            raise TypeError(f"unexpected keyword argument {next(iter(marker.kwargs))!r}")
        if not marker.args:
            raise TypeError("it names at least one feature")
        for name in marker.args:
            if not isinstance(name, str):
                raise TypeError(f"a feature is named by a text, not {name!r}")


def _misused(item: pytest.Item, name: str, mistake: str) -> BadInput:
    """Return the error of a misused marker, which shows its signature."""
    from pytest_kernelvm.errors import BadInput, Evidence

    lines = descriptions(with_signature=True)
    signature = next(line for line in lines if line.startswith(f"{name}("))
    file, line, _name = item.location
    where = f"{file}:{line + 1}" if line is not None else file
    return BadInput(f"the marker {name}: {mistake}", Evidence(expected=signature, where=(where,)))
