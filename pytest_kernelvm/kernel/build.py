"""From a cell's description to a kernel in the store: configure, make, install, publish."""

from __future__ import annotations

import contextlib
import json
import os
import platform
import re
import shutil
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from pytest_kernelvm.arch import ARCHES, Arch
from pytest_kernelvm.config import VmConfig
from pytest_kernelvm.errors import BadInput, BuildFailed, Evidence, HarnessError
from pytest_kernelvm.kernel import kconfig
from pytest_kernelvm.kernel.configuring import Configuration
from pytest_kernelvm.kernel.kconfig_requests import requests_key, requests_of
from pytest_kernelvm.kernel.source import Tarball, kernel_version, locate, patched
from pytest_kernelvm.kernel.store import (
    Store,
    Work,
    digest_of,
    file_digest,
    raise_if_full,
    write_whole,
)
from pytest_kernelvm.process import TAIL_LINES, failure, find_program, run

# Counts up whenever the way of building changes what comes out.
RECIPE = 2

# Fixed, so that the same inputs give the same bytes (Documentation/kbuild/reproducible-builds.rst).
PINNED = {
    "KBUILD_BUILD_TIMESTAMP": "2024-01-01 00:00:00 UTC",
    "KBUILD_BUILD_USER": "kernelvm",
    "KBUILD_BUILD_HOST": "kernelvm",
    "KBUILD_BUILD_VERSION": "1",
}

# Tools whose versions Kconfig writes into the .config though the kernel is not built with them:
# they are hidden unless the symbol is asked for, so that two machines come to the same kernel.
HIDDEN_TOOLS = {"RUST": "RUSTC", "DEBUG_INFO_BTF": "PAHOLE"}

_REFUSED = re.compile(r"\berror: |undefined reference|multiple definition|^ERROR: modpost")
_COMPILED = re.compile(r"\s+(?:CC|AS|HOSTCC|LD|AR|CC \[M\]|LD \[M\])\s+(\S.*)")


@dataclass(frozen=True, kw_only=True)
class Kernel:
    """A built kernel in the store.

    digest: names what made it. release: `uname -r`. directory: its entry in the store.
    image: the file that QEMU boots. patches: names of the patches in it.
    """

    digest: str
    release: str
    arch: Arch
    directory: Path
    image: Path
    patches: tuple[str, ...]

    @property
    def module_tree(self) -> Path:
        """The lib/modules/RELEASE directory; absent for a kernel without modules."""
        return self.directory / "modules" / "lib" / "modules" / self.release

    @property
    def headers(self) -> Path:
        """The UAPI headers, as `make headers` made them."""
        return self.directory / "headers"

    @property
    def nolibc(self) -> Path:
        """The nolibc headers of this kernel's source."""
        return self.directory / "nolibc"

    @property
    def system_map(self) -> Path:
        """The symbols and their addresses."""
        return self.directory / "System.map"

    @cached_property
    def config(self) -> dict[str, str]:
        """The final configuration: symbols that are set, without CONFIG_."""
        return kconfig.parse_config((self.directory / "config").read_text())


def compiler_version(arch: Arch) -> str:
    """Return the first lines of the compiler's and linker's --version, native or cross.

    Raises ToolMissing if the cross compiler is not installed.
    """
    hint = f"apt-get install {arch.debian_packages[0]}"
    lines = []
    for tool in ("gcc", "ld"):
        program = find_program(f"{arch.toolchain_prefix}{tool}", hint)
        lines.append(run([program, "--version"], timeout_s=30).stdout.partition("\n")[0])
    return "; ".join(lines)


def request_key(cell: VmConfig, tarball: Tarball, compiler: str) -> dict[str, Any]:
    """Return all that decides which kernel a cell means, known before anything is configured."""
    kernel = cell.kernel
    base = Path(kernel.base)
    return {
        "recipe": RECIPE,
        "source": tarball.digest,
        "patches": [file_digest(patch) for patch in kernel.patches],
        "base": file_digest(base) if base.is_file() else kernel.base,
        "requests": requests_key(kernel),
        "linux_arch": cell.arch.linux_arch,
        "image": kernel.image,
        "compiler": compiler,
    }


def find_kernel(store: Store, cell: VmConfig) -> Kernel | None:
    """Return a cell's kernel if the store has it; nothing is unpacked or compiled.

    Raises ToolMissing if the source or the compiler is not installed.
    """
    tarball = locate(cell.kernel.source)
    request = digest_of(request_key(cell, tarball, compiler_version(cell.arch)))
    return _stored(store, cell, request)


def _stored(store: Store, cell: VmConfig, request: str) -> Kernel | None:
    try:
        note = json.loads((store.root / "requests" / f"{request}.json").read_bytes())
        digest = str(note["kernel"])
    except (OSError, ValueError, KeyError, TypeError):
        return None
    entry = store.find("kernels", digest)
    return _kernel(store, entry, cell) if entry else None


def _kernel(store: Store, entry: Path, cell: VmConfig) -> Kernel:
    about = store.describe(entry)
    kernel = Kernel(
        digest=entry.name,
        release=about["release"],
        arch=ARCHES[about["arch"]],
        directory=entry,
        image=entry / about["image"],
        patches=tuple(about["patches"]),
    )
    wanted = cell.kernel.release
    if wanted and wanted != kernel.release:
        raise BuildFailed(
            f"{cell.id}: the kernel calls itself {kernel.release}, not {wanted}",
            Evidence(
                expected=f"release {wanted}, as the vm-config says",
                seen=kernel.release,
                where=(str(cell.file),),
                next_step="look at LOCALVERSION and the source's version",
            ),
        )
    return kernel


def build_kernel(store: Store, cell: VmConfig, *, jobs: int | None = None) -> Kernel:
    """Return a cell's kernel, building it unless the store has it.

    jobs: how many compilers at once, by default one a core.
    Raises ConfigLost, BuildFailed, ToolMissing, BadInput or HarnessError.
    """
    tarball = locate(cell.kernel.source)
    compiler = compiler_version(cell.arch)
    request = digest_of(request_key(cell, tarball, compiler))
    found = _stored(store, cell, request)
    if found:
        return found
    with store.lock(f"requests-{request}", f"the kernel of {cell.id}"):
        found = _stored(store, cell, request)
        if found:
            return found
        tree = patched(store, tarball, cell.kernel.patches)
        with store.work(f"build-{request}") as work:
            build = _build_in(store, cell, tree, work.directory, jobs)
            digest = _build_into(store, build, tarball, compiler)
            note = json.dumps({"kernel": digest, "cell": cell.id})
            write_whole(store.root / "requests" / f"{request}.json", note.encode())
    found = _stored(store, cell, request)
    if not found:
        raise HarnessError(
            f"the kernel of {cell.id} vanished from the store", Evidence(where=(str(store.root),))
        )
    return found


def _build_in(
    store: Store, cell: VmConfig, tree: Path, directory: Path, jobs: int | None = None
) -> _Build:
    return _Build(
        cell=cell,
        tree=tree,
        variables=make_variables(cell, kernel_version(tree)),
        directory=directory / "build",
        log=directory / "build.log",
        kept_log=store.root / "logs" / f"{cell.id}.log",
        jobs=jobs or os.cpu_count() or 1,
    )


@contextlib.contextmanager
def configuring(store: Store, cell: VmConfig) -> Iterator[Configuration]:
    """Give a cell's configuration, in a build directory that is gone afterwards.

    Nothing of the kernel is compiled. Raises ToolMissing, BadInput or BuildFailed.
    """
    name = f"configuring-{cell.id}"
    with store.lock(name, f"the configuration of {cell.id}"):
        tree = patched(store, locate(cell.kernel.source), cell.kernel.patches)
        with store.work(name) as work:
            yield _configuration(_build_in(store, cell, tree, work.directory))


def make_variables(cell: VmConfig, version: str = "") -> tuple[str, ...]:
    """Return the variables that make is given for a cell's kernel, besides where it builds.

    version: of the source, by default what the vm-config says.
    """
    requests = requests_of(cell.kernel, version)
    hidden = (
        f"{variable}=not-used"
        for symbol, variable in HIDDEN_TOOLS.items()
        if not (symbol in requests and requests[symbol].value == "y")
    )
    return (
        f"ARCH={cell.arch.linux_arch}",
        f"CROSS_COMPILE={cell.arch.toolchain_prefix}",
        "LOCALVERSION=",
        *hidden,
    )


@dataclass(frozen=True, kw_only=True, slots=True)
class _Build:
    cell: VmConfig
    tree: Path
    variables: tuple[str, ...]
    directory: Path
    log: Path
    kept_log: Path
    jobs: int

    def make_argv(self, *goals: str) -> list[str]:
        return [
            "make",
            f"--directory={self.tree}",
            f"O={self.directory}",
            *self.variables,
            f"-j{self.jobs}",
            *goals,
        ]

    def make(self, *goals: str, on_line: Any = None) -> None:
        done = run(
            self.make_argv(*goals),
            env=PINNED,
            timeout_s=self.cell.timeouts.build_s,
            check=False,
            log=self.log,
            on_line=on_line,
        )
        if done.status != 0:
            self._failed(done, goals)

    def _failed(self, done: Any, goals: Sequence[str]) -> None:
        evidence = failure(done, self.log)
        raise_if_full(evidence.excerpt)
        self.kept_log.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy2(self.log, self.kept_log)
        complaints = compiler_complaints(self.log.read_text(errors="replace"), self.tree)
        raise BuildFailed(
            f"{self.cell.id}: make {' '.join(goals)} {evidence.seen}",
            Evidence(
                seen=complaints[0] if complaints else evidence.seen,
                excerpt="\n".join(complaints) or evidence.excerpt,
                where=(str(self.kept_log),),
                command=evidence.command,
            ),
        )


def compiler_complaints(log: str, tree: Path) -> tuple[str, ...]:
    """Return what compiler, assembler and linker refuse in a build's log, with the code they show.

    log: the output of make. tree: the source, whose path is left out of the lines.
    """
    lines = log.replace(f"{tree}/", "").splitlines()
    shown: list[str] = []
    for number, line in enumerate(lines):
        if _REFUSED.search(line):
            code = [next_line for next_line in lines[number + 1 : number + 3] if " | " in next_line]
            shown += [line.strip(), *code]
    return tuple(shown[:TAIL_LINES])


def _build_into(store: Store, build: _Build, tarball: Tarball, compiler: str) -> str:
    cell = build.cell
    version = kernel_version(build.tree)
    if not f"{version}.".startswith(f"{cell.kernel.version}."):
        raise BadInput(
            f"{cell.id}: the source is {version}, not {cell.kernel.version}",
            Evidence(where=(cell.kernel.source.where,), seen=f"{tarball.path} holds {version}"),
        )
    store.progress.say(f"configuring {cell.id} ({version})")
    _configure(store, build)
    final = (build.directory / ".config").read_text()
    digest = digest_of(
        {
            "recipe": RECIPE,
            "source": tarball.digest,
            "patches": [file_digest(patch) for patch in cell.kernel.patches],
            "config": final,
            "compiler": compiler,
            "image": cell.kernel.image,
        }
    )

    def make(work: Work) -> dict[str, Any]:
        started = time.monotonic()
        files = _compile(store, build)
        release = (build.directory / "include/config/kernel.release").read_text().strip()
        _collect(build, work.entry)
        elapsed_s = time.monotonic() - started
        store.progress.say(f"built {cell.id}: {files} files in {elapsed_s:.0f} s")
        return {
            "release": release,
            "version": version,
            "arch": cell.arch.name,
            "image": Path(cell.arch.images[cell.kernel.image]).name,
            "patches": [patch.stem for patch in cell.kernel.patches],
            "compiler": compiler,
            "source": tarball.path.name,
            "first_cell": cell.id,
            "built_s": round(elapsed_s, 1),
            "built_on": platform.node(),
        }

    store.obtain("kernels", digest, make, label=f"the kernel of {cell.id}")
    return digest


def _configuration(build: _Build) -> Configuration:
    return Configuration(
        kernel=build.cell.kernel,
        arch=build.cell.arch,
        label=build.cell.id,
        version=kernel_version(build.tree),
        tree=build.tree,
        directory=build.directory,
        make=build,
    )


def _configure(store: Store, build: _Build) -> None:
    configuration = _configuration(build)
    decision = configuration.settle()
    if decision.lost:
        store.progress.say(f"explaining what {build.cell.id} has lost")
        raise configuration.explain(decision)
    changed = configuration.base_not_kept(decision)
    if changed:
        base = build.cell.kernel.base
        store.progress.say(
            f"{len(changed)} symbols of {base} came out otherwise; "
            f"`kernelvm config diff {base} {build.cell.id}` shows them"
        )
    for request in decision.dropped:
        store.progress.say(f"{build.cell.id} goes without {request}, {request.where}")


def _compile(store: Store, build: _Build) -> int:
    cell = build.cell
    started = time.monotonic()
    compiled = 0

    def count(line: str) -> None:
        nonlocal compiled
        if found := _COMPILED.fullmatch(line):
            compiled += 1
            elapsed_s = time.monotonic() - started
            store.progress.update(
                f"building {cell.id}: {compiled} files, {elapsed_s:.0f} s, {found[1]}"
            )

    store.progress.say(f"building {cell.id} with {build.jobs} jobs")
    config = kconfig.parse_config((build.directory / ".config").read_text())
    goals = [cell.kernel.image]
    if config.get("MODULES") == "y":
        goals.append("modules")
    build.make(*goals, on_line=count)
    build.make("headers")
    if "modules" in goals:
        build.make(f"INSTALL_MOD_PATH={build.directory}/installed", "modules_install")
    return compiled


def _collect(build: _Build, entry: Path) -> None:
    """Move what is kept into the entry; the links into the build directory are left out."""
    directory = build.directory
    image = directory / build.cell.arch.images[build.cell.kernel.image]
    shutil.copy2(image, entry / image.name)
    for name, kept in (
        (".config", "config"),
        ("System.map", "System.map"),
        ("Module.symvers", "Module.symvers"),
    ):
        if (directory / name).is_file():
            shutil.copy2(directory / name, entry / kept)
    if image.name != "vmlinux":
        shutil.copy2(directory / "vmlinux", entry / "vmlinux")
    installed = directory / "installed"
    if installed.is_dir():
        for link in (
            *installed.glob("lib/modules/*/build"),
            *installed.glob("lib/modules/*/source"),
        ):
            link.unlink()
        installed.rename(entry / "modules")
    shutil.copytree(directory / "usr/include", entry / "headers", ignore=_only_headers)
    shutil.copytree(build.tree / "tools/include/nolibc", entry / "nolibc", ignore=_only_headers)
    shutil.copy2(build.log, entry / "build.log")


def _only_headers(directory: str, names: list[str]) -> list[str]:
    return [n for n in names if not (n.endswith(".h") or Path(directory, n).is_dir())]
