"""The fixtures of kernels and guests; short_fixtures.py has their short names."""

from __future__ import annotations

import contextlib
import itertools
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from pytest_kernelvm.plugin import claims, markers
from pytest_kernelvm.plugin.cells import cell_config_of
from pytest_kernelvm.plugin.guest_check import check_guests, splat_policy_of
from pytest_kernelvm.plugin.options import console_limit_bytes, fresh_of, store_root
from pytest_kernelvm.plugin.reporting import progress, run_report
from pytest_kernelvm.plugin.stash import FACTORY, MISTAKE, NEXT, NUMBERS

if TYPE_CHECKING:
    from pytest_kernelvm import BootVm, Cell, Closure, Initramfs, Kernel, Vm
    from pytest_kernelvm.plugin.guest_factory import GuestFactory, LinkedVms
    from pytest_kernelvm.report.observer import Observer
    from pytest_kernelvm.session.guests import Guests
    from pytest_kernelvm.store.store import Store


@pytest.fixture(scope="session")
def kernelvm_store(request: pytest.FixtureRequest) -> Iterator[Store]:
    """The store of kernels and of all else that is built."""
    from pytest_kernelvm.process import end_with_parent, signals_interrupt
    from pytest_kernelvm.store.store import Store

    with contextlib.ExitStack() as stack:
        stack.enter_context(signals_interrupt())
        if hasattr(request.config, "workerinput"):
            stack.enter_context(end_with_parent())
        yield Store(store_root(request.config), progress(request.config))


@pytest.fixture(scope="session")
def kernelvm_cell(request: pytest.FixtureRequest, kernelvm_store: Store) -> Cell:
    """The cell under test: one kernel on one machine.

    Returns:
        The cell; its kernel and all else that a guest needs are made when they are first used.

    Raises:
        BadInput: A running test asks for it with `request.getfixturevalue`.
    """
    from pytest_kernelvm.errors import BadInput, Evidence
    from pytest_kernelvm.session.cell import Cell

    if not hasattr(request, "param"):
        raise BadInput(
            "a test requests a fixture of a kernel while it runs",
            Evidence(
                expected="the fixture among the test's arguments, or in usefixtures",
                next_step="a test runs once a cell, which must be known when it is collected",
            ),
        )
    return Cell(request.param, kernelvm_store)


@pytest.fixture
def kernelvm_kernel(kernelvm_cell: Cell) -> Kernel:
    """The kernel under test, built if need be."""
    return kernelvm_cell.kernel


@pytest.fixture
def kernelvm_closure(kernelvm_cell: Cell, request: pytest.FixtureRequest) -> Closure:
    """The closure of the modules that the test wants: its marker's, or the vm-config's."""
    guest_request = markers.guest_request_of(request.node)
    return kernelvm_cell.variant_for(guest_request).closure(guest_request.modules)


@pytest.fixture
def kernelvm_initramfs(
    kernelvm_cell: Cell, kernelvm_closure: Closure, request: pytest.FixtureRequest
) -> Initramfs:
    """The initramfs that `vm` boots with."""
    guest_request = markers.guest_request_of(request.node)
    return kernelvm_cell.variant_for(guest_request).initramfs(
        kernelvm_closure,
        options=guest_request.options,
        blacklist=guest_request.blacklist,
        files=guest_request.files,
    )


@pytest.fixture(scope="session")
def kernelvm_guests(
    request: pytest.FixtureRequest,
    kernelvm_store: Store,
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[Guests]:
    """The guests of this process: it boots and restores them."""
    from pytest_kernelvm.session.guests import Guests

    # pytest may set this fixture up again, when the last test of a run is repeated.
    numbers = request.config.stash.setdefault(NUMBERS, itertools.count())
    # mktemp's own numbering reads the whole directory each time.
    guests = Guests(
        kernelvm_store,
        lambda: tmp_path_factory.mktemp(f"guest-{next(numbers)}", numbered=False),
        console_limit_bytes(request.config),
    )
    yield guests
    guests.close()
    run_report(request.config).tally.add_guests(guests.counts, kernelvm_store)


@pytest.fixture(scope="session", name="_kernelvm_observer")
def kernelvm_observer(request: pytest.FixtureRequest) -> Iterator[Observer]:
    """What shows and records the consoles of the run's guests."""
    from pytest_kernelvm.report.observer import Observer

    config = request.config
    live = config.getoption("capture") == "no" and not hasattr(config, "workerinput")
    casts = Path(config.rootpath, config.getini("kernelvm_casts"))
    observer = Observer(
        live=sys.stdout.write if live else None,
        casts=casts if config.getoption("--kernelvm-record") else None,
        progress=progress(config) if config.get_verbosity() > 0 else None,
    )
    yield observer
    observer.close()
    run_report(config).tally.casts += [str(file) for file in observer.recorded]


@pytest.fixture(name="_kernelvm_guest_factory")
def kernelvm_guest_factory(
    kernelvm_cell: Cell,
    request: pytest.FixtureRequest,
    kernelvm_guests: Guests,
    _kernelvm_observer: Observer,
) -> Iterator[GuestFactory]:
    """What makes the guests of one test, and checks them at its end."""
    from pytest_kernelvm.failures.bundle_writer import BundleWriter
    from pytest_kernelvm.plugin.guest_factory import GuestFactory

    saves_states = request.config.getoption("--kernelvm-keep") == "failed"
    bundle_writer = BundleWriter(kernelvm_cell.store, saves_states=saves_states)
    with contextlib.ExitStack() as stack:
        stack.callback(bundle_writer.discard)
        factory = GuestFactory(
            test=request.node.nodeid,
            cell=kernelvm_cell,
            request=markers.guest_request_of(request.node),
            fresh=fresh_of(request.config),
            stack=stack,
            guests=kernelvm_guests,
            observer=_kernelvm_observer,
            bundle_writer=bundle_writer,
            splat_policy=splat_policy_of(request.node),
        )
        request.node.stash[FACTORY] = factory
        yield factory
        check_guests(request.node, "the test's end", ask=not factory.failed)


@pytest.fixture
def kernelvm_boot_vm(_kernelvm_guest_factory: GuestFactory) -> BootVm:
    """A function that boots a guest; its arguments override those of the marker `kernelvm`."""
    return _kernelvm_guest_factory.boot


@pytest.fixture
def kernelvm_build_module(kernelvm_cell: Cell) -> Callable[[str | Path], tuple[Path, ...]]:
    """A function that builds a directory's modules against the kernel under test.

    Returns:
        A function that takes the directory and returns the .ko files. It raises BuildFailed with
        the compiler's message, or with the reason why the modules do not fit the kernel.
    """
    from pytest_kernelvm.session.smoke_tests import build_for

    return lambda directory: build_for(kernelvm_cell, Path(directory)).files


@pytest.fixture
def kernelvm_new_vm(_kernelvm_guest_factory: GuestFactory) -> BootVm:
    """A function that returns a guest like `vm`; its arguments override those of the marker."""
    return _kernelvm_guest_factory.new


@pytest.fixture
def kernelvm_vms(_kernelvm_guest_factory: GuestFactory) -> LinkedVms:
    """A function that returns two guests with a cable between them: `a, b = vms("a", "b")`."""
    return _kernelvm_guest_factory.linked


@pytest.fixture
def kernelvm_vm(_kernelvm_guest_factory: GuestFactory, request: pytest.FixtureRequest) -> Vm:
    """A guest in its state right after boot."""
    guest = _kernelvm_guest_factory.new()
    next_test = request.config.stash.get(NEXT, None)
    if next_test is not None and _uses_vm_of_same_cell(request.node, next_test):
        from pytest_kernelvm.errors import KernelvmError

        # If its guest cannot be made ready, that test fails, not this one.
        with contextlib.suppress(KernelvmError):
            _kernelvm_guest_factory.restore_ahead(markers.guest_request_of(next_test))
    return guest


def _uses_vm_of_same_cell(item: pytest.Item, other: pytest.Item) -> bool:
    """Return whether another test uses the plugin's `vm` on the same cell.

    A test module may define a `vm` of its own; which guest that needs is not known in advance.
    """
    config = cell_config_of(item)
    same_cell = config is not None and cell_config_of(other) is config
    return same_cell and MISTAKE not in other.stash and claims.uses(other, claims.VM)
