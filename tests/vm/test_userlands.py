"""Our modprobe beside kmod's, in guests that are otherwise the same: word for word."""

import os
import re
import stat

import pytest

from pytest_kernelvm import BootVm, Closure, Vm
from pytest_kernelvm.config.model import USERLANDS
from pytest_kernelvm.errors import BadInput, ToolMissing
from tests.vm.external import EXTERNAL

pytestmark = [pytest.mark.slow, pytest.mark.every_cell]

CONFIGURATION = """\
# As modprobe.d(5) has it, with what our modprobe can do without a shell.
alias holding held
alias nothing off
blacklist dummy
options failing error=-16
options loop max_part=7 \\
    max_loop=2
install veth /sbin/modprobe --ignore-install veth $CMDLINE_OPTS
install tun /sbin/modprobe nosuch
remove veth /sbin/modprobe -r --ignore-remove veth
softdep bridge pre: dummy nosuch post: veth
"""

MODULES = ("bridge", "held", "loop", "needing", "nft_ct", "nft_masq", "staying", "tun", "veth")

# Each line is a command; what one changes, the next ones find.
SCENE = """\
lsmod
modprobe
modprobe --bogus
modprobe -Z
modprobe nosuch
modprobe -q nosuch
modprobe -a nosuch held alsonot
modprobe -v held
modprobe held
modprobe --first-time held
modprobe -rv holding
modprobe -r held
modprobe --first-time -r held
modprobe -v holding
rmmod holding
rmmod -v held
modprobe nothing
modprobe -v nothing
modprobe -R nothing
modprobe -R holding
modprobe -n -v nft_ct
modprobe --show-depends nft_ct
modprobe -D nft_ct nft_masq
modprobe -aD nft_ct nft_masq nosuch
modprobe --dry-run --verbose -a bridge loop
modprobe -v nft-ct
lsmod
modprobe -r nf_tables
rmmod nf_tables
rmmod nf_conntrack nft_ct
modprobe -v nft_masq
modprobe -rv nft_ct
lsmod
modprobe -r -a nft_masq nf_conntrack
modprobe -ra nfnetlink nosuch
lsmod
modprobe failing
modprobe -v failing error=-2
modprobe -v failing error=-17
modprobe --first-time failing error=-17
modprobe needing
modprobe -v needing error=0
modprobe failing error=0
modprobe -v needing
rmmod failing
modprobe -r needing
modprobe loop max_loop=many
modprobe -v loop max_part=3 "hw_queue_depth=12"
modprobe -r loop
modprobe loop nosuchparameter=1
modprobe -v staying
modprobe -r staying
rmmod staying
modprobe -v veth
modprobe -rv veth
modprobe -v tun
modprobe -i tun
modprobe -v bridge
modprobe -rv bridge
lsmod
modprobe -v rtnl-link-dummy
modprobe -b dummy
modprobe -v dummy
modprobe -r dummy
modprobe ipv6
modprobe -v net-pf-10
modprobe --first-time ipv6
modprobe -r ipv6
modprobe -r net-pf-10
rmmod ipv6
rmmod nosuch
rmmod
insmod
insmod /nosuch.ko
insmod /etc/modprobe.d/scene.conf
modprobe symbol:nft_register_expr
modprobe -r nf_tables
modprobe -S 1.2.3 held
modprobe -d /nosuch held
modprobe -C /nosuch -v holding
modprobe -C /etc/modprobe.d/scene.conf -nv holding
modprobe -- held
modprobe -rq held nosuch
lsmod
"""


# What kmod says where it was built with debugging, as in Debian: the place in its source.
_PLACE = re.compile(r"\.\./\S+:\d+ \w+\(\) ")
# kmod's own output is buffered; that of the commands that it runs comes first.
_COMMANDS = ("install ", "remove ")
_HOLDERS = re.compile(r"\S+,\S+$", re.MULTILINE)


def comparable(said: str) -> str:
    """Leave out what docs/reference/modprobe.md says to be different, and harmless."""
    said = _PLACE.sub("", said).replace(" See -h.", "")
    said = _HOLDERS.sub(lambda found: ",".join(sorted(found[0].split(","))), said)
    lines = said.splitlines()
    nested = any(line.startswith(_COMMANDS) for line in lines)
    return "\n".join(sorted(lines) if nested else lines)


def transcript(vm: Vm, scene: str) -> list[str]:
    """Return what each command of a scene says, and what is loaded behind it."""
    told = []
    for line in scene.splitlines():
        result = vm.run(*(word.strip('"') for word in line.split()))
        loaded = " ".join(module.name for module in vm.modules)
        said = comparable(result.output + result.errors)
        told.append(f"$ {line} → {result.status}\n{said}[{loaded}]")
    return told


def other(new_vm: BootVm, name: str) -> Vm:
    """Boot the test's guest with another userland, or skip where there is none."""
    try:
        return new_vm(userland=name)
    except (BadInput, ToolMissing) as error:
        pytest.skip(error.summary)


@pytest.mark.kernelvm(
    external=EXTERNAL,
    modules=MODULES,
    files={"/etc/modprobe.d/scene.conf": CONFIGURATION.encode()},
)
class TestKmod:
    def test_same_output_and_same_result(self, new_vm: BootVm) -> None:
        theirs = transcript(other(new_vm, "kmod"), SCENE)
        ours = transcript(new_vm(userland="none"), SCENE)
        assert [pair for pair in zip(ours, theirs, strict=True) if pair[0] != pair[1]] == []

    def test_same_plans_for_every_name(self, new_vm: BootVm, closure: Closure) -> None:
        vm = other(new_vm, "kmod")
        aliases = vm.read(f"/lib/modules/{closure.release}/modules.alias").splitlines()[1:]
        names = [module.name for module in closure.modules]
        names += [line.split()[1].replace("*", "x") for line in aliases]
        for option in ("-aD", "-aR", "-anv", "-ranv"):
            theirs, ours = (
                vm.run("modprobe", option, *names),
                vm.run("/kernelvm/modprobe", option, *names),
            )
            assert (ours.status, ours.output) == (theirs.status, theirs.output)
            assert ours.errors == theirs.errors


# kmod gives such a command to a shell; we say that there is none.
FOR_A_SHELL = """\
install held /sbin/modprobe --ignore-install held && /sbin/modprobe loop
"""


@pytest.mark.kernelvm(
    external=EXTERNAL,
    modules=["held", "loop"],
    files={"/etc/modprobe.d/shell.conf": FOR_A_SHELL.encode()},
)
class TestCommandForAShell:
    def test_our_modprobe_refuses_it(self, vm: Vm) -> None:
        refused = vm.fail("modprobe", "held")
        command = FOR_A_SHELL.partition(" held ")[2].strip()
        assert f"modprobe: ERROR: there is no shell for '{command}'\n" in refused.errors
        assert vm.modules == ()

    def test_kmod_executes_it(self, new_vm: BootVm) -> None:
        vm = other(new_vm, "kmod")
        vm.modprobe("held")
        assert {module.name for module in vm.modules} == {"held", "loop"}


@pytest.mark.kernelvm(modules=["loop"])
@pytest.mark.parametrize("name", ["kmod", "busybox"])
class TestBesideOurs:
    def test_both_modprobes_are_in_the_guest(self, new_vm: BootVm, name: str) -> None:
        vm = other(new_vm, name)
        theirs = {"kmod": "kmod version 30", "busybox": "BusyBox v1.35.0 (Debian "}
        said = vm.run("modprobe", "--version")
        assert theirs[name] in said.output + said.errors
        assert vm.succeed("/kernelvm/modprobe", "-R", "loop") == "loop\n"
        assert vm.succeed("sh", "-c", "echo a shell") == "a shell\n"

    def test_options_are_in_force_when_the_kernel_asks(self, new_vm: BootVm, name: str) -> None:
        vm = other(new_vm, name)
        assert vm.read("/proc/sys/kernel/modprobe") == "/sbin/modprobe\n"
        vm.syscall("mknodat", -100, "/control", stat.S_IFCHR | 0o600, 10 << 8 | 237)
        vm.syscall("openat", -100, "/control", os.O_RDWR, 0)
        assert vm.read("/sys/module/loop/parameters/max_loop") == "3\n"


@pytest.mark.kernelvm(
    external=EXTERNAL,
    modules=["wanting", "held", "loop"],
    options={"failing": "error=0"},
    files={"/etc/modprobe.d/held.conf": b"install held /sbin/modprobe loop\n"},
)
class TestWhatBusyboxDoesNot:
    """The differences that docs/reference/modprobe.md has of busybox' modprobe, in deeds."""

    @pytest.mark.parametrize("name", USERLANDS)
    def test_softdeps(self, new_vm: BootVm, name: str) -> None:
        vm = other(new_vm, name)
        vm.modprobe("wanting")
        theirs = {"wanting"} if name == "busybox" else {"wanting", "failing"}
        assert {module.name for module in vm.modules} == theirs

    @pytest.mark.parametrize("name", USERLANDS)
    def test_install_commands(self, new_vm: BootVm, name: str) -> None:
        vm = other(new_vm, name)
        vm.modprobe("held")
        theirs = {"held"} if name == "busybox" else {"loop"}
        assert {module.name for module in vm.modules} == theirs

    @pytest.mark.parametrize("name", USERLANDS)
    def test_builtin_alias(self, new_vm: BootVm, name: str) -> None:
        vm = other(new_vm, name)
        assert vm.run("modprobe", "net-pf-10").status == (1 if name == "busybox" else 0)
        assert vm.modules == ()
