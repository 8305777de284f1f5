"""What a test's guests have to answer for when it ends."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from pytest_kernelvm.plugin.stash import CHARGED, FACTORY

if TYPE_CHECKING:
    from pytest_kernelvm.plugin.splat_policy import SplatPolicy


def splat_policy_of(item: pytest.Item) -> SplatPolicy:
    """Return which splats a test allows, and whether others fail it."""
    from pytest_kernelvm.plugin.splat_policy import SplatPolicy

    mode = item.config.getoption("--kernelvm-splats") or item.config.getini("kernelvm_splats")
    return SplatPolicy(
        test=item.nodeid,
        mode=mode,
        markers=tuple(dict(marker.kwargs) for marker in item.iter_markers("kernelvm_splats")),
        charged=item.config.stash.setdefault(CHARGED, {}),
    )


def check_guests(item: pytest.Item, for_what: str, *, ask: bool) -> None:
    """Fail a test, or warn of it, for what its guests' kernels found wrong.

    ask: whether guests are asked for what their consoles do not show; not those of a test that has
    failed, whose error says what there is to say.
    """
    factory = item.stash.get(FACTORY, None)
    errors = factory.splat_policy.errors(for_what, ask=ask, is_over=ask) if factory else []
    if errors and factory and factory.splat_policy.mode == "fail":
        raise errors[0]
    for error in errors:
        from pytest_kernelvm.errors import KernelvmWarning

        item.warn(KernelvmWarning(str(error)))
