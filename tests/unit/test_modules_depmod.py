"""Our resolution against the real depmod and modprobe, on trees of tiny modules made here."""

from __future__ import annotations

import random
import shutil
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

import pytest

from pytest_kernelvm.modules.closure import resolve_closure
from pytest_kernelvm.modules.modinfo import read_modinfo
from pytest_kernelvm.modules.pruned import pruned_metadata
from pytest_kernelvm.modules.tree import ModuleTree
from pytest_kernelvm.process import Completed, run
from tests.unit.test_modules_modinfo import X86_64, make_module

RELEASE = "6.1.0-test"

pytestmark = pytest.mark.skipif(
    not (shutil.which("depmod") and shutil.which("modprobe")), reason="kmod is not installed"
)


@dataclass(frozen=True, kw_only=True, slots=True)
class Source:
    """What a module needs and says."""

    needs: tuple[str, ...] = ()
    softdep: tuple[str, ...] = ()
    aliases: tuple[str, ...] = ()
    weakdep: tuple[str, ...] = ()
    firmware: tuple[str, ...] = ()
    vermagic: str = f"{RELEASE} SMP mod_unload"


def install(
    root: Path,
    sources: Mapping[str, Source],
    builtin: Iterable[str] = (),
    modinfo: Iterable[str] = (),
) -> ModuleTree:
    """Make a tree with the real depmod.

    builtin: names of the kernel's own modules. modinfo: what modules.builtin.modinfo says beside
    an alias for each of them.
    """
    builtin = tuple(builtin)
    directory = root / "lib" / "modules" / RELEASE
    (directory / "kernel").mkdir(parents=True)
    for name, source in sources.items():
        fields = [
            *(f"alias={alias}" for alias in source.aliases),
            *(f"softdep={softdep}" for softdep in source.softdep),
            *(f"weakdep={weakdep}" for weakdep in source.weakdep),
            *(f"firmware={firmware}" for firmware in source.firmware),
            f"depends={','.join(source.needs)}",
            f"name={name.replace('-', '_')}",
            f"vermagic={source.vermagic}",
        ]
        imports = [f"symbol_of_{need}" for need in source.needs]
        module = make_module(X86_64, fields, exports=f"symbol_of_{name}", imports=imports)
        (directory / "kernel" / f"{name}.ko").write_bytes(module)
    order = "".join(f"kernel/{name}.ko\n" for name in sources)
    (directory / "modules.order").write_text(order)
    (directory / "modules.builtin").write_text("".join(f"kernel/{name}.ko\n" for name in builtin))
    (directory / "modules.builtin.modinfo").write_bytes(
        b"".join(
            entry.encode() + b"\0"
            for entry in (*(f"{name}.alias=alias-of-{name}" for name in builtin), *modinfo)
        )
    )
    run(["depmod", "-b", root, RELEASE], timeout_s=30)
    return ModuleTree(directory)


def show_depends(
    root: Path, *words: str, conf: Path | None = None, program: str = "modprobe"
) -> Completed:
    """Run `modprobe --show-depends` on a tree, with a modprobe.d or none.

    Its environment is cleared of what changes its answer; the host's command line stays.
    """
    (root / "no-configuration").mkdir(exist_ok=True)
    where = ["-d", str(root), "-S", RELEASE, "-C", str(conf or root / "no-configuration")]
    argv = [program, "--show-depends", *where, *words]
    return run(argv, timeout_s=30, env={"MODPROBE_OPTIONS": ""}, check=False)


def modprobe_order(root: Path, name: str) -> tuple[str, ...]:
    """Return what modprobe would load, in its order; what comes up twice is loaded once."""
    shown = show_depends(root, name).stdout
    files = [line.split()[1] for line in shown.splitlines() if line.startswith("insmod ")]
    return tuple(dict.fromkeys(Path(file).stem.replace("-", "_") for file in files))


def random_sources(seed: int, *, loops: bool) -> dict[str, Source]:
    """Return modules whose needs have no cycle; their softdeps may, and may lead nowhere."""
    chosen = random.Random(seed)
    names = [f"m{number}" for number in range(14)]
    sources = {}
    for number, name in enumerate(names):
        soft = names if loops else names[:number]
        targets = [*soft, *(f"alias-{other}" for other in soft), "builtin0", "nowhere"]
        pre = chosen.sample(targets, chosen.choice([0, 0, 0, 1, 2]))
        post = chosen.sample(targets, chosen.choice([0, 0, 0, 1, 2]))
        line = " ".join([*(["pre:"] if pre else []), *pre, *(["post:"] if post else []), *post])
        sources[name] = Source(
            needs=tuple(chosen.sample(names[:number], min(number, chosen.choice([0, 1, 1, 2, 3])))),
            softdep=(line,) if line else (),
            aliases=(f"alias-{name}", f"family-{number % 3}"),
        )
    shuffled = list(sources.items())
    chosen.shuffle(shuffled)
    return dict(shuffled)


@pytest.mark.parametrize("loops", [False, True], ids=["acyclic-softdeps", "looping-softdeps"])
@pytest.mark.parametrize("seed", range(6))
def test_load_order_is_that_of_modprobe(tmp_path: Path, seed: int, loops: bool) -> None:
    sources = random_sources(seed, loops=loops)
    tree = install(tmp_path, sources, builtin=["builtin0"])
    for name in sources:
        assert resolve_closure(tree, [name]).load_order == modprobe_order(tmp_path, name), name


def test_case01_all_softdep_lines_count_not_only_modprobes_first(tmp_path: Path) -> None:
    tree = install(
        tmp_path, {"a": Source(softdep=("pre: b", "pre: c")), "b": Source(), "c": Source()}
    )
    assert modprobe_order(tmp_path, "a") == ("b", "a")
    assert resolve_closure(tree, ["a"]).load_order == ("b", "c", "a")


def test_case13_15_names_and_classes_as_depmod_writes_them(tmp_path: Path) -> None:
    sources = {
        "with-dash": Source(needs=("under_score",), aliases=("usb:v1-[0-9]d*", "x y-z")),
        "under_score": Source(),
    }
    tree = install(tmp_path, sources)
    for name in ("with-dash", "with_dash", "usb:v1-5dff", "x y-z"):
        order = ("under_score", "with_dash")
        assert resolve_closure(tree, [name]).load_order == modprobe_order(tmp_path, name) == order


def test_case36_depmod_agrees_with_the_pruned_metadata(tmp_path: Path) -> None:
    sources = random_sources(1, loops=True)
    tree = install(tmp_path / "full", sources, builtin=["builtin0"])
    closure = resolve_closure(tree, ["m9"])
    directory = tmp_path / "pruned" / "lib" / "modules" / RELEASE
    for module in closure.modules:
        target = directory / module.file.relative
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes(module.path.read_bytes())
    pruned = pruned_metadata(tree, closure, for_depmod=True)
    assert 0 < len(closure.modules) < len(sources)
    for name in ("modules.order", "modules.builtin", "modules.builtin.modinfo"):
        (directory / name).write_bytes(pruned[name])
    run(["depmod", "-b", tmp_path / "pruned", RELEASE], timeout_s=30)
    for name in ("modules.dep", "modules.alias", "modules.softdep"):
        lines = (directory / name).read_text().splitlines(keepends=True)
        assert "".join(x for x in lines if not x.startswith("#")) == pruned[name].decode()


def test_modinfo_reads_what_kmods_does(tmp_path: Path) -> None:
    source = Source(softdep=("pre: b c",), aliases=("one", "two three"))
    path = install(tmp_path, {"a-b": source}).modules["a_b"].path
    fields = read_modinfo(path)
    for key in ("alias", "softdep", "name"):
        ours = [value for field, value in fields if field == key]
        assert run(["modinfo", "-F", key, path], timeout_s=30).stdout.splitlines() == ours
