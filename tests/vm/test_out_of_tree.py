"""Modules of one's own: built against a stored kernel, loaded, or refused before anything boots."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path

import pytest

from pytest_kernelvm import Cell
from pytest_kernelvm.config.requests import Requested
from pytest_kernelvm.errors import BadInput, BuildFailed, CommandFailed, GuestSplat, Verdict
from pytest_kernelvm.kernel.build.build import build_kernel
from pytest_kernelvm.kernel.out_of_tree.compat import objections, require_fit
from pytest_kernelvm.kernel.out_of_tree.directory import build_modules
from pytest_kernelvm.session.smoke_tests import try_files, try_modules

pytestmark = pytest.mark.slow

HELLO = """\
#include <linux/module.h>

static int number = 1;
module_param(number, int, 0);

static int __init hello_init(void)
{
	pr_info("hello: %d\\n", number);
	return number < 0 ? number : 0;
}

static void __exit hello_exit(void)
{
	pr_info("hello: gone\\n");
}

module_init(hello_init);
module_exit(hello_exit);
MODULE_LICENSE("GPL");
MODULE_DESCRIPTION("says hello");
"""
# Needs one of the kernel's modules (stp) and one that is built beside it.
USER = """\
#include <linux/module.h>
#include <net/stp.h>

int greeting(void);

static int __init user_init(void)
{
	pr_info("user: %d\\n", greeting());
	return 0;
}

static void __exit user_exit(void)
{
	pr_info("user: %p\\n", stp_proto_unregister);
}

module_init(user_init);
module_exit(user_exit);
MODULE_LICENSE("GPL");
MODULE_DESCRIPTION("uses others");
"""
USED = """\
#include <linux/module.h>

int greeting(void);
int greeting(void)
{
	return 42;
}
EXPORT_SYMBOL_GPL(greeting);
MODULE_LICENSE("GPL");
MODULE_DESCRIPTION("is used");
"""


@pytest.fixture
def hello(tmp_path: Path) -> Path:
    directory = tmp_path / "hello"
    directory.mkdir()
    (directory / "Kbuild").write_text("obj-m := hello.o\n")
    (directory / "hello.c").write_text(HELLO)
    return directory


def test_a_module_is_tried(cell: Cell, hello: Path, tmp_path: Path) -> None:
    trial = try_modules(cell, hello, tmp_path, options={"hello": "number=7"})
    assert trial.modules == ("hello",)
    assert trial.log.index("hello: 7") < trial.log.index("hello: gone")
    assert sorted(path.name for path in hello.iterdir()) == ["Kbuild", "hello.c"]


def test_an_edit_is_tried(cell: Cell, hello: Path, tmp_path: Path) -> None:
    for number in (1, 2):
        (tmp_path / str(number)).mkdir()
        (hello / "hello.c").write_text(HELLO.replace("hello: gone", f"hello: gone {number}"))
        trial = try_modules(cell, hello, tmp_path / str(number))
        assert f"hello: gone {number}" in trial.log


def test_modules_that_need_others(cell: Cell, tmp_path: Path) -> None:
    directory = tmp_path / "both"
    directory.mkdir()
    (directory / "Makefile").write_text("obj-m := a_user.o z_used.o\n")
    (directory / "a_user.c").write_text(USER)
    (directory / "z_used.c").write_text(USED)
    trial = try_modules(cell, directory, tmp_path)
    assert trial.modules == ("z_used", "a_user")
    assert "user: 42" in trial.log


def test_the_compilers_words(cell: Cell, hello: Path, tmp_path: Path) -> None:
    (hello / "hello.c").write_text(HELLO.replace("return number <", "return nomber <"))
    with pytest.raises(BuildFailed) as failed:
        try_modules(cell, hello, tmp_path)
    assert failed.value.evidence.excerpt.startswith("hello.c:9:16: error: ")
    assert "return nomber < 0" in failed.value.evidence.excerpt
    assert failed.value.evidence.where == (str(hello),)
    (hello / "hello.c").write_text(HELLO)
    assert try_modules(cell, hello, tmp_path).modules == ("hello",)


def test_a_symbol_that_nobody_exports(cell: Cell, hello: Path, tmp_path: Path) -> None:
    text = HELLO.replace("static int number", "int absent(void);\nstatic int number")
    (hello / "hello.c").write_text(text.replace("number < 0 ? number", "number < 0 ? absent()"))
    with pytest.raises(BuildFailed) as failed:
        try_modules(cell, hello, tmp_path)
    assert '"absent" [' in failed.value.evidence.excerpt


def test_a_module_that_refuses(cell: Cell, hello: Path, tmp_path: Path) -> None:
    with pytest.raises(CommandFailed, match=r"insmod hello\.ko failed") as failed:
        try_modules(cell, hello, tmp_path, options={"hello": "number=-22"})
    assert "hello: -22" in failed.value.evidence.excerpt


# Prints what KUnit prints (lib/kunit/test.c), and does as its parameter says in between.
SUITE = """\
#include <linux/completion.h>
#include <linux/module.h>

static char *how = "";
module_param(how, charp, 0);

static DECLARE_COMPLETION(never);

static int __init suite_init(void)
{
	pr_info("KTAP version 1\\n1..1\\n");
	pr_info("    KTAP version 1\\n");
	pr_info("    # Subtest: sums\\n");
	pr_info("    1..3\\n");
	pr_info("    ok 1 first\\n");
	if (!strcmp(how, "hangs"))
		wait_for_completion(&never);
	if (!strcmp(how, "warns"))
		WARN_ON(1);
	if (!strcmp(how, "fails")) {
		pr_info("    # second: EXPECTATION FAILED at sums.c:7\\n");
		pr_info("    not ok 2 second\\n");
	} else if (!strcmp(how, "forgets")) {
		pr_info("ok 1 sums\\n");
		return 0;
	} else {
		pr_info("    ok 2 second # SKIP no device\\n");
	}
	pr_info("    ok 3 third\\n");
	pr_info("%s 1 sums\\n", strcmp(how, "fails") ? "ok" : "not ok");
	return 0;
}

static void __exit suite_exit(void)
{
}

module_init(suite_init);
module_exit(suite_exit);
MODULE_LICENSE("GPL");
MODULE_DESCRIPTION("brings tests");
"""


@pytest.fixture
def suite(tmp_path: Path) -> Path:
    directory = tmp_path / "suite"
    directory.mkdir()
    (directory / "Kbuild").write_text("obj-m := suite.o\n")
    (directory / "suite.c").write_text(SUITE)
    return directory


def test_a_suite_that_passes(cell: Cell, suite: Path, tmp_path: Path) -> None:
    trial = try_modules(cell, suite, tmp_path)
    assert str(trial.results) == "tests: 2 passed, 1 skipped"


@pytest.mark.parametrize(
    ("how", "line"),
    [
        ("fails", "    not ok 2 second"),
        ("forgets", "the tests of sums: 1 results of 3"),
        ("hangs", "the tests of sums did not end: 1 results of 3"),
    ],
)
def test_a_suite_that_fails(how: str, line: str, cell: Cell, suite: Path, tmp_path: Path) -> None:
    with pytest.raises(CommandFailed, match="the tests of suite failed") as failed:
        try_modules(cell, suite, tmp_path, options={"suite": f"how={how}"}, timeout_s=2.0)
    assert line in failed.value.evidence.excerpt.splitlines()
    assert failed.value.verdict is Verdict.TEST_FAILED


def test_a_warning_while_modules_are_tried(cell: Cell, suite: Path, tmp_path: Path) -> None:
    with pytest.raises(GuestSplat, match="WARNING"):
        try_modules(cell, suite, tmp_path, options={"suite": "how=warns"})


def test_modules_that_stay(cell: Cell, tmp_path: Path) -> None:
    """One without an exit function stays, and with it what it uses; its name has a dash."""
    directory = tmp_path / "stays"
    directory.mkdir()
    (directory / "Kbuild").write_text("obj-m := a-user.o z-used.o other.o\n")
    user = USER.replace("module_exit(user_exit);", "").replace(
        "static void __exit user_exit", "static void __maybe_unused user_exit"
    )
    (directory / "a-user.c").write_text(user)
    (directory / "z-used.c").write_text(USED)
    (directory / "other.c").write_text(HELLO)
    trial = try_modules(cell, directory, tmp_path)
    assert trial.modules == ("z_used", "a_user", "other")
    assert trial.staying == (
        "a_user has no exit function and stays loaded",
        "z_used stays loaded: a_user uses it",
    )
    assert "hello: gone" in trial.log


def test_nothing_to_build(cell: Cell, tmp_path: Path) -> None:
    with pytest.raises(BadInput, match="holds no modules"):
        try_modules(cell, tmp_path, tmp_path)


def test_the_fixture(
    build_module: Callable[[str | Path], tuple[Path, ...]], hello: Path, cell: Cell
) -> None:
    (module,) = build_module(hello)
    assert module.name == "hello.ko"
    assert objections(cell.kernel, [module]) == ()


def test_a_module_of_another_kernel(cell: Cell, hello: Path, tmp_path: Path) -> None:
    """Its release is changed in the file, as that of a kernel built elsewhere would differ."""
    trial_kernel = cell.kernel

    (module,) = build_modules(cell.store, trial_kernel, hello).files
    other = tmp_path / "hello.ko"
    ours = trial_kernel.release.encode()
    theirs = ours[:-1] + (b"0" if ours[-1:] != b"0" else b"1")
    other.write_bytes(module.read_bytes().replace(b"vermagic=" + ours, b"vermagic=" + theirs))
    (found,) = objections(trial_kernel, [other])
    assert found.kind == "vermagic"
    assert found.text == f"hello.ko is for {theirs.decode()}, this one is {ours.decode()}"


def test_modules_of_another_configuration(cell: Cell, tmp_path: Path) -> None:
    """The case that started it: NF_CONNTRACK off, then m, and only the modules are built anew.

    vermagic is the same. The image was compiled without what connection tracking hooks into, and
    with shorter structures.
    """
    if cell.config.id != "malta-6.12":
        pytest.skip("two kernels are built for this; those of malta-6.12 show it")

    def variant(**symbols: str) -> Cell:
        kernel = cell.config.kernel
        asked = (
            Requested(name=name, value=value, where="test.yaml:1:1")
            for name, value in {"NETFILTER": "y", "NETFILTER_ADVANCED": "y", **symbols}.items()
        )
        plain = tuple(each for each in kernel.fragments if "firewall" not in str(each))
        changed = dataclasses.replace(kernel, fragments=plain, symbols=(*kernel.symbols, *asked))
        return Cell(dataclasses.replace(cell.config, kernel=changed), cell.store)

    image = build_kernel(cell.store, variant(NF_CONNTRACK="n").config)
    modules = build_kernel(cell.store, variant(NF_CONNTRACK="m").config)
    names = ("nf_defrag_ipv4.ko", "nf_defrag_ipv6.ko", "nf_conntrack.ko")
    files = [path for name in names for path in modules.module_tree.rglob(name)]
    assert len(files) == 3
    assert objections(modules, files, config=modules.config) == ()
    # Those that were modules before need nothing new: all but the configuration says that they fit.
    before = [path for name in ("llc", "stp") for path in modules.module_tree.rglob(f"{name}.ko")]
    assert objections(image, before) == ()
    kinds = {objection.kind for objection in objections(image, before, config=modules.config)}
    assert kinds == {"layout"}
    found = objections(image, files, config=modules.config)
    assert {objection.kind for objection in found} == {"symbol", "layout"}
    told = [objection.text for objection in found]
    assert any(text.startswith("nf_conntrack.ko needs nf_nat_hook") for text in told)
    layout = next(text for text in told if text.startswith("NF_CONNTRACK is n in the image"))
    assert "and m for the module; compiled by it into the image: " in layout
    with pytest.raises(BuildFailed, match="is not for this kernel"):
        require_fit(image, files, config=modules.config)
    # Whoever loads them without looking, from the directory they were made in, is stopped as well.
    with pytest.raises(BuildFailed, match="is not for this kernel") as failed:
        try_files(variant(NF_CONNTRACK="n"), files, tmp_path)
    assert layout in failed.value.evidence.excerpt
    assert not list(tmp_path.iterdir())
    tried = try_files(variant(NF_CONNTRACK="m"), files, tmp_path)
    assert tried.modules == ("nf_defrag_ipv4", "nf_defrag_ipv6", "nf_conntrack")
