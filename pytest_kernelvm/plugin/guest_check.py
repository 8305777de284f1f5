"""The check of a test's guests when it ends: what their kernels found wrong fails the test."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from pytest_kernelvm.plugin.stash import CHARGED, FACTORY

if TYPE_CHECKING:
    from pytest_kernelvm.plugin.splat_policy import SplatPolicy


def splat_policy_of(item: pytest.Item) -> SplatPolicy:
    """Return how splats count in a test: its markers, and the run's option or ini option."""
    from pytest_kernelvm.plugin.splat_policy import SplatPolicy

    mode = item.config.getoption("--kernelvm-splats") or item.config.getini("kernelvm_splats")
    return SplatPolicy(
        test=item.nodeid,
        mode=mode,
        markers=tuple(dict(marker.kwargs) for marker in item.iter_markers("kernelvm_splats")),
        charged=item.config.stash.setdefault(CHARGED, {}),
    )


def check_guests(item: pytest.Item, for_what: str, *, ask: bool) -> None:
    """Fail a test, or warn, for what its guests' kernels found wrong.

    The error is a KernelvmError with the verdict on the guest.

    Args:
        item: The test.
        for_what: What the guests have just done, for the message: `the test`.
        ask: Whether guests are asked for what their consoles do not show. The guests of a test that
            has failed are not asked: its own error is enough.
    """
    factory = item.stash.get(FACTORY, None)
    errors = factory.splat_policy.errors(for_what, ask=ask, is_over=ask) if factory else []
    if errors and factory and factory.splat_policy.mode == "fail":
        raise errors[0]
    for error in errors:
        from pytest_kernelvm.errors import KernelvmWarning

        item.warn(KernelvmWarning(str(error)))
