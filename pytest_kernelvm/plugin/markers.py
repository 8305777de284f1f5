"""The markers: what they may say, and what is wrong with what they do say."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from pytest_kernelvm.errors import BadInput
    from pytest_kernelvm.plugin.guest_factory import GuestRequest

# How `vm` comes to its state right after boot: from a snapshot, by booting, or by being left in
# that state by the test before.
FRESH = ("restore", "boot", "share")

MARKER = (
    "kernelvm(*, modules=None, userland=None, external=None, root=None, options=None, "
    "blacklist=(), files=None, cmdline='', cookie=True, shared_console=False, network='', "
    "boot_timeout_s=None, fresh=None, clean=False): the guest of this test"
)
SPLATS_MARKER = (
    "kernelvm_splats(*, allow, reason): what the kernel of this test's guests may find wrong, by "
    "regular expressions found in a splat's text, and why"
)
FEATURES_MARKER = (
    "kernelvm_features(name, ...): skips the test where no patch of the kernel has the feature"
)
VM_MARKER = "vm: boots a guest; set by the plugin itself"
ALL = (VM_MARKER, MARKER, SPLATS_MARKER, FEATURES_MARKER)


def mistake_in(item: pytest.Item) -> BadInput | None:
    """Return what is wrong with the markers of a test, None if they are as they may be."""
    checks = (
        ("kernelvm", MARKER, _check_asked),
        ("kernelvm_splats", SPLATS_MARKER, _check_splats),
        ("kernelvm_features", FEATURES_MARKER, _check_features),
    )
    for name, signature, check in checks:
        if item.get_closest_marker(name) is None:
            continue
        try:
            check(item)
        except TypeError as error:
            return _misused(item, f"the marker {name}: {error}", signature)
    return None


def asked_of(item: pytest.Item) -> GuestRequest:
    """Return what the markers `kernelvm` of a test ask for; the nearest says the last word.

    Raises TypeError for what they cannot ask for; `mistake_in` is asked first.
    """
    from pytest_kernelvm.plugin.guest_factory import asked_by

    found: dict[str, Any] = {}
    for marker in reversed(list(item.iter_markers("kernelvm"))):
        if marker.args:
            raise TypeError("its arguments have names")
        found |= marker.kwargs
    if "closure" in found:
        raise TypeError("unexpected keyword argument 'closure'; new_vm and boot_vm take one")
    return asked_by(**found)


def features_of(item: pytest.Item) -> set[str]:
    """Return the features that a test asks the patches of its kernel for."""
    return {name for marker in item.iter_markers("kernelvm_features") for name in marker.args}


def _check_asked(item: pytest.Item) -> None:
    asked_of(item)


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


def _misused(item: pytest.Item, what: str, signature: str) -> BadInput:
    from pytest_kernelvm.errors import BadInput, Evidence

    file, line, _name = item.location
    where = f"{file}:{line + 1}" if line is not None else file
    return BadInput(what, Evidence(expected=signature, where=(where,)))
