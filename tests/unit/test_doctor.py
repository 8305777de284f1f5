"""The doctor, with machines made of small scripts: what it finds, misses, and tells to do."""

from __future__ import annotations

import shutil
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest

from pytest_kernelvm.config.load import read_config
from pytest_kernelvm.config.model import CellConfig
from pytest_kernelvm.doctor.examination import examine
from pytest_kernelvm.doctor.finding import SYSTEMS, Finding, System
from pytest_kernelvm.doctor.report import rendered
from pytest_kernelvm.doctor.systems import detected_system, install_command, missing_packages, notes

Machine = Callable[[dict[str, str]], None]


@pytest.fixture
def machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Machine:
    """Make PATH hold only the given programs, and setpriv, through which children are started."""
    directory = tmp_path / "bin"
    directory.mkdir()
    setpriv = shutil.which("setpriv")
    assert setpriv is not None
    (directory / "setpriv").symlink_to(setpriv)

    def make(programs: dict[str, str]) -> None:
        for name, script in programs.items():
            path = directory / name
            path.write_text(f"#!/bin/sh\n{script}\n")
            path.chmod(0o755)
        monkeypatch.setenv("PATH", str(directory))

    return make


def cells(
    tmp_path: Path, text: str = "arch: mips\nkernel: {version: '6.12'}\n"
) -> Sequence[CellConfig]:
    file = tmp_path / "malta.yaml"
    file.write_text(text)
    return read_config(file)


def found(
    tmp_path: Path, text: str = "arch: mips\nkernel: {version: '6.12'}\n"
) -> dict[str, Finding]:
    findings = examine(cells(tmp_path, text), debian_sources=tmp_path)
    return {finding.name: finding for finding in findings}


@pytest.mark.parametrize(
    ("name", "said", "version"),
    [
        ("make", "GNU Make 4.3", "4.3"),
        ("flex", "flex 2.6.4", "2.6.4"),
        ("bison", "bison (GNU Bison) 3.8.2", "3.8.2"),
        ("xz", "xz (XZ Utils) 5.4.1", "5.4.1"),
        ("tar", "tar (GNU tar) 1.34", "1.34"),
        ("depmod", "kmod version 30", "30"),
        ("gcc", "12.2.0", "12.2.0"),
        (
            "qemu-system-mips",
            "QEMU emulator version 7.2.22 (Debian 1:7.2+dfsg-7+deb12u18)",
            "7.2.22",
        ),
    ],
)
def test_versions_are_read_from_what_programs_say(
    tmp_path: Path, machine: Machine, name: str, said: str, version: str
) -> None:
    machine({name: f"echo '{said}'; echo 'Copyright 1999'"})
    finding = found(tmp_path)[name]
    assert finding.version == version
    assert finding.path == tmp_path / "bin" / name
    assert finding.satisfied


@pytest.mark.parametrize(
    ("said", "satisfied"), [("3.81", False), ("4.0", True), ("4.4.1", True), ("10.0", True)]
)
def test_older_than_the_minimum_is_not_enough(
    tmp_path: Path, machine: Machine, said: str, satisfied: bool
) -> None:
    machine({"make": f"echo 'GNU Make {said}'"})
    finding = found(tmp_path)["make"]
    assert finding.satisfied is satisfied
    assert finding.outdated is not satisfied
    packages = missing_packages([finding], "apt")
    assert packages == (() if satisfied else ("make",))
    assert (f"{said}, needs 4.0" in rendered([finding])) is not satisfied


@pytest.mark.parametrize("script", ["exit 1", "kill -9 $$", "true", "echo none"])
def test_a_program_that_does_not_tell_its_version_counts_as_found(
    tmp_path: Path, machine: Machine, script: str
) -> None:
    machine({"bc": script})
    finding = found(tmp_path)["bc"]
    assert finding.satisfied
    assert finding.version is None


def test_a_bare_machine_lacks_what_a_minimal_debian_lacks(tmp_path: Path, machine: Machine) -> None:
    machine(dict.fromkeys(("tar", "awk", "cmp", "find", "gzip", "depmod"), "true"))
    # The headers are those of the machine that runs this.
    missing = set(missing_packages(found(tmp_path).values(), "apt")) - {"libc6-dev"}
    assert missing == {
        "make",
        "gcc",
        "flex",
        "bison",
        "bc",
        "patch",
        "xz-utils",
        "gcc-mips-linux-gnu",
        "qemu-system-mips",
        "linux-source-6.12",
    }


def test_without_setpriv_programs_are_found_but_not_asked(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    program = tmp_path / "make"
    program.write_text("#!/bin/sh\necho 'GNU Make 4.3'\n")
    program.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path))
    findings = found(tmp_path)
    assert findings["setpriv"].path is None
    assert findings["make"].satisfied
    assert findings["make"].version is None


def test_headers_are_where_the_compiler_finds_them(tmp_path: Path, machine: Machine) -> None:
    script = """
    [ $1 = -M ] || { echo 12.2.0; exit; }
    read include header
    [ $header = '<sys/types.h>' ] || exit 1
    echo '-: /usr/include/stdc-predef.h \\'
    echo ' /opt/odd/include/sys/types.h'
    """
    machine({"gcc": script})
    findings = found(tmp_path)
    assert findings["libc headers"].path == Path("/opt/odd/include/sys/types.h")
    assert findings["openssl headers"].path is None


def test_a_compiler_without_headers_lacks_libc6_dev(tmp_path: Path, machine: Machine) -> None:
    machine({"gcc": "[ $1 = -dumpfullversion ] && echo 12.2.0"})
    assert "libc6-dev" in missing_packages(found(tmp_path).values(), "apt")


@pytest.mark.parametrize(("base", "required"), [("allnoconfig", False), ("malta_defconfig", True)])
def test_wide_kernels_need_openssl_and_perl(
    tmp_path: Path, machine: Machine, base: str, required: bool
) -> None:
    machine({"gcc": "echo 12.2.0"})
    text = f"arch: mips\nkernel: {{version: '6.12', base: {base}}}\n"
    findings = found(tmp_path, text)
    packages = missing_packages(findings.values(), "apt")
    assert ({"libssl-dev", "perl"} <= set(packages)) is required
    assert findings["perl"].cells == (("malta-6.12",) if required else ())


@pytest.mark.parametrize(("root", "required"), [("", False), ("root: {kind: jffs2}\n", True)])
def test_roots_need_what_makes_their_images(
    tmp_path: Path, machine: Machine, root: str, required: bool
) -> None:
    machine({"mksquashfs": "echo 'mksquashfs version 4.5.1 (2022/03/17)'"})
    findings = found(tmp_path, f"arch: mips\nkernel: {{version: '6.12'}}\n{root}")
    assert findings["mkfs.jffs2"].required is required
    assert findings["mkfs.jffs2"].packages["apt"] == ("mtd-utils",)
    assert findings["mksquashfs"].version == "4.5.1"
    assert not findings["mke2fs"].required


def test_each_finding_names_the_cells_that_need_it(tmp_path: Path, machine: Machine) -> None:
    machine({})
    (tmp_path / "virt.yaml").write_text("arch: aarch64\nkernel: {version: '6.12'}\n")
    both = [
        *cells(tmp_path, "arch: mips\nkernel: {version: ['6.1', '6.12']}\n"),
        *read_config(tmp_path / "virt.yaml"),
    ]
    findings = {f.name: f for f in examine(both, debian_sources=tmp_path)}
    assert findings["make"].cells == ("malta-6.1", "malta-6.12", "virt-6.12")
    assert findings["qemu-system-mips"].cells == ("malta-6.1", "malta-6.12")
    assert findings["qemu-system-aarch64"].cells == ("virt-6.12",)
    assert findings["linux-source-6.12"].cells == ("malta-6.12", "virt-6.12")
    table = rendered(tuple(findings.values()), system="apt").splitlines()
    (line,) = [line for line in table if line.startswith("✗ qemu-system-mips ")]
    assert line.endswith("boots mips kernels (for malta-6.1, malta-6.12)")
    (line,) = [line for line in table if line.startswith("✗ make ")]
    assert line.endswith("builds kernels")


def test_debian_source_is_found_by_its_tarball(tmp_path: Path, machine: Machine) -> None:
    machine({"dpkg-query": "echo 6.12.48-1~deb12u1"})
    (tmp_path / "linux-source-6.12.tar.xz").write_bytes(b"")
    finding = found(tmp_path)["linux-source-6.12"]
    assert finding.satisfied
    assert finding.version == "6.12.48"
    assert finding.path == tmp_path / "linux-source-6.12.tar.xz"


def test_a_tarball_of_the_users_own_needs_no_package(tmp_path: Path, machine: Machine) -> None:
    machine({})
    tarball = tmp_path / "linux-6.12.tar.xz"
    tarball.write_bytes(b"")
    text = "arch: mips\nkernel: {version: '6.12', source: {tarball: linux-6.12.tar.xz}}\n"
    chosen = cells(tmp_path, text)
    tarball.unlink()
    (finding,) = [f for f in examine(chosen) if f.name == str(tarball)]
    assert not finding.satisfied
    assert missing_packages([finding], "apt") == ()
    assert notes([finding], "apt") == (f"put kernel source at {tarball}",)


@pytest.mark.parametrize(
    ("kernel", "lacking"),
    [
        ("source: {tarball: 'https://host/l.tar.xz', sha256: %s}" % ("a" * 64), set()),
        ("source: {version: '6.12.30'}", set()),
        ("source: {debian: linux-source-6.12, suite: sid}", set()),
        ("source: {debian: linux-source-6.12}", {"linux-source-6.12"}),
        ("source: {git: 'https://host/linux', ref: v6.12}", {"git"}),
        ("source: {git: absent, ref: v6.12}", {"git", "absent"}),
        ("source: {tree: absent}", {"absent"}),
        ("source: {prebuilt: 'debian:linux-image-4kc-malta:mipsel'}", set()),
        ("source: {prebuilt: 'k.deb,m.deb'}", {"k.deb", "m.deb"}),
        ("source: {prebuilt: k.rpm}", {"bsdtar", "k.rpm"}),
        ("source: {version: '6.12'}, LLVM: true", {"clang", "ld.lld", "llvm-ar"}),
        ("source: {version: '6.12'}, LLVM: 16", {"clang-16", "ld.lld-16", "llvm-ar-16"}),
        ("source: {version: '6.12'}, image: [vmlinux, uImage]", {"mkimage"}),
    ],
)
def test_what_a_choice_needs(
    kernel: str, lacking: set[str], tmp_path: Path, machine: Machine
) -> None:
    """Beside what all cells need."""
    machine({})
    findings = found(tmp_path, f"arch: mipsel\nkernel: {{version: '6.12', {kernel}}}\n")
    (tmp_path / "l.tar").write_bytes(b"")
    plain = "arch: mipsel\nkernel: {version: '6.12', source: {tarball: l.tar}}\n"
    more = findings.keys() - found(tmp_path, plain).keys()
    assert {name.removeprefix(f"{tmp_path}/") for name in more} == lacking
    assert all(findings[name].required and not findings[name].path for name in more)


def test_packages_of_a_version_of_llvm(tmp_path: Path, machine: Machine) -> None:
    machine({})
    text = "arch: mips\nkernel: {version: '6.12', LLVM: 16}\n"
    packages = missing_packages(found(tmp_path, text).values(), "apt")
    assert {"clang-16", "lld-16", "llvm-16"} <= set(packages)


COMMANDS: list[tuple[System, str, str]] = [
    (
        "apt",
        "apt-get install --no-install-recommends",
        "flex patch gcc-mips-linux-gnu qemu-system-mips linux-source-6.12",
    ),
    (
        "dnf",
        "dnf install --setopt=install_weak_deps=False",
        "flex patch qemu-system-mips-core",
    ),
    ("pacman", "pacman -S --needed", "flex patch qemu-system-mips"),
    ("nix", "nix-shell -p", "flex gnupatch pkgsCross.mips-linux-gnu.buildPackages.gcc qemu"),
    ("brew", "brew install", "flex gpatch qemu"),
]
LACKING = ("flex", "patch", "mips-linux-gnu-gcc", "qemu-system-mips", "linux-source-6.12")


@pytest.fixture
def lacking(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[Finding, ...]:
    """The findings of things that a machine lacks, with one that it has."""
    monkeypatch.setenv("PATH", str(tmp_path))
    findings = found(tmp_path)
    return tuple(findings[name] for name in ("python", *LACKING))


@pytest.mark.parametrize(("system", "command", "packages"), COMMANDS)
def test_install_commands(
    lacking: tuple[Finding, ...], system: System, command: str, packages: str
) -> None:
    said = install_command(lacking, system).removeprefix("sudo ")
    assert said == f"{command} {packages}"
    assert missing_packages(lacking, system) == tuple(packages.split())


@pytest.mark.parametrize(("system", "command", "packages"), COMMANDS)
def test_commands_for_another_machine_name_everything(
    lacking: tuple[Finding, ...], system: System, command: str, packages: str
) -> None:
    said = install_command(lacking, system, everything=True).removeprefix("sudo ")
    assert said.startswith(f"{command} python")
    assert said.endswith(packages)


def test_nothing_missing_means_no_command(lacking: tuple[Finding, ...]) -> None:
    here = [f for f in lacking if f.satisfied]
    assert here
    assert all(install_command(here, system) == "" for system in SYSTEMS)
    assert all(notes(here, system) == () for system in SYSTEMS)
    assert "everything required is here" in rendered(here)


@pytest.mark.parametrize(
    ("system", "words"),
    [
        ("dnf", "dnf has no package of mips-linux-gnu-gcc"),
        ("pacman", "pacman has no package of mips-linux-gnu-gcc"),
        ("brew", "brew has no package of mips-linux-gnu-gcc"),
        ("brew", "kernelvm works on Linux only"),
        ("nix", "Nix calls the tools mips-unknown-linux-gnu-*"),
        ("dnf", "linux-source-6.12 is a package of Debian; give the vm-config a kernel.source"),
    ],
)
def test_needs_without_a_package_are_reported(
    lacking: tuple[Finding, ...], system: System, words: str
) -> None:
    assert any(note.startswith(words) for note in notes(lacking, system))
    assert words in rendered(lacking, system=system)


def test_debian_has_a_package_for_all(lacking: tuple[Finding, ...]) -> None:
    assert notes(lacking, "apt") == ()


def test_the_table_shows_every_system_on_request(lacking: tuple[Finding, ...]) -> None:
    shown = rendered(lacking, system="apt")
    assert "✓ python" in shown
    assert "✗ flex" in shown
    assert "dnf install" not in shown
    shown = rendered(lacking, system="apt", all_systems=True)
    for _, command, _ in COMMANDS:
        assert command in shown


@pytest.mark.parametrize(
    ("os_release", "system"),
    [
        ('PRETTY_NAME="Debian GNU/Linux 12 (bookworm)"\nID=debian\n', "apt"),
        ('ID=linuxmint\nID_LIKE="ubuntu debian"\n', "apt"),
        ("ID=fedora\nVERSION_ID=43\n", "dnf"),
        ('ID="rocky"\nID_LIKE="rhel centos fedora"\n', "dnf"),
        ("ID=arch\n", "pacman"),
        ("ID=nixos\n# a comment\n\n", "nix"),
        ("ID=plan9\n", None),
        ("", None),
    ],
)
def test_the_system_is_known_by_os_release(
    tmp_path: Path, machine: Machine, os_release: str, system: System | None
) -> None:
    machine({})
    file = tmp_path / "os-release"
    file.write_text(os_release)
    assert detected_system(file) == system


def test_the_system_is_known_by_its_package_program(tmp_path: Path, machine: Machine) -> None:
    machine({"brew": "true"})
    assert detected_system(tmp_path / "missing") == "brew"


def test_python_is_the_one_that_runs(tmp_path: Path, machine: Machine) -> None:
    machine({})
    assert found(tmp_path)["python"].path == Path(sys.executable)


def test_slow_programs_are_asked_at_the_same_time(tmp_path: Path, machine: Machine) -> None:
    sleep = shutil.which("sleep")
    assert sleep is not None
    script = f"{sleep} 1; echo 7.2"
    machine(dict.fromkeys(("make", "bc", "xz", "flex", "patch"), script))
    started = time.monotonic()
    found(tmp_path)
    assert time.monotonic() - started < 4
