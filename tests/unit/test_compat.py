"""Whether modules fit an image: objects of a real compiler, tables as kbuild writes them."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from pytest_kernelvm.arch import ARCHES
from pytest_kernelvm.cli import main
from pytest_kernelvm.errors import BadInput, BuildFailed, ToolMissing, Verdict
from pytest_kernelvm.kernel.build import Kernel
from pytest_kernelvm.kernel.compat import config_near, exported, objections, require_fit
from pytest_kernelvm.kernel.digest import digest_of
from pytest_kernelvm.process import find_program, run

ARCH = ARCHES["mips"]
RELEASE = "6.12.30"
MODULE = """\
extern int register_thing(void);
int init_module(void);
int init_module(void) { return register_thing(); }
static const char info[] __attribute__((section(".modinfo"), used)) =
    "name=m\\0vermagic=%s %s";
/* include/linux/module.h, struct modversion_info */
static const struct { unsigned long crc; char name[60]; } versions[]
    __attribute__((section("__versions"), used)) = {{ %s, "register_thing" }};
"""


@pytest.fixture
def kernel(tmp_path: Path) -> Kernel:
    directory = tmp_path / "kernels" / "d"
    directory.mkdir(parents=True)
    (directory / "Module.symvers").write_text(
        "0x11111111\tregister_thing\tvmlinux\tEXPORT_SYMBOL\t\n"
    )
    (directory / "config").write_text("CONFIG_MODULES=y\nCONFIG_NR=4\n")
    uses = {"NF_CONNTRACK": (2, ["net/core/dev.o", "net/netfilter/core.o"]), "NR": (0, [])}
    (directory / "config-uses.json").write_text(json.dumps(uses))
    return Kernel(
        digest=digest_of("d"),
        release=RELEASE,
        arch=ARCH,
        directory=directory,
        image=directory / "vmlinux",
        patches=(),
        headers_digest=digest_of(""),
    )


def module(
    directory: Path,
    *,
    release: str = RELEASE,
    words: str = "SMP mod_unload MIPS32_R2 32BIT",
    crc: str = "0x11111111",
) -> Path:
    try:
        gcc = find_program(f"{ARCH.toolchain_prefix}gcc")
    except ToolMissing as missing:
        pytest.skip(missing.summary)
    directory.mkdir(parents=True, exist_ok=True)
    (directory / "m.c").write_text(MODULE % (release, words, crc))
    made = directory / "m.ko"
    flags = ["-mno-abicalls", "-fno-pic", "-G0", "-O2"]
    run([gcc, *flags, "-c", "-o", made, directory / "m.c"], timeout_s=60)
    return made


def test_a_module_that_fits(kernel: Kernel, tmp_path: Path) -> None:
    assert objections(kernel, [module(tmp_path)]) == ()
    assert objections(kernel, [module(tmp_path)], config=dict(kernel.config)) == ()


def test_another_release(kernel: Kernel, tmp_path: Path) -> None:
    (found,) = objections(kernel, [module(tmp_path, release="6.12.31")])
    assert str(found) == "vermagic: m.ko is for 6.12.31, this one is 6.12.30"


def test_other_words_of_vermagic(kernel: Kernel, tmp_path: Path) -> None:
    """The kernel compares them too (kernel/module/main.c, check_modinfo): it refuses to load it."""
    own = kernel.module_tree / "kernel"
    own.mkdir(parents=True)
    shutil.copyfile(module(tmp_path / "own"), own / "own.ko")
    assert objections(kernel, [module(tmp_path)]) == ()
    (found,) = objections(kernel, [module(tmp_path, words="SMP preempt mod_unload MIPS32_R2")])
    assert found.kind == "vermagic"
    assert found.text == (
        "m.ko is for '6.12.30 SMP preempt mod_unload MIPS32_R2', "
        "this one is '6.12.30 SMP mod_unload MIPS32_R2 32BIT'"
    )


@pytest.mark.parametrize("content", [b"", b"\x7fELF", b"\x7fELF\x02\x01\x01" + bytes(100)])
def test_what_is_of_another_machine(content: bytes, kernel: Kernel, tmp_path: Path) -> None:
    (tmp_path / "other.ko").write_bytes(content)
    (found,) = objections(kernel, [module(tmp_path), tmp_path / "other.ko"])
    assert str(found) == "architecture: other.ko: not of mips"


def test_another_crc(kernel: Kernel, tmp_path: Path) -> None:
    """A structure that the symbol's type reaches was another one (CONFIG_MODVERSIONS)."""
    (found,) = objections(kernel, [module(tmp_path, crc="0x22222222")])
    assert found.kind == "crc"
    assert found.text == ("m.ko knows register_thing as 0x22222222, in 6.12.30 it is 0x11111111")


def test_a_symbol_that_the_image_lacks(kernel: Kernel, tmp_path: Path) -> None:
    (kernel.directory / "Module.symvers").write_text("")
    (found,) = objections(kernel, [module(tmp_path)])
    assert found.kind == "symbol"
    assert "m.ko needs register_thing" in found.text


def test_another_layout(kernel: Kernel, tmp_path: Path) -> None:
    """A symbol counts if some object of the image was compiled by it."""
    config = {**kernel.config, "NF_CONNTRACK": "m", "NR": "8"}
    with pytest.raises(BuildFailed, match=r"m\.ko is not for this kernel") as failed:
        require_fit(kernel, [module(tmp_path)], config=config)
    assert failed.value.evidence.excerpt == (
        "layout: NF_CONNTRACK is n in the image and m for the module; compiled by it into the "
        "image: net/core/dev.o, net/netfilter/core.o"
    )


def test_a_damaged_table(tmp_path: Path) -> None:
    table = tmp_path / "Module.symvers"
    table.write_text("0x1\ta\tvmlinux\tEXPORT_SYMBOL\t\nrubbish\n")
    with pytest.raises(BadInput, match=r"Module\.symvers is damaged") as bad:
        exported(table)
    assert bad.value.evidence.where == (f"{table}:2",)


def test_the_configuration_lies_with_the_modules(tmp_path: Path) -> None:
    """In a build directory, or in a kernel of a store; not where nothing says that it is one."""
    build, stored = tmp_path / "build", tmp_path / "stored"
    for directory, name in ((build, ".config"), (stored, "config")):
        (directory / "net").mkdir(parents=True)
        (directory / name).write_text(f"CONFIG_IN={directory.name}\n")
        assert config_near([directory / "net" / "a.ko"]) is None
        (directory / "Module.symvers").write_text("")
        assert config_near([directory / "net" / "a.ko"]) == {"IN": directory.name}
    both = [directory / "net" / "a.ko" for directory in (build, stored)]
    assert config_near(both) is None
    assert config_near([build / "a.ko", build / "net" / "b.ko"]) == {"IN": "build"}


@pytest.mark.parametrize("verb", ["try", "check"])
def test_what_is_no_module(verb: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "m.txt").write_text("")
    for path in (tmp_path / "m.txt", tmp_path / "absent.ko"):
        status = main(["module", verb, str(path), "--config", "malta-6.12"])
        assert status == Verdict.BAD_INPUT.exit_code
        said = capsys.readouterr().err
        assert f"{path} is no module" in said
        assert "NAME.ko" in said
