"""Forty cases that module code gets wrong, one test each, against the real depmod and modprobe.

A case says what both modes make of it: `modprobe`, which is what kmod does, quirks included, and
`closure`, all that may be wanted at run time.
"""

from __future__ import annotations

import gzip
import lzma
import shutil
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from backports import zstd

from pytest_kernelvm.errors import BadInput
from pytest_kernelvm.modules.closure import Closure, resolve_closure
from pytest_kernelvm.modules.file_check import check_files
from pytest_kernelvm.modules.ko_files import read_ko_files, tree_of_files
from pytest_kernelvm.modules.modprobe import ModprobeResult, simulate_modprobe
from pytest_kernelvm.modules.modprobe_d import read_modprobe_d
from pytest_kernelvm.modules.pruned_tree import write_pruned_tree
from pytest_kernelvm.modules.rendering import load_script, unload_script
from pytest_kernelvm.modules.tree import ModuleTree, NameKind
from pytest_kernelvm.process import run
from tests.unit.test_modules_depmod import RELEASE, Source, install, show_depends
from tests.unit.test_modules_modinfo import KINDS, make_module
from tests.unit.test_modules_tree import make_tree

pytestmark = pytest.mark.skipif(
    not (shutil.which("depmod") and shutil.which("modprobe")), reason="kmod is not installed"
)

NONE = Source()


class BuildDirectory:
    """A tree made by the real depmod, and what the real modprobe says of it.

    path: a directory of the test. modprobe_d: lines of the guest's configuration.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.tree: ModuleTree
        self._conf: Path | None = None

    def install(
        self,
        sources: Mapping[str, Source],
        *,
        builtin: Iterable[str] = (),
        modinfo: Iterable[str] = (),
        conf: Mapping[str, str] | None = None,
    ) -> ModuleTree:
        """Make the tree; conf: files of modprobe.d."""
        tree = install(self.path, sources, builtin, modinfo)
        self._conf = self.path / "modprobe.d"
        self._conf.mkdir()
        for name, text in (conf or {}).items():
            (self._conf / name).write_text(text)
        self.tree = ModuleTree(tree.directory, modprobe_d=read_modprobe_d([self._conf]))
        return self.tree

    def reread(self) -> ModuleTree:
        """Return the tree as it is now."""
        self.tree = ModuleTree(self.tree.directory, modprobe_d=self.tree.modprobe_d)
        return self.tree

    def depmod(self) -> ModuleTree:
        """Let depmod see what changed."""
        run(["depmod", "-b", self.path, RELEASE], timeout_s=30)
        return self.reread()

    def modprobe(self, name: str, *flags: str, **ours: Any) -> ModprobeResult:
        """Return our answer, which is the real modprobe's word for word."""
        found = simulate_modprobe(self.tree, name, **ours)
        said = show_depends(self.path, *flags, name, conf=self._conf)
        assert found.output == said.stdout
        assert found.found == (said.status == 0)
        return found

    def closure(self, *names: str, **how: Any) -> Closure:
        """Return a closure."""
        return resolve_closure(self.tree, names, **how)


@dataclass(frozen=True, kw_only=True, slots=True)
class Case:
    """One case. number: its own. source: who met it, or where it is described."""

    number: int
    source: str
    check: Callable[[BuildDirectory], None]


CASES: list[Case] = []


def case(number: int, source: str) -> Callable[[Callable[[BuildDirectory], None]], None]:
    """Put a check into the table."""

    def put(check: Callable[[BuildDirectory], None]) -> None:
        CASES.append(Case(number=number, source=source, check=check))

    return put


def file_of(build_directory: BuildDirectory, name: str) -> Path:
    """Return where a module's file is."""
    return build_directory.tree.directory / "kernel" / f"{name}.ko"


def skipped(found: ModprobeResult) -> dict[str, str]:
    """Return name → why of what modprobe passed over."""
    return {each.name: each.explanation for each in found.skipped}


# Dependencies and softdeps


@case(1, "kmod#33: btrfs has 4 lines, ksmbd 12")
def several_softdep_lines(build_directory: BuildDirectory) -> None:
    build_directory.install({"a": Source(softdep=("pre: b", "pre: c")), "b": NONE, "c": NONE})
    found = build_directory.modprobe("a")
    assert found.load_order == ("b", "a")
    assert "only the first softdep line" in skipped(found)["c"]
    assert build_directory.closure("a").load_order == ("b", "c", "a")


@case(2, "cifs: `softdep cifs gcm`; kmod, kmod_config_add_softdep")
def softdep_without_pre_or_post(build_directory: BuildDirectory) -> None:
    build_directory.install({"cifs": Source(softdep=("gcm",)), "gcm": NONE})
    assert build_directory.modprobe("cifs").load_order == ("cifs",)
    closure = build_directory.closure("cifs")
    assert closure.load_order == ("cifs",)
    assert "gcm stands behind neither pre: nor post:" in closure.warnings[0]


@case(3, "kmod, kmod_config_new: files in lexical order, modules.softdep among them")
def users_softdep(build_directory: BuildDirectory) -> None:
    modules = {"a": Source(softdep=("pre: b",)), "b": NONE, "c": NONE}
    build_directory.install(modules, conf={"m.conf": "softdep a pre: c\n"})
    # "m.conf" sorts before "modules.softdep" …
    assert build_directory.modprobe("a").load_order == ("c", "a")
    later = BuildDirectory(build_directory.path / "later")
    # … and "mp.conf" behind it.
    later.install(modules, conf={"mp.conf": "softdep a pre: c\n"})
    assert later.modprobe("a").load_order == ("b", "a")
    for each in (build_directory, later):
        assert set(each.closure("a").load_order) == {"a", "b", "c"}


@case(4, "libcrc32c: `softdep libcrc32c pre: crypto-crc32c`")
def softdep_by_alias(build_directory: BuildDirectory) -> None:
    build_directory.install(
        {"a": Source(softdep=("pre: crypto-x",)), "x-generic": Source(aliases=("crypto-x",))}
    )
    assert (
        build_directory.modprobe("a").load_order
        == build_directory.closure("a").load_order
        == ("x_generic", "a")
    )


@case(5, "Debian's kernels: softdeps of ecb, which is builtin")
def softdep_of_a_builtin(build_directory: BuildDirectory) -> None:
    build_directory.install(
        {"a": Source(softdep=("pre: ecb alias-of-cbc",))}, builtin=["ecb", "cbc"]
    )
    assert [action.kind for action in build_directory.modprobe("a").actions] == [
        "builtin",
        "builtin",
        "insmod",
    ]
    closure = build_directory.closure("a")
    assert (closure.load_order, closure.builtin) == (("a",), ("ecb", "cbc"))


@case(6, "mkosi#4185")
def softdep_of_nothing(build_directory: BuildDirectory) -> None:
    build_directory.install({"a": Source(softdep=("pre: nowhere",))})
    assert skipped(build_directory.modprobe("a"))["nowhere"]
    closure = build_directory.closure("a")
    assert closure.load_order == ("a",)
    assert "nowhere is neither a module" in closure.warnings[0]


@case(7, "dracutdevs#491")
def dependencies_of_softdeps(build_directory: BuildDirectory) -> None:
    build_directory.install(
        {
            "a": Source(softdep=("pre: b",)),
            "b": Source(needs=("c",)),
            "c": Source(softdep=("pre: d",)),
            "d": NONE,
        }
    )
    assert (
        build_directory.modprobe("a").load_order
        == build_directory.closure("a").load_order
        == ("d", "c", "b", "a")
    )


@case(8, "modprobe.d(5), softdep")
def softdeps_behind(build_directory: BuildDirectory) -> None:
    build_directory.install(
        {
            "a": Source(needs=("b",), softdep=("post: c",)),
            "b": Source(softdep=("post: d",)),
            "c": NONE,
            "d": NONE,
        }
    )
    assert (
        build_directory.modprobe("a").load_order
        == build_directory.closure("a").load_order
        == ("b", "d", "a", "c")
    )


@case(9, "kmod's testsuite, test-modprobe: softdep-loop")
def softdeps_in_a_loop(build_directory: BuildDirectory) -> None:
    build_directory.install({"a": Source(softdep=("pre: b",)), "b": Source(softdep=("pre: a",))})
    assert (
        build_directory.modprobe("a").load_order
        == build_directory.closure("a").load_order
        == ("b", "a")
    )


@case(10, "depmod, depmod_report_cycles")
def dependency_cycles(build_directory: BuildDirectory) -> None:
    for length in (2, 3, 4):
        names = "abcd"[:length]
        path = build_directory.path / str(length)
        needs = {name: [names[(at + 1) % length]] for at, name in enumerate(names)}
        with pytest.raises(BadInput, match="depend on each other: a → ") as error:
            resolve_closure(make_tree(path, needs), ["a"])
        assert f"a cycle of {length}" in error.value.evidence.seen
        modules = {name: Source(needs=tuple(needs[name])) for name in names}
        with pytest.raises(Exception, match=r"(?i)cycle|depmod"):
            install(path / "real", modules)


@case(11, "kmod 33: weakdep")
def weakdeps(build_directory: BuildDirectory) -> None:
    build_directory.install(
        {"a": NONE, "b": Source(needs=("c",)), "c": NONE},
        conf={"x.conf": "weakdep a b\nweakdep b a\n"},
    )
    # Before 33 the line is a bad one; either way modprobe loads nothing for it.
    for kmod in (30, 34):
        assert build_directory.modprobe("a", kmod=kmod).load_order == ("a",)
    closure = build_directory.closure("a")
    assert closure.load_order == ("a",)
    assert [module.name for module in closure.modules if module.on_request] == ["c", "b"]
    assert closure.modules[-1].reason == ("a", "weakdep", "b")


@case(12, "rapido#266")
def softdep_of_a_builtin_module(build_directory: BuildDirectory) -> None:
    build_directory.install(
        {"crc32c-generic": Source(aliases=("crypto-crc32c",))},
        builtin=["ext4"],
        modinfo=["ext4.softdep=pre: crypto-crc32c"],
    )
    assert [action.kind for action in build_directory.modprobe("ext4").actions] == ["builtin"]
    closure = build_directory.closure("ext4")
    assert [module.name for module in closure.modules] == ["crc32c_generic"]
    assert closure.modules[0].on_request


# Names and aliases


@case(13, "kmod, alias_normalize")
def dashes(build_directory: BuildDirectory) -> None:
    build_directory.install({"snd_hda-codec": Source(aliases=("x-[a-c]-y",)), "x": NONE})
    for name in ("snd-hda-codec", "snd_hda_codec", "snd-hda_codec", "x-b-y", "x_b_y"):
        assert build_directory.modprobe(name).load_order == ("snd_hda_codec",)
        assert build_directory.closure(name).load_order == ("snd_hda_codec",)
    assert not build_directory.modprobe("x_-_y").found


@case(14, "crypto: cmac is a module, and an alias of others")
def module_before_alias(build_directory: BuildDirectory) -> None:
    build_directory.install({"cmac": NONE, "other": Source(aliases=("cmac",))})
    assert (
        build_directory.modprobe("cmac").load_order
        == build_directory.closure("cmac").load_order
        == ("cmac",)
    )


@case(15, "usb-storage: `usb:v152Dp0567d011[4-7]dc*`")
def wildcards(build_directory: BuildDirectory) -> None:
    build_directory.install(
        {
            "uas": Source(aliases=("usb:v152Dp0567d011[4-7]dc*", "x[a-c-]y")),
            "ums": Source(aliases=("usb:v152Dp0567d0118dc*", "usb:v????p0567*")),
        }
    )
    for name, modules in (
        ("usb:v152Dp0567d0115dc00", {"uas", "ums"}),
        ("usb:v152Dp0567d0118dc00", {"ums"}),
        ("xby", {"uas"}),
        ("x-y", set()),
    ):
        assert set(build_directory.modprobe(name).load_order) == modules
        if modules:
            assert set(build_directory.closure(name).load_order) == modules


@case(16, "sound/soc: `mt8188 mt6359 soc card`")
def aliases_with_blanks(build_directory: BuildDirectory) -> None:
    build_directory.install({"mt8188-mt6359": Source(aliases=("mt8188 mt6359 soc card",))})
    name = "mt8188 mt6359 soc card"
    assert (
        build_directory.modprobe(name).load_order
        == build_directory.closure(name).load_order
        == ("mt8188_mt6359",)
    )


@case(17, "crypto: sha256 by a generic and by an accelerated module, which may refuse")
def alias_of_several(build_directory: BuildDirectory) -> None:
    modules = {
        "z-generic": Source(aliases=("sha256",)),
        "arm": Source(aliases=("sha256", "sha*")),
    }
    build_directory.install(modules, conf={"x.conf": "blacklist arm\n"})
    assert build_directory.modprobe("sha256").load_order == ("z_generic",)
    assert skipped(build_directory.modprobe("sha256"))["arm"] == "blacklisted"
    assert build_directory.closure("sha256").load_order == ("z_generic", "arm")
    plain = BuildDirectory(build_directory.path / "plain")
    plain.install(modules)
    # A module that two patterns lead to comes up twice.
    assert len(plain.modprobe("sha256").actions) == 3


@case(18, "symbol_request(); kmod, kmod_lookup_alias_from_symbols_file")
def symbols(build_directory: BuildDirectory) -> None:
    build_directory.install({"lib": NONE, "a": Source(needs=("lib",))})
    name = "symbol:symbol_of_a"
    assert (
        build_directory.modprobe(name).load_order
        == build_directory.closure(name).load_order
        == ("lib", "a")
    )
    assert not build_directory.modprobe("symbol:none").found


@case(19, "modprobe.d(5): `alias net-pf-10 off`")
def alias_off(build_directory: BuildDirectory) -> None:
    build_directory.install(
        {"ipv6": Source(aliases=("net-pf-10",))}, conf={"x.conf": "alias net-pf-10 off\n"}
    )
    found = build_directory.modprobe("net-pf-10")
    assert (found.found, found.actions) == (True, ())
    assert skipped(found)["off"] == "the alias net_pf_10 is switched off"
    assert build_directory.tree.classify("net-pf-10").kind is NameKind.OFF
    with pytest.raises(BadInput, match="leads to no module") as error:
        build_directory.closure("net-pf-10")
    assert "switched off" in error.value.evidence.seen


@case(20, "kmod, kmod_module_new_from_lookup: no paths before 32, case matters")
def what_is_no_name(build_directory: BuildDirectory) -> None:
    build_directory.install({"a": NONE})
    for name in ("a.ko", "kernel/a.ko", "A"):
        assert not build_directory.modprobe(name).found
        with pytest.raises(BadInput):
            build_directory.closure(name)
    with pytest.raises(BadInput, match="is a path"):
        simulate_modprobe(build_directory.tree, "./a.ko", kmod=34)


# Missing, builtin, policy


@case(21, "kmod, kmod_module_parse_depline: status 0 and no dependency at all")
def dependency_without_a_file(build_directory: BuildDirectory) -> None:
    build_directory.install({"a": Source(needs=("b", "c")), "b": NONE, "c": NONE})
    file_of(build_directory, "b").unlink()
    build_directory.reread()
    found = build_directory.modprobe("a")
    assert found.load_order == ("a",)
    assert "the file of b is absent" in next(iter(skipped(found).values()))
    with pytest.raises(BadInput, match="the file of module b is absent") as error:
        build_directory.closure("a")
    assert str(file_of(build_directory, "b")) in error.value.evidence.where
    assert build_directory.closure("a", allow_missing=["b"]).missing == ("b",)


@case(22, "modprobe prints the insmod of a file that is not there")
def module_without_a_file(build_directory: BuildDirectory) -> None:
    build_directory.install({"a": NONE})
    file_of(build_directory, "a").unlink()
    build_directory.reread()
    assert build_directory.modprobe("a").load_order == ("a",)
    assert build_directory.tree.classify("a").kind is NameKind.FILE_ABSENT
    with pytest.raises(BadInput, match="the file of module a is absent"):
        build_directory.closure("a")


@case(23, "nixpkgs#92081: a builtin first dependency dropped the whole tree")
def builtin(build_directory: BuildDirectory) -> None:
    build_directory.install({"a": Source(softdep=("pre: zram",)), "b": NONE}, builtin=["zram"])
    assert [action.line.split()[0] for action in build_directory.modprobe("a").actions] == [
        "builtin",
        "insmod",
    ]
    closure = build_directory.closure("zram", "a", "b")
    assert (closure.load_order, closure.builtin) == (("a", "b"), ("zram",))


@case(24, "a tree without modules.builtin cannot tell builtin from missing")
def no_modules_builtin(build_directory: BuildDirectory) -> None:
    build_directory.install({"a": NONE}, builtin=["zram"])
    assert build_directory.tree.classify("zram").kind is NameKind.BUILTIN
    (build_directory.tree.directory / "modules.builtin").unlink()
    (build_directory.tree.directory / "modules.builtin.bin").unlink()
    build_directory.reread()
    assert not build_directory.modprobe("zram").found
    with pytest.raises(BadInput, match="unless the kernel has it built in"):
        build_directory.closure("zram")


@case(25, "the kernel's modules.builtin lists some names twice")
def duplicate_builtins(build_directory: BuildDirectory) -> None:
    build_directory.install({}, builtin=["b", "b"])
    assert build_directory.modprobe("b").output == "builtin b\n"
    assert build_directory.closure("b", allow_empty=True).builtin == ("b",)


@case(26, "nixpkgs#423933: an empty closure broke the boot instead of the build")
def nothing_to_load(build_directory: BuildDirectory) -> None:
    build_directory.install({}, builtin=["b"])
    with pytest.raises(BadInput, match="the closure is empty"):
        build_directory.closure("b")
    with pytest.raises(BadInput, match="the closure is empty"):
        build_directory.closure("nosuch", allow_missing=["nosuch"])
    assert build_directory.closure(
        "b", "nosuch", allow_missing=["nosuch"], allow_empty=True
    ).missing


@case(27, "modprobe.d(5), blacklist; modprobe(8), -b")
def blacklist(build_directory: BuildDirectory) -> None:
    build_directory.install(
        {"a": Source(aliases=("x",)), "b": Source(needs=("a",))}, conf={"x.conf": "blacklist a\n"}
    )
    assert build_directory.modprobe("a").load_order == ("a",)
    assert build_directory.modprobe("b").load_order == ("a", "b")
    by_alias = build_directory.modprobe("x")
    assert (by_alias.found, by_alias.actions) == (True, ())
    assert build_directory.modprobe("a", "-b", use_blacklist=True).actions == ()
    assert build_directory.modprobe("b", "-b", use_blacklist=True).load_order == ("a", "b")
    assert (
        build_directory.tree.classify("a").kind
        is build_directory.tree.classify("x").kind
        is NameKind.BLACKLISTED
    )
    assert build_directory.closure("x").load_order == ("a",)


@case(28, "kmod#446: install is ignored when the module has softdeps")
def install_commands(build_directory: BuildDirectory) -> None:
    build_directory.install(
        {"a": NONE, "b": Source(softdep=("pre: a",)), "c": Source(softdep=("pre: none",))},
        conf={
            "x.conf": "install a /bin/true $CMDLINE_OPTS\ninstall b /bin/false\n"
            "install c modprobe c\ninstall ghost /bin/true\nremove gone /bin/true\n"
            "options a x=1\n"
        },
    )
    assert build_directory.modprobe("a").output == "install /bin/true $CMDLINE_OPTS x=1 \n"
    assert build_directory.modprobe("b").output.splitlines()[1].startswith("insmod ")
    # A softdep that is nothing leaves the command in force; that it asks for itself is a loop
    # only when it runs.
    assert build_directory.modprobe("c").output == "install modprobe c \n"
    assert build_directory.modprobe("ghost").output == "install /bin/true \n"
    assert (build_directory.modprobe("gone").found, build_directory.modprobe("gone").actions) == (
        True,
        (),
    )
    assert build_directory.modprobe("a", "-i", ignore_commands=True).load_order == ("a",)


@case(29, "modprobe.d(5), options; kmod, kmod_config_parse_kcmdline")
def options(build_directory: BuildDirectory) -> None:
    build_directory.install(
        {"a-b": Source(aliases=("x",)), "c": Source(needs=("a-b",))},
        conf={
            "x.conf": 'options a-b p="two words"\toct\noptions x by=alias\noptions c \\\n  n=1\n'
        },
    )
    assert build_directory.modprobe("a_b").actions[0].options == 'p="two words" oct '
    assert build_directory.modprobe("x").actions[0].options == 'p="two words" oct by=alias '
    assert build_directory.modprobe("c").actions[1].options == "  n=1 "
    script = load_script(build_directory.closure("c"))
    assert "kernel/a-b.ko 'p=\"two words\"' oct\n" in script
    told = read_modprobe_d(
        cmdline='quiet a-b.p=1 "c.q=x y" c.dyndbg="file a +p" loose.flag modprobe.blacklist=d,e-f'
    )
    assert told.options == (
        ("a_b", "p=1"),
        ("c", 'q="x y"'),
        ("c", 'dyndbg="file a +p"'),
        ("loose", "flag"),
    )
    assert told.blacklist == ("d", "e-f")


@case(30, "`modprobe -d ROOT` reads the host's /etc/modprobe.d and /proc/cmdline")
def nothing_of_the_host(build_directory: BuildDirectory) -> None:
    tree = build_directory.install({"loop": NONE})
    assert ModuleTree(tree.directory).modprobe_d == read_modprobe_d()
    assert read_modprobe_d() == read_modprobe_d([], cmdline="")
    with pytest.raises(BadInput, match="cannot read none"):
        read_modprobe_d([build_directory.path / "none"])


# Trees


@case(31, "depmod.d(5): updates before all others")
def the_same_module_in_updates(build_directory: BuildDirectory) -> None:
    build_directory.install({"a": NONE, "b": Source(needs=("a",))})
    for folder in ("updates", "extra"):
        (build_directory.tree.directory / folder).mkdir()
        shutil.copy(file_of(build_directory, "a"), build_directory.tree.directory / folder)
    build_directory.depmod()
    assert build_directory.modprobe("a").actions[0].path.endswith(f"{RELEASE}/updates/a.ko")
    from_files = {
        file.name: file.relative for file in read_ko_files(build_directory.tree.directory)
    }
    assert from_files["a"] == build_directory.tree.modules["a"].relative == "updates/a.ko"


@case(32, "depmod.d(5): override, external, search")
def depmod_d(build_directory: BuildDirectory) -> None:
    build_directory.install({"a": NONE, "b": NONE})
    directory = build_directory.tree.directory
    (directory / "extra").mkdir()
    shutil.copy(file_of(build_directory, "a"), directory / "extra")
    conf = build_directory.path / "depmod.conf"
    for text, ours in (
        ("search extra built-in\n", {"search": ("extra", "built-in")}),
        ("override a * extra\n", {"overrides": {"a": "extra"}}),
    ):
        conf.write_text(text)
        run(["depmod", "-b", build_directory.path, "-C", conf, RELEASE], timeout_s=30)
        chosen = {file.name: file.relative for file in read_ko_files(directory, **ours)}
        assert chosen["a"] == build_directory.reread().modules["a"].relative == "extra/a.ko"
    outside = build_directory.path / "outside"
    outside.mkdir()
    file_of(build_directory, "b").rename(outside / "b.ko")
    conf.write_text(f"search external built-in\nexternal * {outside}\n")
    run(["depmod", "-b", build_directory.path, "-C", conf, RELEASE], timeout_s=30)
    with pytest.raises(BadInput) as error:
        build_directory.reread().modules.needs("a")
    assert "which is outside" in error.value.evidence.seen


@case(33, "mkinitcpio: foo.ko beside foo.ko.xz")
def twice_in_one_directory(build_directory: BuildDirectory) -> None:
    build_directory.install({"a": NONE})
    packed = lzma.compress(file_of(build_directory, "a").read_bytes(), check=lzma.CHECK_CRC32)
    (build_directory.tree.directory / "kernel" / "a.ko.xz").write_bytes(packed)
    tree = build_directory.depmod()
    assert len(tree.modules) == 1
    assert [file.relative for file in read_ko_files(tree.directory)] == ["kernel/a.ko"]
    line = (tree.directory / "modules.dep").read_text()
    (tree.directory / "modules.dep").write_text(f"{line}kernel/a.ko.gz:\n")
    with pytest.raises(BadInput, match="lists module a twice"):
        list(build_directory.reread().modules)


@case(34, "Debian's kmod 30 skips .ko.gz silently")
def compressed(build_directory: BuildDirectory) -> None:
    build_directory.install({"a": Source(needs=("b",)), "b": Source(needs=("c",)), "c": NONE})
    for name, suffix, pack in (
        ("a", ".gz", gzip.compress),
        ("b", ".xz", lzma.compress),
        ("c", ".zst", zstd.compress),
    ):
        file = file_of(build_directory, name)
        file.with_suffix(f".ko{suffix}").write_bytes(pack(file.read_bytes()))
        file.unlink()
    ours = tree_of_files(build_directory.tree.directory)
    assert list(ours.modules) == ["a", "b", "c"]
    assert resolve_closure(ours, ["a"]).load_order == ("c", "b", "a")
    assert {path.suffix for path in resolve_closure(ours, ["a"]).files} == {".gz", ".xz", ".zst"}
    skipped = set(ours.modules) - set(build_directory.depmod().modules)
    # What this kmod cannot unpack is missing in its tree, and said to be.
    for name in skipped:
        with pytest.raises(BadInput, match=f"no module '{name}'"):
            build_directory.closure(name)
    assert set(build_directory.tree.modules) >= {"b", "c"}


@case(35, "Debian 13 has usr/lib/modules")
def two_places(build_directory: BuildDirectory) -> None:
    tree = build_directory.install({"a": NONE})
    place = build_directory.path / "merged" / "usr" / "lib" / "modules"
    place.mkdir(parents=True)
    shutil.copytree(tree.directory, place / RELEASE)
    assert resolve_closure(ModuleTree(place / RELEASE), ["a"]).load_order == ("a",)
    with pytest.raises(BadInput, match="not a module tree") as error:
        resolve_closure(ModuleTree(build_directory.path / "merged"), ["a"])
    assert str(place / RELEASE) in error.value.evidence.next_step


@case(36, "mkinitcpio#109, nixpkgs#484106")
def pruned_tree(build_directory: BuildDirectory) -> None:
    tree = build_directory.install(
        {
            "a": Source(needs=("lib",), softdep=("pre: alias-b",), aliases=("x[0-9]",)),
            "b": Source(aliases=("alias-b", "x*")),
            "lib": NONE,
            "other": Source(needs=("lib",), aliases=("x*",)),
        },
        builtin=["zram"],
    )
    closure = build_directory.closure("a")
    root = build_directory.path / "pruned"
    pruned = ModuleTree(write_pruned_tree(tree, closure, root))
    for again in (False, True):
        if again:
            run(["depmod", "-b", root, RELEASE], timeout_s=30)
        for name in ("a", "b", "lib", "alias-b", "zram", "alias-of-zram", "symbol:symbol_of_lib"):
            said = show_depends(root, name).stdout
            full = show_depends(build_directory.path, name).stdout
            assert said == full.replace(str(build_directory.path), str(root))
            assert simulate_modprobe(pruned, name).output == said
    assert resolve_closure(pruned, ["a"]).load_order == closure.load_order


# Load time


@case(37, "strip takes a module's symbols, and its signature's worth")
def stripped_and_signed(build_directory: BuildDirectory) -> None:
    build_directory.install({"a": NONE, "b": NONE})
    file = file_of(build_directory, "a")
    data = file.read_bytes()
    file.write_bytes(data + bytes(40) + b"~Module signature appended~\n")
    check_files(build_directory.closure("a").modules, release=RELEASE, signed=True)
    with pytest.raises(BadInput) as error:
        check_files(build_directory.closure("a", "b").modules, release=RELEASE, signed=True)
    assert "b: without a signature" in error.value.evidence.seen
    file.write_bytes(data.replace(b".symtab\0", b".gone..\0"))
    with pytest.raises(BadInput, match="would refuse 1 of 2 modules") as error:
        check_files(build_directory.closure("a", "b").modules, release=RELEASE)
    assert "a: stripped of its symbol table" in error.value.evidence.seen


@case(38, "a tree named 0.0 resolves, and only the kernel refuses")
def vermagic(build_directory: BuildDirectory) -> None:
    build_directory.install(
        {
            "a": NONE,
            "b": Source(vermagic="5.10.0 SMP mod_unload"),
            "c": Source(vermagic=f"{RELEASE} mod_unload"),
        }
    )
    assert build_directory.closure("a", "b", "c").load_order == ("a", "b", "c")
    with pytest.raises(BadInput, match="would refuse 2 of 3 modules") as error:
        check_files(build_directory.closure("a", "b", "c").modules, release=RELEASE)
    assert "b: vermagic names 5.10.0" in error.value.evidence.seen
    assert "c: vermagic" in error.value.evidence.seen
    fields = [f"vermagic={RELEASE} SMP mod_unload"]
    file_of(build_directory, "c").write_bytes(make_module(KINDS["elf32-big"], fields))
    with pytest.raises(BadInput) as error:
        check_files(build_directory.closure("a", "c").modules, release=RELEASE)
    assert "32 bits, big-endian" in error.value.evidence.seen


@case(39, "brcmfmac: globs; linux-firmware: links and .zst")
def firmware(build_directory: BuildDirectory) -> None:
    build_directory.install(
        {"wifi": Source(firmware=("wifi/plain.bin", "wifi/board-*.txt", "none.bin"))},
        builtin=["usb"],
        modinfo=["usb.firmware=usb.fw"],
    )
    place = build_directory.path / "firmware"
    (place / "wifi").mkdir(parents=True)
    (place / "updates" / "wifi").mkdir(parents=True)
    (place / "wifi" / "plain.bin.xz").write_bytes(b"x")
    (place / "wifi" / "board-1.txt").write_bytes(b"x")
    (place / "wifi" / "real.zst").write_bytes(b"x")
    (place / "wifi" / "middle.zst").symlink_to("../wifi/real.zst")
    (place / "wifi" / "board-2.txt.zst").symlink_to("middle.zst")
    (place / "usb.fw").write_bytes(b"x")
    found = build_directory.closure("wifi", "usb", firmware_directory=place)
    assert [(file.relative, file.link) for file in found.firmware.files] == [
        ("usb.fw", ""),
        ("wifi/board-1.txt", ""),
        ("wifi/board-2.txt.zst", "middle.zst"),
        ("wifi/middle.zst", "../wifi/real.zst"),
        ("wifi/plain.bin.xz", ""),
        ("wifi/real.zst", ""),
    ]
    assert found.firmware.missing == (("wifi", "none.bin"),)
    assert "firmware none.bin is not in" in found.warnings[0]
    with pytest.raises(BadInput, match="1 firmware files are missing"):
        build_directory.closure("wifi", firmware_directory=place, missing_firmware="error")


@case(40, "busybox's insmod knows no dependencies")
def simple_loaders(build_directory: BuildDirectory) -> None:
    # A list that depmod did not write: not transitive, in no order.
    tree = make_tree(build_directory.path, {"a": ["b"], "b": ["d", "c"], "c": ["d"], "d": []})
    closure = resolve_closure(tree, ["a"])
    plan = closure.plan
    assert [step.name for step in plan.load] == ["d", "c", "b", "a"]
    assert plan.unload == ("a", "b", "c", "d")
    loads = [line.rpartition("/")[2] for line in load_script(closure).splitlines()[2:]]
    assert loads == ["d.ko", "c.ko", "b.ko", "a.ko"]
    assert unload_script(closure).splitlines()[2:] == ["rmmod a", "rmmod b", "rmmod c", "rmmod d"]


def numbered(cases: Sequence[Case]) -> list[str]:
    return [f"{each.number:02}-{each.check.__name__}" for each in cases]


@pytest.mark.parametrize("edge", CASES, ids=numbered(CASES))
def test_edge_case(tmp_path: Path, edge: Case) -> None:
    edge.check(BuildDirectory(tmp_path))


def test_each_of_the_40_cases_is_tested_once_with_its_source() -> None:
    assert [each.number for each in CASES] == list(range(1, 41))
    assert all(each.source for each in CASES)
