"""The pytest plugin: options, markers, fixtures and reports.

It is loaded in every pytest run of an environment, so nothing heavy is imported before a test asks
for a guest.
"""

from __future__ import annotations

from collections.abc import Generator, Sequence
from typing import TYPE_CHECKING, Any

import pytest

from pytest_kernelvm.plugin import claims, markers
from pytest_kernelvm.plugin.cells import cell_config_of, is_claimed, selected_cells
from pytest_kernelvm.plugin.fixtures import (
    kernelvm_boot_vm,
    kernelvm_build_module,
    kernelvm_cell,
    kernelvm_closure,
    kernelvm_guest_factory,
    kernelvm_guests,
    kernelvm_initramfs,
    kernelvm_kernel,
    kernelvm_new_vm,
    kernelvm_observer,
    kernelvm_store,
    kernelvm_vm,
    kernelvm_vms,
)
from pytest_kernelvm.plugin.guest_check import check_guests
from pytest_kernelvm.plugin.options import (
    VALUED,
    are_named,
    check_ini,
    configs_directory,
    pytest_addoption,
)
from pytest_kernelvm.plugin.reporting import header_of, report_mistakes, run_report
from pytest_kernelvm.plugin.stash import CELLS, FACTORY, FATAL, MISTAKE, NEXT, RUN, UNUSABLE

if TYPE_CHECKING:
    from pytest_kernelvm.errors import KernelvmError

# pytest finds hooks and fixtures in the module that it loads.
__all__ = [
    "kernelvm_boot_vm",
    "kernelvm_build_module",
    "kernelvm_cell",
    "kernelvm_closure",
    "kernelvm_guest_factory",
    "kernelvm_guests",
    "kernelvm_initramfs",
    "kernelvm_kernel",
    "kernelvm_new_vm",
    "kernelvm_observer",
    "kernelvm_store",
    "kernelvm_vm",
    "kernelvm_vms",
    "pytest_addoption",
]

SHORT_FIXTURES = "kernelvm-short-fixtures"
# The property of a failed test in JUnit's file.
VERDICT = "kernelvm_verdict"


@pytest.hookimpl(wrapper=True, tryfirst=True)
def pytest_load_initial_conftests(
    early_config: pytest.Config, args: list[str]
) -> Generator[None, None, None]:
    """Keep pytest from taking an option's value for a path of tests; see rootdir.py."""
    if any(arg in VALUED for arg in args):
        from pytest_kernelvm.plugin.rootdir import restore_rootdir

        restore_rootdir(early_config, args, VALUED)
    yield


def pytest_configure(config: pytest.Config) -> None:
    """Register the markers and, unless they are switched off, the fixtures' short names."""
    for marker in markers.descriptions(with_signature=config.getoption("markers")):
        config.addinivalue_line("markers", marker)
    check_ini(config)
    if config.getini("kernelvm_short_fixtures"):
        from pytest_kernelvm.plugin import short_fixtures

        config.pluginmanager.register(short_fixtures, SHORT_FIXTURES)


@pytest.hookimpl(trylast=True)
def pytest_sessionstart(session: pytest.Session) -> None:
    """Have other plugins' fixtures take precedence over the plugin's with the same short name."""
    short_fixtures: Any = session.config.pluginmanager.get_plugin(SHORT_FIXTURES)
    if short_fixtures:
        short_fixtures.go_behind_others(session)


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_setup(item: pytest.Item) -> None:
    """Fail a test whose marker is misused; skip one whose kernel lacks a feature that it needs."""
    # A test may run again after it failed; what its first run left does not count.
    if FACTORY in item.stash:
        del item.stash[FACTORY]
    item.user_properties[:] = [each for each in item.user_properties if each[0] != VERDICT]
    if MISTAKE in item.stash:
        raise item.stash[MISTAKE]
    needed = markers.features_of(item)
    cell = cell_config_of(item) if needed else None
    lacking = needed - set(cell.kernel.features) if cell else set()
    if cell and lacking:
        pytest.skip(f"no patch of {cell.id} brings {', '.join(sorted(lacking))}")


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Have each test that uses a guest, or what it is made of, run once for each cell."""
    if not is_claimed(metafunc.definition):
        return
    from pytest_kernelvm.errors import KernelvmError

    try:
        cells = selected_cells(metafunc.config)
    except KernelvmError as error:
        if not are_named(metafunc.config) or hasattr(metafunc.config, "workerinput"):
            # Each of these tests fails with this error; see pytest_itemcollected.
            return
        metafunc.config.stash[FATAL] = pytest.UsageError(str(error))
        raise metafunc.config.stash[FATAL] from None
    if claims.CELL not in metafunc.fixturenames:
        # pytest before 9 does not follow a fixture that overrides one of the plugin's and uses it.
        metafunc.fixturenames.append(claims.CELL)
    metafunc.parametrize(
        claims.CELL,
        [pytest.param(cell, id=cell.id, marks=pytest.mark.vm) for cell in cells],
        indirect=True,
        scope="session",
    )


@pytest.hookimpl(wrapper=True)
def pytest_make_collect_report(
    collector: pytest.Collector,
) -> Generator[None, pytest.CollectReport, pytest.CollectReport]:
    """Let a mistake on the command line end the run; pytest would show a traceback instead."""
    report = yield
    if FATAL in collector.config.stash:
        raise collector.config.stash[FATAL]
    return report


def pytest_itemcollected(item: pytest.Item) -> None:
    """Find mistakes in a test's markers before anything is built; that test alone fails."""
    mistake: KernelvmError | None = markers.mistake_in(item)
    if UNUSABLE in item.config.stash and is_claimed(item):
        item.add_marker("vm")
        mistake = mistake or item.config.stash[UNUSABLE]
    if mistake:
        item.stash[MISTAKE] = mistake


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> Any:
    """Have neighbouring tests of a cell run on one worker, so that kernels are read less often."""
    if config.getoption("dist", "no") != "load":
        return None
    if not configs_directory(config).is_dir() and not are_named(config):
        return None
    from pytest_kernelvm.errors import KernelvmError
    from pytest_kernelvm.plugin.scheduling import CellScheduling

    try:
        cells = selected_cells(config)
    except KernelvmError as error:
        if are_named(config):
            raise pytest.UsageError(str(error)) from None
        # Only the workers know whether a test needs the cells; they report the mistake.
        return None
    return CellScheduling(config, log, [cell.id for cell in cells])


@pytest.hookimpl(tryfirst=True)
def pytest_collection_finish(session: pytest.Session) -> None:
    """Start the report of a run with guests; with --collect-only, report mistakes in markers."""
    config = session.config
    if config.getoption("collectonly"):
        report_mistakes(session)
    if any(cell_config_of(item) for item in session.items):
        run_report(config)


def pytest_report_collectionfinish(
    config: pytest.Config, items: Sequence[pytest.Item]
) -> list[str]:
    """Return the lines that say with what the selected cells are tested."""
    return header_of(config, [item.nodeid for item in items]) if RUN in config.stash else []


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_node_collection_finished(node: Any, ids: Sequence[str]) -> None:
    """Print these lines when the first worker has collected its tests.

    Args:
        node: The worker's.
        ids: Of the tests that it has collected.
    """
    config = node.config
    if CELLS not in config.stash or RUN in config.stash:
        return
    lines = header_of(config, ids)
    if lines:
        run_report(config)
        reporter = config.pluginmanager.getplugin("terminalreporter")
        reporter.ensure_newline()
        for line in lines:
            reporter.write_line(line)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_call(item: pytest.Item) -> Generator[None, object, object]:
    """Fail a test that passed or was skipped if something is wrong with its guests."""
    try:
        result = yield
    except (pytest.skip.Exception, pytest.xfail.Exception):
        check_guests(item, "the test", ask=True)
        raise
    check_guests(item, "the test", ask=True)
    return result


@pytest.hookimpl(wrapper=True)
def pytest_runtest_protocol(
    item: pytest.Item, nextitem: pytest.Item | None
) -> Generator[None, object, object]:
    """Note which test is next, so that its guest can be restored while this one runs."""
    item.config.stash[NEXT] = nextitem
    try:
        return (yield)
    finally:
        # Items live until the run ends; consoles and journals should not.
        if FACTORY in item.stash:
            del item.stash[FACTORY]


def _is_ours_without_cell(item: pytest.Item, call: pytest.CallInfo[None]) -> bool:
    """Whether a test with the marker `vm` and without a cell ended with a KernelvmError.

    Other projects may have a marker of that name.

    Returns:
        Whether the report of the test is the plugin's to complete.
    """
    if call.excinfo is None or item.get_closest_marker("vm") is None:
        return False
    from pytest_kernelvm.errors import KernelvmError

    return isinstance(call.excinfo.value, KernelvmError)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    item: pytest.Item, call: pytest.CallInfo[None]
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Add to the report of a failed test: the verdict, its guests' consoles, how to boot them."""
    report = yield
    cell = cell_config_of(item)
    if cell:
        from pytest_kernelvm.report.run import note_cell

        note_cell(report, cell)
    elif MISTAKE not in item.stash and not _is_ours_without_cell(item, call):
        return report
    if call.excinfo is None or report.skipped:
        return report
    from pytest_kernelvm.report.failure import describe_failure

    factory = item.stash.get(FACTORY, None)
    if factory:
        factory.failed = True
    guests, bundle_writer = (factory.vms, factory.bundle_writer) if factory else ((), None)
    describe_failure(report, call.excinfo, guests, bundle_writer)
    if bundle_writer and bundle_writer.bundle:
        run_report(item.config).tally.note_bundle(bundle_writer.bundle.name)
    # JUnit's writer reads the properties of the teardown's report, which come from the item.
    item.user_properties.append(report.user_properties[-1])
    return report
