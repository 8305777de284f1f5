"""Whether modules fit an image: objects of a real compiler, tables as kbuild writes them."""

from __future__ import annotations

import gzip
import json
import lzma
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from pytest_kernelvm.arch.registry import ARCHES
from pytest_kernelvm.cli.main import main
from pytest_kernelvm.errors import BadInput, BuildFailed, ToolMissing, Verdict
from pytest_kernelvm.kernel.build.build import Kernel
from pytest_kernelvm.kernel.build.symbol_users import read_symbol_users, write_symbol_users
from pytest_kernelvm.kernel.exports import exported, store_symvers
from pytest_kernelvm.kernel.out_of_tree.compat import (
    config_near,
    layout_objections,
    objections,
    require_fit,
    unchecked,
)
from pytest_kernelvm.process import find_program, run
from pytest_kernelvm.store.digest import digest_of

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


def test_another_vermagic_with_the_same_release(kernel: Kernel, tmp_path: Path) -> None:
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
def test_a_module_of_another_architecture(content: bytes, kernel: Kernel, tmp_path: Path) -> None:
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


USES = {
    "TEXT": (9, ["a.o"], True),
    "PRIVATE": (3, ["drivers/of/fdt.o"], False),
    "SHARED": (2, ["net/core/dev.o"], True),
    "NR": (1, ["kernel/cpu.o"], True),
    "GCC_VERSION": (400, ["init/main.o"], True),
    "OLD_TABLE": (1, ["mm/slub.o"]),
    "UNUSED": (0, [], False),
}


@pytest.mark.parametrize(
    ("name", "ours", "theirs", "matters"),
    [
        ("SHARED", "y", None, True),
        ("SHARED", None, "m", True),
        ("OLD_TABLE", "y", None, True),
        ("NR", "4", "8", True),
        ("NR", "0x10", "16", True),
        ("NR", "0x0F", "0xf", False),
        ("PRIVATE", "y", None, False),
        ("PRIVATE", "17", "14", False),
        ("PRIVATE", '"liminix"', '"other"', False),
        ("TEXT", '"liminix"', '"other"', False),
        ("TEXT", '"liminix"', None, False),
        ("TEXT", None, '"other"', False),
        ("GCC_VERSION", "120200", "130200", False),
        ("UNUSED", "y", None, False),
        ("UNKNOWN", "y", None, False),
    ],
)
def test_symbols_that_change_a_layout(
    name: str, ours: str | None, theirs: str | None, matters: bool, kernel: Kernel
) -> None:
    (kernel.directory / "config-uses.json").write_text(json.dumps(USES))
    values = {"MODULES": "y"}
    lines = [f"CONFIG_{name}={ours}\n"] if ours else []
    (kernel.directory / "config").write_text("".join(["CONFIG_MODULES=y\n", *lines]))
    config = values | ({name: theirs} if theirs else {})
    found = [objection.text.partition(" ")[0] for objection in layout_objections(kernel, config)]
    assert found == ([name] if matters else [])


def own_module(kernel: Kernel, directory: Path, **words: str) -> None:
    """Give the kernel a module, whose vermagic is the kernel's."""
    own = kernel.module_tree / "kernel"
    own.mkdir(parents=True)
    shutil.copyfile(module(directory / "own", **words), own / "own.ko")


def test_with_another_vermagic_nothing_else_is_told(kernel: Kernel, tmp_path: Path) -> None:
    """Of another kernel symbols, CRCs and structures differ too; that is no news."""
    own_module(kernel, tmp_path, words="SMP mod_unload")
    (kernel.directory / "Module.symvers").write_text("")
    files = [tmp_path / f"{name}.ko" for name in "abcdefg"]
    for file in files:
        shutil.copyfile(module(tmp_path, words="SMP preempt mod_unload"), file)
    with pytest.raises(BuildFailed) as failed:
        require_fit(kernel, files, config={**kernel.config, "NF_CONNTRACK": "m"})
    assert failed.value.evidence.excerpt == (
        "vermagic: a.ko, b.ko, c.ko, d.ko, e.ko and 2 more are for "
        "'6.12.30 SMP preempt mod_unload', this one is '6.12.30 SMP mod_unload'"
    )


def test_with_crcs_the_release_does_not_count(kernel: Kernel, tmp_path: Path) -> None:
    """kernel/module/version.c, same_magic; the CRCs do."""
    own_module(kernel, tmp_path, words="SMP mod_unload modversions")
    words = {"release": "6.12.29", "words": "SMP mod_unload modversions"}
    assert objections(kernel, [module(tmp_path, **words)]) == ()
    (found,) = objections(kernel, [module(tmp_path, **words, crc="0x22222222")])
    assert found.kind == "crc"
    words = {"release": "6.12.29", "words": "SMP preempt mod_unload modversions"}
    (found,) = objections(kernel, [module(tmp_path, **words)])
    assert str(found) == "vermagic: m.ko is for 6.12.29, this one is 6.12.30"


def test_a_kernel_without_crcs_compares_none(kernel: Kernel, tmp_path: Path) -> None:
    """Without MODVERSIONS its table holds zeros (scripts/mod/modpost.c, write_dump)."""
    (kernel.directory / "Module.symvers").write_text(
        "0x00000000\tregister_thing\tvmlinux\tEXPORT_SYMBOL\t\n"
    )
    assert objections(kernel, [module(tmp_path)]) == ()


def test_a_kernel_without_modules(kernel: Kernel, tmp_path: Path) -> None:
    (kernel.directory / "config").write_text("CONFIG_NET=y\n")
    (found,) = objections(kernel, [module(tmp_path)])
    assert str(found) == "modules: 6.12.30 was built without MODULES, it loads none"


def test_an_error_fits_one_screen(kernel: Kernel, tmp_path: Path) -> None:
    uses = {f"S{number}": (1, ["a.o"], True) for number in range(90)}
    (kernel.directory / "config-uses.json").write_text(json.dumps(uses))
    (kernel.directory / "Module.symvers").write_text("")
    config = {**kernel.config, **dict.fromkeys(uses, "y")}
    with pytest.raises(BuildFailed) as failed:
        require_fit(kernel, [module(tmp_path)], config=config)
    lines = failed.value.evidence.excerpt.splitlines()
    assert [line.partition(":")[0] for line in lines] == ["symbol", *["layout"] * 6]
    assert lines[-1] == "layout: 85 more"


# A kernel without a Module.symvers


@pytest.mark.parametrize(
    ("image", "in_modules", "fits"),
    [
        (b"\0_printk\0register_thing\0", False, True),
        (b"\0_printk\0other_register_thing\0", False, True),
        (b"\0_printk\0register_things\0", False, False),
        (b"\0_printk\0", False, False),
        (b"\0_printk\0", True, True),
        # It is packed: nothing can be told.
        (b"\x1f\x8b\x08", False, True),
    ],
)
def test_symbols_without_a_table(
    image: bytes, in_modules: bool, fits: bool, kernel: Kernel, tmp_path: Path
) -> None:
    (kernel.directory / "Module.symvers").unlink()
    kernel.image.write_bytes(image)
    if in_modules:
        kernel.module_tree.mkdir(parents=True)
        (kernel.module_tree / "modules.symbols").write_text(
            "# Aliases for symbols\nalias symbol:register_thing things\n"
        )
    kinds = [found.kind for found in objections(kernel, [module(tmp_path)])]
    assert kinds == ([] if fits else ["symbol"])


def test_what_was_not_checked_is_said(kernel: Kernel) -> None:
    kernel.module_tree.mkdir(parents=True)
    assert unchecked(kernel, config={"NET": "y"}) == ()
    assert unchecked(kernel, config=None) == ("what they were configured for is not known",)
    (kernel.directory / "Module.symvers").unlink()
    kernel.image.write_bytes(b"")
    (told,) = unchecked(kernel, config={"NET": "y"})
    assert "CRCs were not compared" in told
    assert f"linux-headers-{RELEASE}" in told


SYMVERS_TEXT = b"0x11111111\tregister_thing\tvmlinux\tEXPORT_SYMBOL\t\n"
PLACES = [
    ("boot/Module.symvers", bytes),
    (f"usr/src/linux-headers-{RELEASE}/Module.symvers", bytes),
    (f"usr/src/kernels/{RELEASE}/Module.symvers", bytes),
    (f"lib/modules/{RELEASE}/build/Module.symvers", bytes),
    (f"lib/modules/{RELEASE}/symvers.gz", gzip.compress),
    (f"lib/modules/{RELEASE}/symvers.xz", lzma.compress),
    (f"boot/symvers-{RELEASE}.gz", gzip.compress),
]


def kept(root: Path, entry: Path) -> bool:
    entry.mkdir(exist_ok=True)
    modules = root / "lib/modules" / RELEASE
    return store_symvers(root, root / f"boot/vmlinuz-{RELEASE}", modules, RELEASE, entry)


@pytest.mark.parametrize(("place", "pack"), PLACES)
def test_where_a_finished_kernel_has_its_table(
    place: str, pack: Callable[[bytes], bytes], tmp_path: Path
) -> None:
    root, entry = tmp_path / "root", tmp_path / "entry"
    (root / place).parent.mkdir(parents=True)
    (root / place).write_bytes(pack(SYMVERS_TEXT))
    assert kept(root, entry)
    assert (entry / "Module.symvers").read_bytes() == SYMVERS_TEXT


@pytest.mark.parametrize(
    "content", [b"rubbish\n", b"0xZZ\ta\tvmlinux\tEXPORT_SYMBOL\t\n", b"\x1f\x8b\x08rubbish"]
)
@pytest.mark.parametrize("place", [place for place, _pack in PLACES])
def test_a_damaged_table_is_not_taken(place: str, content: bytes, tmp_path: Path) -> None:
    root, entry = tmp_path / "root", tmp_path / "entry"
    (root / place).parent.mkdir(parents=True)
    (root / place).write_bytes(content)
    assert not kept(root, entry)
    assert list(entry.iterdir()) == []


def test_a_table_of_this_machines_own_kernel_is_not_taken(tmp_path: Path) -> None:
    """A package's `build` is a link to where its headers would be installed."""
    root, elsewhere = tmp_path / "root", tmp_path / "elsewhere"
    elsewhere.mkdir()
    (elsewhere / "Module.symvers").write_bytes(SYMVERS_TEXT)
    (root / "lib/modules" / RELEASE).mkdir(parents=True)
    (root / "lib/modules" / RELEASE / "build").symlink_to(elsewhere)
    assert not kept(root, tmp_path / "entry")


def test_a_table_that_unpacks_without_end(tmp_path: Path) -> None:
    root = tmp_path / "root"
    (root / "lib/modules" / RELEASE).mkdir(parents=True)
    (root / "lib/modules" / RELEASE / "symvers.gz").write_bytes(gzip.compress(bytes(65 << 20)))
    assert not kept(root, tmp_path / "entry")


# What kbuild notes

NOTE = """\
source_{made} := {made}.c

deps_{made} := \\
{deps}

{made}: $(deps_{made})
"""


def write_note(objects: Path, made: str, *deps: str, module: bool = False) -> None:
    """Write a note as scripts/basic/fixdep does, of files and symbols in their order."""
    lines = [
        f"  {dep} \\" if "." in dep else f"    $(wildcard include/config/{dep}) \\" for dep in deps
    ]
    note = objects / made
    note.parent.mkdir(parents=True, exist_ok=True)
    text = NOTE.format(made=made, deps="\n".join(lines))
    command = f"savedcmd_{made} := gcc{' -DMODULE' if module else ''} -c\n\n"
    note.with_name(f".{note.name}.cmd").write_text(command + text)


def test_symbols_that_a_header_mentions(tmp_path: Path) -> None:
    """A symbol counts though the .c file mentions it first, and though it stands in no note."""
    objects, tree, entry = tmp_path / "objects", tmp_path / "tree", tmp_path / "entry"
    for directory in (objects, tree, entry):
        directory.mkdir()
    header = tree / "dev.h"
    header.write_text("#if IS_ENABLED(CONFIG_BOTH) || defined(CONFIG_SHARED_MODULE)\n#endif\n")
    write_note(objects, "of/fdt.o", "OF_BOOTARGS_COOKIE", "BOTH", str(header))
    write_note(objects, "net/dev.o", str(header), "BOTH", "SHARED")
    write_note(objects, "net/mod.o", "OF_BOOTARGS_COOKIE", str(tree / "gone.h"), module=True)
    write_symbol_users(objects, entry)
    uses = read_symbol_users(entry)
    assert {name: (use.count, use.in_header) for name, use in uses.items()} == {
        "OF_BOOTARGS_COOKIE": (1, False),
        "BOTH": (2, True),
        "SHARED": (1, True),
    }
    # Nothing new: the same is written from what is cached.
    first = (entry / "config-uses.json").read_text()
    write_symbol_users(objects, entry)
    assert (entry / "config-uses.json").read_text() == first
    # An edited header, whose objects kbuild makes anew.
    header.write_text("#ifdef CONFIG_OF_BOOTARGS_COOKIE\n#endif\n")
    write_note(objects, "net/dev.o", str(header), "OF_BOOTARGS_COOKIE")
    write_symbol_users(objects, entry)
    assert read_symbol_users(entry)["OF_BOOTARGS_COOKIE"].in_header
    assert not read_symbol_users(entry)["BOTH"].in_header


def test_a_cache_of_an_earlier_version_is_not_used(tmp_path: Path) -> None:
    write_note(tmp_path, "of/fdt.o", "PRIVATE")
    (tmp_path / ".config-uses.json").write_text(json.dumps({"found": {}, "table": {"X": [1, []]}}))
    write_symbol_users(tmp_path, tmp_path)
    assert list(read_symbol_users(tmp_path)) == ["PRIVATE"]


def test_a_damaged_table(tmp_path: Path) -> None:
    table = tmp_path / "Module.symvers"
    table.write_text("0x1\ta\tvmlinux\tEXPORT_SYMBOL\t\nrubbish\n")
    with pytest.raises(BadInput, match=r"Module\.symvers is damaged") as bad:
        exported(table)
    assert bad.value.evidence.where == (f"{table}:2",)


def test_config_near_modules(tmp_path: Path) -> None:
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
def test_a_file_that_is_no_module(
    verb: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "m.txt").write_text("")
    for path in (tmp_path / "m.txt", tmp_path / "absent.ko"):
        status = main(["module", verb, str(path), "--config", "malta-6.12"])
        assert status == Verdict.BAD_INPUT.exit_code
        said = capsys.readouterr().err
        assert f"{path} is no module" in said
        assert "NAME.ko" in said
