"""The keyword arguments of `boot_vm`, `new_vm`, `vms` and `Cell.bootable`, for type checkers.

Type checkers cannot derive them from `GuestRequest`. tests/unit/test_guest_request.py compares the
two: names, order and types.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import TypedDict

from pytest_kernelvm.config.roots import Root
from pytest_kernelvm.modules.closure import Closure


class GuestOptions(TypedDict, total=False):
    """What a call may ask of a guest; `GuestRequest` says what each argument is."""

    modules: Iterable[str] | None
    closure: Closure | None
    userland: str | None
    external: Mapping[str, str] | None
    root: Root | None
    options: Mapping[str, str] | None
    blacklist: Iterable[str]
    files: Mapping[str, bytes] | None
    cmdline: str
    cookie: bool
    shared_console: bool
    network: str
    boot_timeout_s: float | None
