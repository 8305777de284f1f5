"""The guest's modprobe.d against the real modprobe, on random configurations."""

from __future__ import annotations

import os
import random
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pytest_kernelvm.errors import BadInput
from pytest_kernelvm.modules.modprobe import simulate_modprobe
from pytest_kernelvm.modules.modprobe_d import (
    cmdline_parameters,
    modprobe_d_of_root,
    read_modprobe_d,
)
from pytest_kernelvm.modules.tree import ModuleTree
from pytest_kernelvm.process import run
from tests.unit.test_modules_depmod import install, random_sources, show_depends

needs_kmod = pytest.mark.skipif(
    not (shutil.which("depmod") and shutil.which("modprobe")), reason="kmod is not installed"
)


@pytest.mark.parametrize(
    ("text", "options", "ignored"),
    [
        pytest.param("options a x=1\n", (("a", "x=1"),), 0, id="plain"),
        pytest.param("  options\ta-b\tx=1\ty\n", (("a_b", "x=1 y"),), 0, id="tabs"),
        pytest.param("options a \\\n x=1", (("a", " x=1"),), 0, id="joined-lines"),
        pytest.param('options a x=\\"1\\"\n', (("a", 'x="1"'),), 0, id="backslashes-vanish"),
        pytest.param("options a\n", (), 1, id="no-options"),
        pytest.param("options a[ x=1\n", (), 1, id="open-bracket"),
        pytest.param("# options a x\n\n   \n", (), 0, id="comment"),
        pytest.param("  # options a x\n", (), 1, id="comment-not-in-the-first-column"),
        pytest.param("include x\nsoftdep a\nalias a\n", (), 3, id="bad-lines"),
    ],
)
def test_lines(
    tmp_path: Path, text: str, options: tuple[tuple[str, str], ...], ignored: int
) -> None:
    (tmp_path / "x.conf").write_text(text)
    found = read_modprobe_d([tmp_path])
    assert found.options == options
    assert len(found.ignored) == ignored
    assert all(str(tmp_path / "x.conf") in line for line in found.ignored)


def test_which_files_count(tmp_path: Path) -> None:
    first, second = tmp_path / "etc/modprobe.d", tmp_path / "usr/lib/modprobe.d"
    for place in (first, second):
        place.mkdir(parents=True)
    for place, name in (
        (second, "b.conf"),
        (first, "b.conf"),
        (first, "a.conf"),
        (first, "c.alias"),
        (first, "x.txt"),
        (first, ".h.conf"),
    ):
        (place / name).write_text(f"blacklist {place.parts[-2]}_{name[0]}\n")
    (first / "d.conf").mkdir()
    assert modprobe_d_of_root(tmp_path).blacklist == ("etc_a", "etc_b", "etc_c")
    assert read_modprobe_d([second / "b.conf"]).blacklist == ("lib_b",)


def test_what_cannot_be_read(tmp_path: Path) -> None:
    (tmp_path / "x.conf").symlink_to("nowhere")
    for path in (tmp_path / "none", tmp_path / "x.conf"):
        with pytest.raises(BadInput) as error:
            read_modprobe_d([path])
        assert error.value.evidence.where == (str(path),)


def test_bytes_that_are_no_text_are_kept(tmp_path: Path) -> None:
    (tmp_path / "x.conf").write_bytes(b"options a x=\xff\n")
    ((_, text),) = read_modprobe_d([tmp_path]).options
    assert os.fsencode(text) == b"x=\xff"


WORDS = (
    *("quiet", "a.b", "a.b=c", '"a.b=c d"', 'a.b="c d"', "a.b.c=d", "a=b.c=d", '"a b.c=d"'),
    *("a.b=c.d=e", 'a".b=c', 'a.b"=c', "modprobe.blacklist=x,y-z,", '"a.b', 'a.b="c'),
    *("-a.b=c", ".b=c", "a.=c", "a.b="),
)


def cmdlines(seed: int) -> str:
    chosen = random.Random(seed)
    return chosen.choice(" \t").join(chosen.choices(WORDS, k=chosen.randint(1, 7)))


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can show modprobe another command line")
@needs_kmod
@pytest.mark.parametrize("block", range(4))
def test_command_lines_are_read_as_kmod_reads_them(tmp_path: Path, block: int) -> None:
    """`modprobe -c` in a mount namespace of its own, where /proc/cmdline is our file."""
    (tmp_path / "none").mkdir()
    (tmp_path / "lib/modules/x").mkdir(parents=True)
    for seed in range(block * 10, block * 10 + 10):
        line = cmdlines(seed)
        file = tmp_path / "cmdline"
        file.write_text(line + "\n")
        script = 'mount --bind "$1" /proc/cmdline && exec modprobe -c -d "$2" -S x -C "$2/none"'
        argv = ["unshare", "--mount", "sh", "-c", script, "sh"]
        argv += [str(file), str(tmp_path)]
        done = run(argv, timeout_s=30, check=False)
        if done.status:
            pytest.skip(f"no mount namespace here: {done.stderr}")
        shown = [
            word for word in done.stdout.splitlines() if word.startswith(("options ", "blacklist "))
        ]
        found = read_modprobe_d(cmdline=line + "\n")
        ours = [f"blacklist {name}" for name in found.blacklist]
        ours += [f"options {name} {text}" for name, text in found.options]
        assert ours == shown, line


@given(st.text('ab.=" \t\n-', max_size=30))
def test_any_command_line_is_read(text: str) -> None:
    for module, parameter in cmdline_parameters(text):
        assert "." not in module
        assert "=" in parameter or "." not in parameter


def random_lines(chosen: random.Random, names: list[str]) -> Iterator[str]:
    """Yield lines of a modprobe.d about some modules, their aliases, and what is none."""
    things = [*names, *(f"alias-{name}" for name in names), "family-1", "nowhere", "builtin0"]
    patterns = ["m1*", "m?", "m[0-4]", *names]
    for _ in range(chosen.randint(3, 14)):
        one, other = chosen.choices(things, k=2)
        yield chosen.choice(
            [
                f"alias {chosen.choice([one, 'x*', 'alias-m*', 'new'])} {other}",
                f'options {one} p={chosen.randint(0, 9)} q="a b"',
                f"blacklist {one}",
                f"install {chosen.choice(patterns)} /bin/echo {one} $CMDLINE_OPTS",
                f"remove {one} /bin/true",
                f"softdep {chosen.choice(patterns)} pre: {one} post: {other}",
                f"softdep {chosen.choice(names)} {one} pre: {other}",
                f"weakdep {one} {other}",
                f"options {one} \\\n  long=1",
                "nonsense here",
            ]
        )


@needs_kmod
@pytest.mark.parametrize("seed", range(12))
def test_random_configurations_are_obeyed_as_modprobe_does(tmp_path: Path, seed: int) -> None:
    chosen = random.Random(seed)
    sources = random_sources(seed, loops=True)
    names = sorted(sources)
    directory = install(tmp_path, sources, builtin=["builtin0"]).directory
    conf = tmp_path / "conf"
    conf.mkdir()
    for file in ("a.conf", "m.conf", "z.conf", "mz.alias"):
        (conf / file).write_text("".join(f"{line}\n" for line in random_lines(chosen, names)))
    tree = ModuleTree(directory, modprobe_d=read_modprobe_d([conf]))
    asked = [*names, *(f"alias-{name}" for name in names), "family-0", "family-1", "x1", "new"]
    asked += ["builtin0", "alias-of-builtin0", "nowhere", "symbol:symbol_of_m3", "[m1", "m1]"]
    for flags in ((), ("-b",), ("-i",)):
        said = show_depends(tmp_path, "-a", *flags, *asked, conf=conf)
        blacklist, ignore = "-b" in flags, "-i" in flags
        ours = [
            simulate_modprobe(tree, name, use_blacklist=blacklist, ignore_commands=ignore)
            for name in asked
        ]
        assert "".join(each.output for each in ours) == said.stdout
        assert all(each.found for each in ours) == (said.status == 0)
    for name in names[:4]:
        alone = show_depends(tmp_path, name, "n=1", conf=conf)
        assert simulate_modprobe(tree, name, parameters="n=1").output == alone.stdout
