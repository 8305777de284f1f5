"""A cell whose kernel is not built: what its guests are made of, and that they boot."""

from __future__ import annotations

import contextlib
import dataclasses
import itertools
from pathlib import Path

import pytest

from pytest_kernelvm.config.load import read_config
from pytest_kernelvm.errors import BadInput
from pytest_kernelvm.failures.bundle_writer import BundleWriter
from pytest_kernelvm.guest.programs import GuestPrograms
from pytest_kernelvm.guest.protocol import SHARED_CONSOLE
from pytest_kernelvm.kernel.build.build import Kernel
from pytest_kernelvm.plugin.guest_factory import GuestFactory
from pytest_kernelvm.plugin.splat_policy import SplatPolicy
from pytest_kernelvm.progress import Silent
from pytest_kernelvm.report.observer import Observer
from pytest_kernelvm.session.cell import Cell
from pytest_kernelvm.session.guest_request import GuestRequest
from pytest_kernelvm.session.guests import Guests
from pytest_kernelvm.store.digest import Digest
from pytest_kernelvm.store.store import Store
from pytest_kernelvm.vm.machine.start import boot_guest
from pytest_kernelvm.vm.verdict.deadlines import Calibration
from tests.fake_guest import ABI, ARCH, BOOT, REPOSITORY
from tests.fake_guest import fake_qemu as fake_qemu

pytestmark = pytest.mark.usefixtures("fake_qemu")

RELEASE = "6.12.0"
DIGEST = Digest("0" * 64)


def kernel_in(directory: Path) -> Kernel:
    """Return a kernel without a module, whose image is a text."""
    tree = directory / "modules" / "lib" / "modules" / RELEASE
    tree.mkdir(parents=True)
    for name in ("modules.dep", "modules.alias", "modules.builtin", "modules.softdep"):
        (tree / name).touch()
    builtin = "".join(f"kernel/drivers/{name}.ko\n" for name in ARCH.network_modules)
    (tree / "modules.builtin").write_text(builtin)
    (directory / "Image").write_text("a kernel")
    (directory / "config").write_text("CONFIG_MODULES=y\n")
    return Kernel(
        digest=DIGEST,
        release=RELEASE,
        arch=ARCH,
        directory=directory,
        image=directory / "Image",
        patches=(),
        headers_digest=DIGEST,
    )


def programs_in(directory: Path) -> GuestPrograms:
    names = ("agent", "modprobe", "preinit", "activate", "terminal")
    files = {name: directory / name for name in names}
    for file in files.values():
        file.write_text("a program")
    return GuestPrograms(digest=DIGEST, abi=ABI, **files)


@pytest.fixture
def cell(tmp_path: Path) -> Cell:
    """What takes a compiler or a QEMU to find out is given."""
    configs = read_config(REPOSITORY / "vm-configs" / "aarch64.yaml")
    config = dataclasses.replace(configs[0], arch=ARCH, modules=(), allow_empty=True)
    made = Cell(config, Store(tmp_path / "store", Silent()))
    vars(made).update(
        kernel=kernel_in(tmp_path / "kernel"),
        programs=programs_in(tmp_path),
        calibration=Calibration(factor=2.0, description="given"),
    )
    return made


def test_what_a_guest_is_made_of(cell: Cell) -> None:
    made = cell.bootable()
    timeouts = cell.config.timeouts
    assert made.label == cell.config.id
    assert made.boot.image == cell.kernel.image
    assert made.boot.initramfs
    assert made.boot.initramfs.is_file()
    assert (made.limits.boot_s, made.limits.command_s) == (timeouts.boot_s, timeouts.command_s)
    assert made.limits.calibration.factor == 2.0
    assert made.boot_command == f"kernelvm boot {cell.config.id}"
    assert made.quoted_argv.startswith("qemu-system-fake ")


def test_guests_of_one_request_are_made_of_the_same(cell: Cell) -> None:
    assert cell.bootable().boot == cell.bootable().boot
    files = {"/file": b"content"}
    assert cell.bootable(files=files).boot.initramfs != cell.bootable().boot.initramfs


def test_a_request_is_in_the_command_to_paste(cell: Cell) -> None:
    made = cell.bootable(cmdline="some=word", cookie=False, network="outside", modules=())
    assert made.boot_command.endswith("--cmdline=some=word --no-cookie --network=outside")


def test_words_for_the_command_line(cell: Cell) -> None:
    assert cell.bootable(cmdline="some=word").boot.cmdline.endswith("some=word")
    shared = cell.bootable(shared_console=True).boot
    assert shared.shared_console
    assert SHARED_CONSOLE in shared.cmdline


def test_a_boot_timeout_of_the_test(cell: Cell) -> None:
    assert cell.bootable(boot_timeout_s=1.5).limits.boot_s == 1.5


def test_a_module_that_the_kernel_lacks(cell: Cell) -> None:
    with pytest.raises(BadInput, match="nosuch"):
        cell.bootable(modules=["nosuch"])


def test_variants_are_made_once(cell: Cell) -> None:
    assert cell.variant() is cell
    assert cell.variant(userland="none") is cell
    other = cell.variant(external={"mine": "int x;"})
    assert other is not cell
    assert cell.variant(external={"mine": "int x;"}) is other


def test_it_boots(cell: Cell, tmp_path: Path) -> None:
    made = cell.bootable()
    acts = tuple(word for act in BOOT for word in ("-act", act))
    made = dataclasses.replace(made, boot=dataclasses.replace(made.boot, extra=acts))
    with boot_guest(made, tmp_path) as vm:
        assert vm.label == cell.config.id
        assert vm.read("/proc/version").startswith("Linux version")


def test_a_second_guest_of_a_test_is_not_the_shared_one(cell: Cell, tmp_path: Path) -> None:
    """It would be the first guest once more, or that would end under the test."""
    directories = (tmp_path / f"guest-{number}" for number in itertools.count())

    def new_directory() -> Path:
        made = next(directories)
        made.mkdir()
        return made

    with contextlib.closing(Guests(cell.store, new_directory)) as guests:
        for _test in range(2):
            with contextlib.ExitStack() as stack:
                factory = GuestFactory(
                    test="test_two",
                    cell=cell,
                    request=GuestRequest(clean=True),
                    fresh="share",
                    stack=stack,
                    guests=guests,
                    observer=Observer(),
                    bundle_writer=BundleWriter(cell.store, saves_states=False),
                    splat_policy=SplatPolicy(test="test_two", mode="fail", markers=(), charged={}),
                )
                vms = [factory.new(), factory.new(), factory.new(cmdline="other")]
                assert len({vm.pid for vm in vms}) == 3
                for vm in vms:
                    vm.ping()
        assert guests.counts.shared == 1
