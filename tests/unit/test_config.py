"""vm-configs: what is read, and how each mistake is reported."""

import json
from pathlib import Path

import jsonschema
import pytest
import yaml

from pytest_kernelvm.config.load import read_config
from pytest_kernelvm.config.schema import json_schema
from pytest_kernelvm.config.select import select_cells
from pytest_kernelvm.errors import BadInput

SHIPPED = Path(__file__).parents[2] / "vm-configs"

GOOD = """\
arch: mips
kernel:
  version: 6.10
  fragments: [a.config]
  symbols:
    LOG_BUF_SHIFT: 17
    PHYSICAL_START: 0x8000
    LOCALVERSION: -on
    DUMMY: "m"
modules: [loop]
cookie: liminix
"""


@pytest.fixture
def write(tmp_path: Path) -> Path:
    (tmp_path / "a.config").write_text("CONFIG_A=y\n")
    return tmp_path / "machine.yaml"


def test_values_are_read_as_they_are_written(write: Path) -> None:
    write.write_text(GOOD)
    (cell,) = read_config(write)
    assert cell.id == "machine-6.10"
    assert cell.kernel.version == "6.10"
    values = {request.name: request.value for request in cell.kernel.symbols}
    assert values["LOG_BUF_SHIFT"] == "17"
    assert values["PHYSICAL_START"] == "0x8000"
    assert values["LOCALVERSION"] == '"-on"'
    assert values["DUMMY"] == '"m"'


def test_a_text_may_have_quotes_and_backslashes(write: Path) -> None:
    write.write_text(GOOD.replace("LOCALVERSION: -on", "LOCALVERSION: '-\"o\\n\"'"))
    (cell,) = read_config(write)
    values = {request.name: request.value for request in cell.kernel.symbols}
    assert values["LOCALVERSION"] == r'"-\"o\\n\""'


def test_symbols_with_circumstances(write: Path) -> None:
    text = GOOD.replace(
        '    DUMMY: "m"\n',
        '    DCCP: {value: y, versions: "<6.17", optional: true}\n'
        '    MODE: [{value: m, versions: "<6.5"}, {value: y, versions: ">=6.5", force: true}]\n'
        "  conditional:\n"
        "    USB=m: {STORAGE: m}\n"
        "  auto_modules: true\n"
        "  base: tinyconfig\n",
    )
    write.write_text(text)
    (cell,) = read_config(write)
    kernel = cell.kernel
    asked = [
        (each.name, each.value, str(each.versions), each.optional, each.force)
        for each in kernel.symbols[-3:]
    ]
    assert asked == [
        ("DCCP", "y", "<6.17", True, False),
        ("MODE", "m", "<6.5", False, False),
        ("MODE", "y", ">=6.5", False, True),
    ]
    (rule,) = kernel.conditional
    assert (rule.name, rule.value, rule.where) == ("USB", "m", f"{write}:12:22")
    assert [str(symbol) for symbol in rule.symbols] == ["STORAGE=m"]
    assert (kernel.auto_modules, kernel.prefer_builtin, kernel.base) == (True, False, "tinyconfig")


def test_a_cell_of_a_version_that_the_file_does_not_name(write: Path) -> None:
    write.write_text(GOOD)
    (cell,) = read_config(write, version="6.99")
    assert (cell.id, cell.kernel.source.value) == ("machine-6.99", "linux-source-6.99")


def test_cookie_and_builtin_cmdline_become_symbols_and_a_patch(write: Path) -> None:
    write.write_text(GOOD + "builtin_cmdline: quiet\n")
    (cell,) = read_config(write)
    values = {request.name: request.value for request in cell.kernel.symbols}
    assert values["MIPS_BOOTLOADER_CMDLINE_COOKIE"] == '"liminix"'
    assert values["CMDLINE"].endswith(' quiet"')
    assert "rd_start=" in values["CMDLINE"]
    assert [patch.name for patch in cell.kernel.patches] == ["mips-cmdline-cookie"]
    assert cell.bootloader_cmdline(words="a=b") == (
        "console=ttyS0 panic=-1 printk.devkmsg=on liminix a=b"
    )
    assert "liminix" not in cell.bootloader_cmdline(cookie=False)


def test_without_a_cookie_only_the_bootloader_says_where_the_initramfs_is(write: Path) -> None:
    write.write_text(GOOD.replace("cookie: liminix", ""))
    (cell,) = read_config(write)
    (line,) = (each.value for each in cell.kernel.symbols if each.name == "CMDLINE")
    assert line == '"console=ttyS0 panic=-1 printk.devkmsg=on"'


def test_a_cookie_that_must_be_a_word(write: Path) -> None:
    word = "cookie: {text: liminix, whole_word: true}"
    write.write_text(GOOD.replace("cookie: liminix", word))
    (cell,) = read_config(write)
    values = {request.name: request.value for request in cell.kernel.symbols}
    assert cell.cookie.text == "liminix"
    assert values["MIPS_BOOTLOADER_CMDLINE_COOKIE"] == '"liminix"'
    assert values["MIPS_BOOTLOADER_CMDLINE_COOKIE_WORD"] == "y"
    write.write_text(GOOD)
    (cell,) = read_config(write)
    assert "MIPS_BOOTLOADER_CMDLINE_COOKIE_WORD" not in {each.name for each in cell.kernel.symbols}


def test_versions_make_cells(write: Path) -> None:
    write.write_text('arch: aarch64\nkernel: {version: ["6.1", "6.12", "6.1"]}\n')
    cells = read_config(write)
    assert [cell.id for cell in cells] == ["machine-6.1", "machine-6.12"]
    assert [cell.kernel.source.value for cell in cells] == [
        "linux-source-6.1",
        "linux-source-6.12",
    ]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("arch: mips\nkernal: {}\n", ":2:1: unknown key 'kernal': did you mean 'kernel'?"),
        ("arch: mips\n", ":1:1: the key 'kernel' is missing here"),
        ("arch: mpis\nkernel: {version: 6.1}\n", ":1:7: 'mpis': did you mean 'mips'?"),
        ("arch: mips\narch: mips\n", ":2:1: the key 'arch' stands here already, in line 1"),
        ("arch: mips\nkernel: {version: new}\n", ":2:19: expected a version such as 6.12"),
        ("arch: mips\nkernel: [6.1]\n", ":2:9: expected a mapping, not a list"),
        (
            "arch: mips\nkernel: {version: 6.1}\nmachine: {memory_mib: 128.5}\n",
            ":3:23: expected a whole number from 32 to 4096, not '128.5'",
        ),
        (
            "arch: mips\nkernel: {version: 6.1}\ntimeouts: {boot_s: soon}\n",
            ":3:20: expected a number from 0.1 to 3600, not 'soon'",
        ),
        (
            "arch: mips\nkernel: {version: 6.1}\nmachine: {fast_boot: on}\n",
            ":3:22: expected true or false, not 'on'",
        ),
        (
            "arch: mips\nkernel: {version: 6.1, source: {debian: x, tarball: y}}\n",
            ":2:32: expected exactly one of: tree, git, tarball, debian, version, prebuilt",
        ),
        (
            "arch: mips\nkernel: {version: 6.1, source: {tree: x, ref: y}}\n",
            ":2:32: 'ref' says more about 'git', which is not here",
        ),
        (
            "arch: mips\nkernel: {version: 6.1, source: {tarball: x, sha256: AB}}\n",
            ":2:53: expected 64 hexadecimal digits in lower case, not 'AB'",
        ),
        (
            "arch: mips\nkernel: {version: 6.1, source: {tarball: 'http://h/l.tar.xz'}}\n",
            "the tarball http://h/l.tar.xz comes from a network and has no sha256",
        ),
        (
            "arch: mips\nkernel: {version: 6.1, source: {git: x, ref: '--upload-pack=y'}}\n",
            ":2:46: expected a commit, a tag or a branch",
        ),
        (
            'arch: mips\nkernel:\n  version: 6.1\n  symbols: {LOCALVERSION: "a\\nb"}\n',
            ":4:27: expected one line of text",
        ),
        ("arch: mips\nkernel: {version: 6.1}\nmodules: loop\n", ":3:10: expected a list"),
        (
            "arch: mips\nkernel: {version: 6.1, symbols: {CONFIG_A: y}}\n",
            ":2:34: expected a symbol without CONFIG_, such as IPV6, not 'CONFIG_A'",
        ),
        (
            'arch: mips\nkernel: {version: 6.1, symbols: {A: {value: y, versions: "6.17"}}}\n',
            ': expected a range of versions such as "<6.17"',
        ),
        (
            "arch: mips\nkernel: {version: 6.1, symbols: {A: {valeu: y}}}\n",
            ":2:38: unknown key 'valeu': did you mean 'value'?",
        ),
        (
            "arch: mips\nkernel: {version: 6.1, symbols: {A: [{value: y}, m]}}\n",
            ":2:50: expected a mapping, not 'm'",
        ),
        (
            "arch: mips\nkernel: {version: 6.1, conditional: {A-B: {C: y}}}\n",
            ":2:38: expected a symbol, or SYMBOL=value, not 'A-B'",
        ),
        (
            "arch: mips\nkernel: {version: 6.1, auto_modules: maybe}\n",
            ":2:38: expected true or false, not 'maybe'",
        ),
        (
            "arch: mips\nkernel: {version: 6.1, fragments: [{fiel: a}]}\n",
            ":2:37: unknown key 'fiel': did you mean 'file'?",
        ),
        (
            "arch: mips\nkernel: {version: 6.1, base: allnoconifg}\n",
            ":2:30\n  next: did you mean 'allnoconfig'?",
        ),
        (
            "arch: mips\nkernel: {version: 6.1, base: menuconfig}\n",
            "there is no base configuration 'menuconfig'",
        ),
        (
            "arch: mips\nkernel: {version: 6.1, base: ./defconfig}\n",
            "defconfig does not exist",
        ),
        (
            f"arch: mips\nkernel: {{version: 6.1, fragments: [{'x' * 300}]}}\n",
            "cannot be read: File name too long",
        ),
        ("arch: [\n", "not YAML"),
        ("", "is empty"),
    ],
)
def test_messages_have_place_and_advice(write: Path, text: str, message: str) -> None:
    write.write_text(text)
    with pytest.raises(BadInput) as bad:
        read_config(write)
    assert message in str(bad.value)
    assert str(write) in str(bad.value)


def test_all_mistakes_at_once(write: Path) -> None:
    write.write_text("arch: mpis\nkernal: {}\n")
    with pytest.raises(BadInput, match="has 3 mistakes"):
        read_config(write)


PATCHED = """\
arch: mips
kernel:
  version: ["5.10", "6.1"]
  patches:
    - plain.patch
    - file: old.patch.xz
      versions: ">=5.4,<5.18"
      config: {OLD: y}
      features: [phram, uhi]
      fuzz: 1
    - {name: new one, file: "new-{version}.diff", versions: ">=6.0"}
"""


def test_patches_for_some_versions(write: Path) -> None:
    for name in ("plain.patch", "old.patch.xz", "new-6.1.diff"):
        (write.parent / name).write_text("")
    write.write_text(PATCHED)
    old, new = (cell.kernel for cell in read_config(write))
    assert [patch.name for patch in old.patches] == ["plain", "old"]
    assert old.features == ("phram", "uhi")
    assert old.patches[1].fuzz == 1
    assert {request.name: request.value for request in old.symbols}["OLD"] == "y"
    assert [patch.name for patch in new.patches] == ["plain", "new one"]
    assert new.features == ()
    assert "OLD" not in {request.name for request in new.symbols}


def test_the_sources_own_version_decides_on_patches(write: Path) -> None:
    (write.parent / "p.patch").write_text("")
    write.write_text(
        "arch: mips\nkernel:\n  version: '6.12'\n  patches:\n"
        "    - {file: p.patch, versions: '>=6.12.30', features: [f],"
        " config: {A: {value: y, versions: '<6.12.90'}}}\n"
    )
    (cell,) = read_config(write)
    assert [patch.name for patch in cell.kernel.patches_for("6.12.117")] == ["p"]
    assert cell.kernel.patches_for("6.12.29") == ()
    assert cell.kernel.features_for("6.12.29") == ()
    asked = {request.name: request.versions for request in cell.kernel.symbols}
    found = [asked["A"].includes(f"6.12.{number}") for number in (29, 30, 89, 90)]
    assert found == [False, True, True, False]


@pytest.mark.parametrize(
    ("text", "llvm"), [("", ""), ("false", ""), ("true", "1"), ("16", "-16"), ("-16", None)]
)
def test_llvm_is_a_flag_or_a_version(write: Path, text: str, llvm: str | None) -> None:
    line = f"  LLVM: {text}\n" if text else ""
    write.write_text(f"arch: mips\nkernel:\n  version: '6.12'\n{line}")
    if llvm is None:
        with pytest.raises(BadInput, match="expected true, false or a version such as 16"):
            read_config(write)
    else:
        assert read_config(write)[0].kernel.llvm == llvm


@pytest.mark.parametrize(
    ("patch", "message"),
    [
        ("{file: absent.patch}", "the patch"),
        ("{name: x}", "the key 'file' is missing here"),
        ("{file: a.config, versions: new}", "expected a range of versions"),
        ("{file: a.config, fuzz: 9}", "expected a whole number from 0 to 3"),
        ("{file: a.config, features: [a b]}", "expected a word"),
    ],
)
def test_mistakes_in_patches(patch: str, message: str, write: Path) -> None:
    write.write_text(f"arch: mips\nkernel:\n  version: 6.1\n  patches: [{patch}]\n")
    with pytest.raises(BadInput) as bad:
        read_config(write)
    assert message in str(bad.value)
    assert f"{write}:4:" in str(bad.value)


def test_a_missing_fragment_is_reported_with_a_similar_name(write: Path) -> None:
    write.write_text(GOOD.replace("a.config", "aa.config"))
    with pytest.raises(BadInput) as bad:
        read_config(write)
    assert f"{write}:4:15" in str(bad.value)
    assert f"did you mean {write.parent / 'a.config'}?" in str(bad.value)


def test_more_memory_than_the_machine_can_have(write: Path) -> None:
    write.write_text("arch: mips\nkernel: {version: 6.1}\nmachine: {memory_mib: 512}\n")
    with pytest.raises(BadInput, match="512 MiB are more than a malta"):
        read_config(write)


def test_a_file_that_is_not_utf8(write: Path) -> None:
    write.write_bytes(b"arch: \xff\n")
    with pytest.raises(BadInput, match="cannot read"):
        read_config(write)


def test_the_shipped_vm_configs_are_six_cells() -> None:
    assert sorted(cell.id for cell in select_cells(SHIPPED)) == [
        "aarch64-6.1",
        "aarch64-6.12",
        "malta-6.1",
        "malta-6.12",
        "maltael-6.1",
        "maltael-6.12",
    ]


def test_cells_are_selected_by_name_architecture_or_file() -> None:
    assert [cell.id for cell in select_cells(SHIPPED, names=["malta-6.12"])] == ["malta-6.12"]
    assert {cell.name for cell in select_cells(SHIPPED, arches=["aarch64"])} == {"aarch64"}
    file = str(SHIPPED / "maltael.yaml")
    assert {cell.name for cell in select_cells(SHIPPED, names=[file])} == {"maltael"}
    with pytest.raises(BadInput, match="did you mean 'malta'"):
        select_cells(SHIPPED, names=["matla"])
    with pytest.raises(BadInput, match="no vm-configs"):
        select_cells(SHIPPED / "fragments")


def test_shipped_schema_is_the_current_one() -> None:
    """`kernelvm schema > vm-configs/schema.json` renews it."""
    assert json.loads((SHIPPED / "schema.json").read_text()) == json_schema()


@pytest.mark.parametrize("name", sorted(file.name for file in SHIPPED.glob("*.yaml")))
def test_shipped_files_fit_the_schema_they_name(name: str) -> None:
    text = (SHIPPED / name).read_text()
    assert text.startswith("# yaml-language-server: $schema=schema.json\n")
    jsonschema.validate(yaml.safe_load(text), json_schema())


def test_schema_refuses_what_reading_refuses() -> None:
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate({"arch": "mips", "kernal": {}}, json_schema())
