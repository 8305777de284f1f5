"""The kernel that runs is the one that was asked for."""

from pytest_kernelvm import Cell, Kernel, Vm
from pytest_kernelvm.kernel.kconfig.requests import requests_of
from pytest_kernelvm.store.digest import file_digest


def test_release(vm: Vm, kernel: Kernel, cell: Cell) -> None:
    assert vm.uname.release == kernel.release
    assert f"{kernel.release}.".startswith(f"{cell.config.kernel.version}.")
    assert f"Linux version {kernel.release} " in vm.read("/proc/version")


def test_architecture(vm: Vm, cell: Cell) -> None:
    assert vm.uname.machine == cell.config.arch.uname


def test_endianness(vm: Vm, cell: Cell, kernel: Kernel) -> None:
    big = cell.config.arch.endianness == "big"
    assert ("CPU_BIG_ENDIAN" in kernel.config) == big
    # EI_DATA of a program that this kernel executes.
    assert vm.read_bytes("/init")[5] == (2 if big else 1)
    # A page size of 4096 that the kernel itself wrote as a word: AT_PAGESZ (6) in the agent's
    # auxiliary vector.
    word = cell.config.arch.elf_class // 8
    raw = vm.read_bytes("/proc/self/auxv")
    words = [
        int.from_bytes(raw[at : at + word], cell.config.arch.endianness)
        for at in range(0, len(raw), word)
    ]
    assert dict(zip(words[::2], words[1::2], strict=False))[6] == 4096


def test_command_line(vm: Vm, cell: Cell) -> None:
    assert vm.cmdline[-len(cell.config.bootloader_cmdline().split()) :] == tuple(
        cell.config.bootloader_cmdline().split()
    )


def test_configuration_is_the_requested_one(vm: Vm, kernel: Kernel, cell: Cell) -> None:
    running = vm.configuration
    assert running == kernel.config
    for name, request in requests_of(cell.config.kernel).items():
        assert running.get(name, "n") == request.value, request.where


def test_log_is_complete_from_the_first_record(vm: Vm) -> None:
    records = vm.dmesg.records
    assert [record.sequence for record in records] == list(range(len(records)))
    assert "Linux version" in vm.dmesg
    assert "Run /init as init process" in vm.dmesg


def test_log_of_more_than_one_read_is_complete(vm: Vm) -> None:
    for number in range(400):
        vm.write("/dev/kmsg", f"<6>test: record {number} {'x' * (120 + number % 7)}\n")
    records = vm.dmesg.matching("test: record ")
    assert [int(record.text.split()[2]) for record in records] == list(range(400))


def test_power_off(vm: Vm) -> None:
    vm.power_off()
    assert vm.wait_end(0) == 0


def test_reboot(vm: Vm) -> None:
    vm.reboot()
    assert vm.wait_end(0) == 0


def test_qemu_answers(vm: Vm) -> None:
    assert vm.qmp.execute("query-status")["status"] == "running"


def test_console_can_be_expected(vm: Vm) -> None:
    vm.write("/dev/kmsg", "<4>a line for the console: 42\n")
    assert vm.console.expect(r"for the console: (\d+)").group(1) == "42"


def test_what_is_kept_of_a_build(kernel: Kernel, cell: Cell) -> None:
    """Each output apart, with a digest of its own, and what is known about the build."""
    about = cell.store.describe(kernel.directory)
    assert (about["release"], about["modules"]) == (
        kernel.release,
        sum(1 for _module in kernel.module_tree.rglob("*.ko*")),
    )
    assert about["section_bytes"]["text"] > 1 << 20
    assert min(about["section_bytes"][name] for name in ("data", "bss")) > 0
    assert about["built_s"] > 0
    assert about["tools"]["make"].startswith("GNU Make")
    expected = {kernel.image.name, "vmlinux", "vmlinux.stripped", "modules", "headers", "config"}
    expected |= {"System.map", "Module.symvers", "build.log"}
    assert expected <= about["outputs"].keys()
    for name, noted in about["outputs"].items():
        path = kernel.directory / name
        if path.is_file():
            assert (noted["sha256"], noted["size_bytes"]) == (
                file_digest(path),
                path.stat().st_size,
            )
        else:
            assert noted["files"] == sum(not each.is_dir() for each in path.rglob("*"))
    stripped = kernel.directory / "vmlinux.stripped"
    assert stripped.stat().st_size < (kernel.directory / "vmlinux").stat().st_size
    assert not [path for path in kernel.directory.rglob("*") if path.is_symlink()]
    beside = {path.name for path in (kernel.directory / "modules").rglob("*") if path.is_file()}
    assert not beside & {"vmlinux", *kernel.arch.images}


def test_the_module_building_tree_is_pruned(kernel: Kernel) -> None:
    names = [path.relative_to(kernel.devel) for path in kernel.devel.rglob("*") if path.is_file()]
    places = {name.parts[0] for name in names}
    assert places <= {
        *("Makefile", "Module.symvers", ".config", "entry.json", "vmlinux"),
        *("arch", "include", "scripts", "tools"),
    }
    assert not [name for name in names if name.suffix in (".c", ".o") and name.parts[0] == "arch"]
    assert (kernel.devel / "Module.symvers").read_bytes() == (
        kernel.directory / "Module.symvers"
    ).read_bytes()
