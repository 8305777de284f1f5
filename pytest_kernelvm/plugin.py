"""The pytest plugin: options, markers, fixtures and reports.

It is loaded in every pytest run of an environment, so nothing heavy is imported before a test asks
for a guest.
"""

from __future__ import annotations

import contextlib
import itertools
import sys
from collections.abc import Callable, Generator, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from pytest_kernelvm import BootVm, Cell, Closure, Initramfs, Kernel, Vm
    from pytest_kernelvm.config import VmConfig
    from pytest_kernelvm.fixtures import Asked, GuestFactory
    from pytest_kernelvm.kernel.store import Store
    from pytest_kernelvm.vm.guests import Guests

MARKER = (
    "kernelvm(*, modules=None, userland=None, external=None, options=None, blacklist=(), "
    "files=None, cmdline='', cookie=True, shared_console=False, boot_timeout_s=None, fresh=None, "
    "clean=False): the guest of this test"
)


def pytest_addoption(parser: pytest.Parser) -> None:
    """Declare the options; this is the plugin's whole cost in a run without guests."""
    group = parser.getgroup("kernelvm", "kernels in virtual machines")
    group.addoption(
        "--kernelvm-config",
        action="append",
        default=[],
        metavar="NAME",
        help="test this vm-config (malta), cell (malta-6.12) or file; repeatable; default all",
    )
    group.addoption(
        "--kernelvm-arch",
        action="append",
        default=[],
        metavar="ARCH",
        help="test the cells of this architecture; repeatable",
    )
    group.addoption(
        "--kernelvm-configs",
        metavar="DIR",
        help="directory of vm-configs, default the ini option kernelvm_configs",
    )
    group.addoption(
        "--kernelvm-store",
        metavar="DIR",
        help="where built kernels are kept, default $KERNELVM_STORE or ~/.cache/kernelvm",
    )
    group.addoption(
        "--kernelvm-source",
        metavar="KIND:VALUE",
        help="take the kernels from there: tree:PATH, git:REPOSITORY@REF, … as for kernelvm build",
    )
    group.addoption(
        "--kernelvm-fresh",
        choices=("restore", "boot", "share"),
        help="how each `vm` gets its state right after boot: from a stored snapshot (restore, the "
        "default), by booting (boot), or from the test before where both are marked clean=True "
        "(share); default the ini option kernelvm_fresh",
    )
    parser.addini("kernelvm_configs", "directory of vm-configs", default="vm-configs")
    parser.addini(
        "kernelvm_fresh", "restore, boot or share, as --kernelvm-fresh", default="restore"
    )


def pytest_configure(config: pytest.Config) -> None:
    """Register the markers."""
    config.addinivalue_line("markers", "vm: boots a guest; set by the plugin itself")
    config.addinivalue_line("markers", MARKER)
    config.addinivalue_line(
        "markers",
        "kernelvm_features(name, ...): skips the test where no patch of the kernel has the feature",
    )


def pytest_runtest_setup(item: pytest.Item) -> None:
    """Skip a test that asks for a feature which the patches of its cell's kernel do not bring."""
    wanted = {name for marker in item.iter_markers("kernelvm_features") for name in marker.args}
    params = getattr(getattr(item, "callspec", None), "params", {})
    if wanted and "cell" in params:
        lacking = wanted - set(params["cell"].kernel.features)
        if lacking:
            pytest.skip(f"no patch of {params['cell'].id} brings {', '.join(sorted(lacking))}")


def _configs_directory(config: pytest.Config) -> Path:
    named = config.getoption("--kernelvm-configs") or config.getini("kernelvm_configs")
    return Path(config.rootpath, named)


_MISTAKE = pytest.StashKey[pytest.UsageError]()
_CELLS = pytest.StashKey[tuple["VmConfig", ...]]()
_FACTORY = pytest.StashKey["GuestFactory"]()
_NEXT = pytest.StashKey["pytest.Item | None"]()


def _selected(config: pytest.Config) -> tuple[VmConfig, ...]:
    if _CELLS not in config.stash:
        from pytest_kernelvm.config import select_cells, source_named, with_source
        from pytest_kernelvm.errors import KernelvmError

        try:
            cells = select_cells(
                _configs_directory(config),
                names=config.getoption("--kernelvm-config"),
                arches=config.getoption("--kernelvm-arch"),
            )
            source = config.getoption("--kernelvm-source")
            config.stash[_CELLS] = with_source(cells, source_named(source)) if source else cells
        except KernelvmError as error:
            raise pytest.UsageError(str(error)) from None
    return config.stash[_CELLS]


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Make one test a cell of each test that uses a guest or what it is made of."""
    if "cell" not in metafunc.fixturenames:
        return
    try:
        cells = _selected(metafunc.config)
    except pytest.UsageError as error:
        metafunc.config.stash[_MISTAKE] = error
        raise
    metafunc.parametrize(
        "cell",
        [pytest.param(cell, id=cell.id, marks=pytest.mark.vm) for cell in cells],
        indirect=True,
        scope="session",
    )


@pytest.hookimpl(wrapper=True)
def pytest_make_collect_report(
    collector: pytest.Collector,
) -> Generator[None, pytest.CollectReport, pytest.CollectReport]:
    """Let a mistake in options or vm-configs end the run; pytest would show it as a traceback."""
    report = yield
    if _MISTAKE in collector.config.stash:
        raise collector.config.stash[_MISTAKE]
    return report


def pytest_itemcollected(item: pytest.Item) -> None:
    """Check the marker's arguments, so that a mistake is found before anything is built."""
    if item.get_closest_marker("kernelvm"):
        _asked(item)


def _asked(item: pytest.Item) -> Asked:
    from pytest_kernelvm.fixtures import asked_by

    found: dict[str, Any] = {}
    for marker in reversed(list(item.iter_markers("kernelvm"))):
        if marker.args:
            raise pytest.UsageError(f"{item.nodeid}: the marker is {MARKER}")
        found |= marker.kwargs
    try:
        return asked_by(**found)
    except TypeError as error:
        raise pytest.UsageError(f"{item.nodeid}: {error}; the marker is {MARKER}") from None


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> Any:
    """Give all tests of a cell to one worker, so that kernels are built and read once."""
    if config.getoption("dist", "no") != "load" or not _configs_directory(config).is_dir():
        return None
    from pytest_kernelvm.scheduling import CellScheduling

    return CellScheduling(config, log, [cell.id for cell in _selected(config)])


class _Progress:
    """Progress on standard error, past pytest's capturing; in xdist workers as well."""

    def __init__(self, config: pytest.Config) -> None:
        from pytest_kernelvm.progress import StreamProgress

        self._capture = config.pluginmanager.getplugin("capturemanager")
        with self._uncaptured():
            self._stream = StreamProgress(sys.stderr)

    def _uncaptured(self) -> contextlib.AbstractContextManager[None]:
        if self._capture is None:
            return contextlib.nullcontext()
        disabled: contextlib.AbstractContextManager[None] = (
            self._capture.global_and_fixture_disabled()
        )
        return disabled

    def say(self, text: str) -> None:
        """Show one lasting line."""
        with self._uncaptured():
            self._stream.say(text)

    def update(self, text: str) -> None:
        """Show how far the current stage is."""
        with self._uncaptured():
            self._stream.update(text)


@pytest.fixture(scope="session")
def kernelvm_store(request: pytest.FixtureRequest) -> Iterator[Store]:
    """The store of kernels."""
    from pytest_kernelvm.kernel.store import Store, default_store
    from pytest_kernelvm.process import signals_interrupt

    named = request.config.getoption("--kernelvm-store")
    root = Path(named).absolute() if named else default_store()
    with signals_interrupt():
        yield Store(root, _Progress(request.config))


@pytest.fixture(scope="session")
def cell(request: pytest.FixtureRequest, kernelvm_store: Store) -> Cell:
    """The cell under test: one kernel on one machine."""
    from pytest_kernelvm.vm.cell import Cell

    return Cell(request.param, kernelvm_store)


@pytest.fixture
def kernel(cell: Cell) -> Kernel:
    """The kernel under test, built if need be."""
    return cell.kernel


@pytest.fixture
def closure(cell: Cell, request: pytest.FixtureRequest) -> Closure:
    """The closure of the modules that the test wants: its marker's, or the vm-config's."""
    from pytest_kernelvm.fixtures import cell_of

    asked = _asked(request.node)
    return cell_of(cell, asked).closure(asked.modules)


@pytest.fixture
def initramfs(cell: Cell, closure: Closure, request: pytest.FixtureRequest) -> Initramfs:
    """The initramfs that `vm` boots with."""
    from pytest_kernelvm.fixtures import cell_of

    asked = _asked(request.node)
    return cell_of(cell, asked).initramfs(
        closure, options=asked.options, blacklist=asked.blacklist, files=asked.files
    )


@pytest.fixture(scope="session")
def kernelvm_guests(
    kernelvm_store: Store, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Guests]:
    """What makes guests ready."""
    from pytest_kernelvm.vm.guests import Guests

    numbers = itertools.count()
    # mktemp's own numbering reads the whole directory each time.
    guests = Guests(
        kernelvm_store,
        lambda: tmp_path_factory.mktemp(f"guest-{next(numbers)}", numbered=False),
    )
    yield guests
    guests.close()


@pytest.fixture
def _guest_factory(
    cell: Cell, request: pytest.FixtureRequest, kernelvm_guests: Guests
) -> Iterator[GuestFactory]:
    from pytest_kernelvm.fixtures import GuestFactory

    with contextlib.ExitStack() as stack:
        factory = GuestFactory(
            cell=cell,
            asked=_asked(request.node),
            fresh=_fresh(request.config),
            stack=stack,
            guests=kernelvm_guests,
        )
        request.node.stash[_FACTORY] = factory
        yield factory


def _fresh(config: pytest.Config) -> str:
    named: str = config.getoption("--kernelvm-fresh") or config.getini("kernelvm_fresh")
    return named


@pytest.fixture
def boot_vm(_guest_factory: GuestFactory) -> BootVm:
    """A function that boots a guest; its arguments override those of the marker `kernelvm`."""
    return _guest_factory.boot


@pytest.fixture
def build_module(cell: Cell) -> Callable[[str | Path], tuple[Path, ...]]:
    """A function that builds a directory's modules against the kernel under test.

    It returns the .ko files, and raises BuildFailed with the compiler's words, or with what makes
    them unfit for this kernel.
    """
    from pytest_kernelvm.vm.trial import build_for

    return lambda directory: build_for(cell, Path(directory)).files


@pytest.fixture
def new_vm(_guest_factory: GuestFactory) -> BootVm:
    """A function that gives a guest as `vm` is; its arguments override those of the marker."""
    return _guest_factory.new


@pytest.fixture
def vm(_guest_factory: GuestFactory, request: pytest.FixtureRequest) -> Vm:
    """A guest in its state right after boot."""
    guest = _guest_factory.new()
    following = request.config.stash.get(_NEXT, None)
    if following is not None and _same_cell(request.node, following):
        _guest_factory.prepare(_asked(following))
    return guest


def _same_cell(item: pytest.Item, other: pytest.Item) -> bool:
    """Whether a test that wants `vm` follows, of the same cell."""
    if not (isinstance(item, pytest.Function) and isinstance(other, pytest.Function)):
        return False
    # A test module may have a `vm` of its own, whose wishes nobody knows before.
    defined = other._fixtureinfo.name2fixturedefs.get("vm", ())
    if not defined or defined[-1].func.__module__ != __name__:
        return False
    return bool(item.callspec.params["cell"] is other.callspec.params["cell"])


@pytest.hookimpl(wrapper=True)
def pytest_runtest_protocol(
    item: pytest.Item, nextitem: pytest.Item | None
) -> Generator[None, object, object]:
    """Remember which test is next, so that its guest can be restored while this one runs."""
    item.config.stash[_NEXT] = nextitem
    return (yield)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    item: pytest.Item, call: pytest.CallInfo[None]
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Show what a guest's failure needs: the verdict, its console, how to boot it by hand."""
    report = yield
    if call.excinfo is None or report.skipped or not item.get_closest_marker("vm"):
        return report
    from pytest_kernelvm.report.failure import describe_failure

    factory = item.stash.get(_FACTORY, None)
    if factory:
        factory.failed = True
    describe_failure(report, call.excinfo, factory.made if factory else [])
    # JUnit's writer asks the teardown's report, which is given what the item has.
    item.user_properties.append(report.user_properties[-1])
    return report
