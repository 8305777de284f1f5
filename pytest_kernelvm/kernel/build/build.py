"""From a cell's description to a kernel in the store: configure, make, install, publish."""

from __future__ import annotations

import contextlib
import json
import os
import platform
import re
import shutil
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

from pytest_kernelvm.arch.base import Arch
from pytest_kernelvm.config.model import Patch, VmConfig
from pytest_kernelvm.errors import BadInput, BuildFailed, Evidence, HarnessError
from pytest_kernelvm.kernel.build import devel
from pytest_kernelvm.kernel.build.build_directories import Bench, Wanted, kept_build
from pytest_kernelvm.kernel.build.config_uses import write_uses
from pytest_kernelvm.kernel.build.devel import keep_devel
from pytest_kernelvm.kernel.build.incremental import (
    Earlier,
    earlier_kernel,
    link_tree,
    module_stamps,
    note_of,
)
from pytest_kernelvm.kernel.build.outputs import (
    Built,
    collect,
    module_count,
    outputs,
    section_sizes,
    tool_versions,
)
from pytest_kernelvm.kernel.build.release import check_release, release_parts
from pytest_kernelvm.kernel.kconfig import dot_config
from pytest_kernelvm.kernel.kconfig.conf_programs import asking_once, put_conf_programs
from pytest_kernelvm.kernel.kconfig.requests import requests_key, requests_of
from pytest_kernelvm.kernel.kconfig.session import Configuration
from pytest_kernelvm.kernel.prebuilt import is_prebuilt, obtain_prebuilt, prebuilt_digest
from pytest_kernelvm.kernel.source.mirror import mirrored
from pytest_kernelvm.kernel.source.source import Located, kernel_version, locate, patched_for
from pytest_kernelvm.kernel.source.worktree import WorkingTree
from pytest_kernelvm.process import TAIL_LINES, failure, run
from pytest_kernelvm.store.intact import require_intact
from pytest_kernelvm.store.kernel_note import KernelNote, requested_kernel, stored_kernel
from pytest_kernelvm.store.remote import remote_of_environment
from pytest_kernelvm.store.store import (
    REQUESTS,
    Digest,
    Store,
    Work,
    digest_of,
    file_digest,
    raise_if_full,
    read_sealed,
    remove_tree,
    write_sealed,
    write_whole,
)
from pytest_kernelvm.toolchain.compiler import (
    BLIND,
    ccache_summary,
    compiler_environment,
    compiler_version,
    require_arch,
    tool_variables,
)
from pytest_kernelvm.toolchain.config_tools import (
    hiding,
    require_tools,
    told_missing,
    versions_of,
    wanted_tools,
)
from pytest_kernelvm.toolchain.image_tools import require_image_tools

# Counts up whenever the way of building changes what comes out.
RECIPE = 3

# Fixed, so that the same inputs give the same bytes (Documentation/kbuild/reproducible-builds.rst).
PINNED = {
    "KBUILD_BUILD_TIMESTAMP": "2024-01-01 00:00:00 UTC",
    "KBUILD_BUILD_USER": "kernelvm",
    "KBUILD_BUILD_HOST": "kernelvm",
    "KBUILD_BUILD_VERSION": "1",
    # What scripts/setlocalversion appends must not depend on whether the source is in a repository.
    "GIT_DIR": os.devnull,
    # The source is not written into, by Python scripts neither.
    "PYTHONDONTWRITEBYTECODE": "1",
}

RELEASE_FILE = "include/config/kernel.release"

_REFUSED = re.compile(r"\berror: |undefined reference|multiple definition|^ERROR: modpost")
_COMPILED = re.compile(r"\s+(?:CC|AS|HOSTCC|LD|AR|CC \[M\]|LD \[M\])\s+(\S.*)")


@dataclass(frozen=True, kw_only=True)
class Kernel:
    """A built kernel in the store.

    digest: names what made it. release: `uname -r`. directory: its entry in the store.
    image: the file that QEMU boots. patches: names of the patches in it.
    features: what they bring.
    shared_console: whether it has no port for the agent alone.
    headers_digest: names the headers that programs for it are compiled with.
    llvm: what make was told as LLVM=, empty for gcc.
    """

    digest: Digest
    release: str
    arch: Arch
    directory: Path
    image: Path
    patches: tuple[str, ...]
    headers_digest: Digest
    features: tuple[str, ...] = ()
    shared_console: bool = False
    llvm: str = ""

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
    def devel(self) -> Path:
        """The tree that modules are built against; absent for a finished kernel."""
        return self.directory.parent.parent / devel.KIND / self.digest

    @property
    def system_map(self) -> Path:
        """The symbols and their addresses."""
        return self.directory / "System.map"

    @cached_property
    def config(self) -> dict[str, str]:
        """The final configuration: symbols that are set, without CONFIG_."""
        require_intact((self.directory / "config",))
        return dot_config.parse_config((self.directory / "config").read_text())


def request_key(cell: VmConfig, source: str, compiler: str) -> dict[str, Any]:
    """Return all that decides which kernel a cell means, known before anything is configured.

    source: a digest of the source, or of the part that decides a configuration.
    """
    kernel = cell.kernel
    base = Path(kernel.base)
    return {
        "recipe": RECIPE,
        "source": source,
        "patches": [_patch_key(patch, kernel.version) for patch in kernel.patches],
        "base": file_digest(base) if base.is_file() else kernel.base,
        "requests": requests_key(kernel),
        "linux_arch": cell.arch.linux_arch,
        "images": kernel.images,
        "compiler": compiler,
    }


def _patch_key(patch: Patch, version: str) -> Any:
    digest = file_digest(patch.file)
    # Whether it is for a source is known of most from the vm-config's version, of the others later.
    open_yet = patch.versions.beyond(version).text
    return [digest, open_yet] if open_yet else digest


def find_kernel(store: Store, cell: VmConfig) -> Kernel | None:
    """Return a cell's kernel if the store has it; nothing is unpacked or compiled.

    Raises ToolMissing if the source or the compiler is not installed.
    """
    if is_prebuilt(cell):
        stored = stored_kernel(store, prebuilt_digest(store, cell.kernel.source))
        return _kernel(*stored, cell) if stored else None
    located = locate(store, cell.kernel.source)
    compiler = compiler_version(cell.arch, cell.kernel.llvm)
    return _stored(store, cell, digest_of(request_key(cell, located.digest, compiler)))


def _stored(store: Store, cell: VmConfig, request: Digest) -> Kernel | None:
    digest = requested_kernel(store.root / REQUESTS / f"{request}.json")
    stored = stored_kernel(store, digest) if digest else None
    return _kernel(*stored, cell) if stored and store.find(devel.KIND, stored[1].digest) else None


def _kernel(entry: Path, note: KernelNote, cell: VmConfig) -> Kernel:
    kernel = Kernel(
        digest=note.digest,
        release=note.release,
        arch=note.arch,
        directory=entry,
        image=entry / note.image,
        patches=note.patches,
        headers_digest=note.headers_digest,
        # Not of the entry: whoever names a feature anew does not build a kernel for it.
        features=() if is_prebuilt(cell) else cell.kernel.features_for(note.version),
        shared_console=note.shared_console,
        llvm=note.llvm,
    )
    wanted = cell.kernel.release
    check_release(wanted, kernel.release, note.release_parts, label=cell.id, where=str(cell.file))
    return kernel


def build_kernel(store: Store, cell: VmConfig, *, jobs: int | None = None) -> Kernel:
    """Return a cell's kernel, building it unless the store has it.

    jobs: how many compilers at once, by default one a core.
    Raises ConfigLost, BuildFailed, ToolMissing, BadInput or HarnessError.
    """
    if is_prebuilt(cell):
        obtain_prebuilt(store, cell)
        return _found(find_kernel(store, cell), store, cell)
    located = locate(store, cell.kernel.source)
    compiler = compiler_version(cell.arch, cell.kernel.llvm)
    request = digest_of(request_key(cell, located.digest, compiler))
    found = _stored(store, cell, request)
    if found:
        return found
    with store.lock(f"requests-{request}", f"the kernel of {cell.id}"):
        found = _stored(store, cell, request)
        if found:
            return found
        remote = remote_of_environment()
        digest = remote.fetch(store, request) if remote else None
        if digest:
            return _noted(store, cell, request, digest)
        with (
            source_tree(store, located, cell) as (tree, files),
            store.work(f"build-{request}") as work,
        ):
            require_arch(cell.arch, cell.kernel.llvm, work.directory)
            require_image_tools(cell.kernel.images)
            build = replace(_build_in(store, cell, tree, work.directory, jobs), files=files)
            digest = _build_into(store, build, located, compiler)
        if remote:
            remote.put(store, request, digest, cell.id)
        return _noted(store, cell, request, digest)


def _noted(store: Store, cell: VmConfig, request: Digest, digest: Digest) -> Kernel:
    """Note which kernel a request means, and return it."""
    note = json.dumps({"kernel": digest, "cell": cell.id})
    with store.disk_errors():
        write_whole(store.root / REQUESTS / f"{request}.json", note.encode())
    return _found(_stored(store, cell, request), store, cell)


def _found(found: Kernel | None, store: Store, cell: VmConfig) -> Kernel:
    if not found:
        raise HarnessError(
            f"the kernel of {cell.id} vanished from the store", Evidence(where=(str(store.root),))
        )
    return found


@contextlib.contextmanager
def source_tree(
    store: Store, located: Located, cell: VmConfig
) -> Iterator[tuple[Path, Mapping[str, str] | None]]:
    """Give the tree of a source with a cell's patches, and digests of its files if they may change.

    A working tree's is a copy that follows it, and stays as it is until the context is left.
    """
    if isinstance(located, WorkingTree):
        patches = cell.kernel.patches_for(kernel_version(located.path))
        with mirrored(store, located, patches) as mirror:
            yield mirror.tree, mirror.files
    else:
        yield patched_for(store, located, cell.kernel), None


def _build_in(
    store: Store, cell: VmConfig, tree: Path, directory: Path, jobs: int | None = None
) -> _Build:
    return _Build(
        cell=cell,
        tree=tree,
        files=None,
        variables=make_variables(cell, _expected_tools(cell, tree)),
        env={
            **PINNED,
            **compiler_environment(store, cell.arch, cell.kernel.llvm, answers=directory),
            "CCACHE_STATSLOG": str(directory / "ccache.log"),
        },
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
        located = locate(store, cell.kernel.source)
        with (
            source_tree(store, located, cell) as (tree, files),
            store.work(name) as work,
        ):
            build = replace(_build_in(store, cell, tree, work.directory), files=files)
            compiler = compiler_version(cell.arch, cell.kernel.llvm)
            _put_conf_programs(store, build, compiler)
            yield _configuration(store, build)


def make_variables(cell: VmConfig, wanted: Iterable[str] = ()) -> tuple[str, ...]:
    """Return the variables that make is given for a cell's kernel, besides where it builds.

    wanted: of programs that the configuration needs, as `wanted_tools` names them.
    """
    return (
        f"ARCH={cell.arch.linux_arch}",
        *tool_variables(cell.arch, cell.kernel.llvm),
        "LOCALVERSION=",
        *hiding(wanted),
    )


def _expected_tools(cell: VmConfig, tree: Path) -> frozenset[str]:
    """Return what a cell's configuration may need, before there is one: by base and requests.

    Hidden programs would have conf drop what depends on them.
    """
    base = Path(cell.kernel.base)
    if not base.is_file():
        base = tree / "arch" / cell.arch.linux_arch / "configs" / cell.kernel.base
    try:
        values = dot_config.parse_config(base.read_text(errors="replace"))
    except OSError:
        values = {}
    requests = requests_of(cell.kernel, kernel_version(tree))
    return wanted_tools(values | {name: each.value for name, each in requests.items()})


@dataclass(frozen=True, kw_only=True, slots=True)
class _Build:
    cell: VmConfig
    tree: Path
    files: Mapping[str, str] | None
    variables: tuple[str, ...]
    env: dict[str, str]
    directory: Path
    log: Path
    kept_log: Path
    jobs: int

    def moved_to(self, store: Store, bench: Bench) -> _Build:
        """The same in a build directory that is kept, with what the compiler answered there."""
        arch, llvm = self.cell.arch, self.cell.kernel.llvm
        env = compiler_environment(store, arch, llvm, answers=bench.objects)
        return replace(self, tree=bench.tree, directory=bench.objects, env={**self.env, **env})

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
            env=self.env,
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
    lines = re.sub(r"^\.\./", "", log.replace(f"{tree}/", ""), flags=re.MULTILINE).splitlines()
    shown: list[str] = []
    for number, line in enumerate(lines):
        if _REFUSED.search(line):
            code = [next_line for next_line in lines[number + 1 : number + 3] if " | " in next_line]
            shown += [line.strip(), *code]
    return tuple(shown[:TAIL_LINES])


def kernel_digest(
    *, source: str, patches: Sequence[str], config: str, compiler: str, images: Sequence[str]
) -> Digest:
    """Return what names a kernel: all that decides its bytes, and nothing else.

    source, patches: digests. config: the text of the final .config. compiler: its version.
    images: the make targets that are kept.
    """
    return digest_of(
        {
            "recipe": RECIPE,
            "source": source,
            "patches": patches,
            "config": config,
            "compiler": compiler,
            "images": images,
        }
    )


def _build_into(store: Store, build: _Build, located: Located, compiler: str) -> Digest:
    cell = build.cell
    version = kernel_version(build.tree)
    if not f"{version}.".startswith(f"{cell.kernel.version}."):
        raise BadInput(
            f"{cell.id}: the source is {version}, not {cell.kernel.version}",
            Evidence(
                where=(cell.kernel.source.where,),
                seen=f"{located.label} holds {version}",
                next_step=f"name its version in {cell.file}, or another source",
            ),
        )
    final = _final_config(store, build, located, compiler, version)
    wanted_by_final = wanted_tools(dot_config.parse_config(final))
    if make_variables(cell, wanted_by_final) != build.variables:
        # Something else made it need a program, or nothing did in the end.
        build = replace(build, variables=make_variables(cell, wanted_by_final))
        for directory in (build.directory, _answers(build)):
            remove_tree(directory)
        final = _final_config(store, build, located, compiler, version)
    require_tools(
        cell.id,
        dot_config.parse_config(final),
        requests_of(cell.kernel, version),
        where=cell.kernel.base,
    )
    patches = cell.kernel.patches_for(version)
    digest = kernel_digest(
        source=located.digest,
        patches=[file_digest(patch.file) for patch in patches],
        config=final,
        compiler=compiler,
        images=cell.kernel.images,
    )

    wanted = Wanted(
        tree=build.tree,
        family=located.family,
        series=".".join(version.split(".")[:2]),
        state=build.tree.parent.name,
        config=final,
        toolchain=digest_of([compiler, BLIND, build.variables]),
        files=build.files,
    )

    def make(work: Work) -> dict[str, Any]:
        started = time.monotonic()
        with kept_build(store, wanted, f"the kernel of {cell.id}") as bench:
            kept = build.moved_to(store, bench)
            parts = release_parts(bench.tree, version, dot_config.parse_config(final))
            if cell.kernel.release:
                # Known before all is compiled.
                kept.make(RELEASE_FILE)
                _check_release(cell, bench.objects, parts)
            installed = work.directory / "installed"
            earlier = earlier_kernel(store, bench)
            same_headers = earlier if earlier and earlier.has_headers else None
            files = _compile(store, kept, headers=not same_headers)
            _install_modules(kept, earlier, installed)
            release = (bench.objects / RELEASE_FILE).read_text().strip()
            built = Built(
                arch=cell.arch,
                tree=bench.tree,
                objects=bench.objects,
                installed=installed,
                log=build.log,
                images=cell.kernel.images,
                earlier=same_headers,
            )
            collect(built, work.entry)
            write_uses(bench.objects, work.entry)
            _keep_devel(store, digest, kept, bench)
        elapsed_s = time.monotonic() - started
        if cached := ccache_summary(Path(build.env["CCACHE_STATSLOG"])):
            store.progress.say(cached)
        store.progress.say(f"built {cell.id}: {files} files in {elapsed_s:.0f} s")
        return {
            "release": release,
            "version": version,
            "arch": cell.arch.name,
            "image": Path(cell.arch.images[cell.kernel.image]).name,
            "patches": [patch.name for patch in patches],
            "compiler": compiler,
            "llvm": cell.kernel.llvm,
            "source": located.label,
            "first_cell": cell.id,
            "built_s": round(elapsed_s, 1),
            "built_on": platform.node(),
            "built_upon": bench.parent,
            "release_parts": parts,
            "modules": module_count(work.entry),
            "section_bytes": section_sizes(cell.arch, work.entry / "vmlinux"),
            "tools": tool_versions(("make", f"{cell.arch.toolchain_prefix}ld")),
            "outputs": outputs(work.entry),
        }

    store.obtain("kernels", digest, make, label=f"the kernel of {cell.id}")
    if not store.find(devel.KIND, digest):
        # It was collected alone.
        with kept_build(store, wanted, f"the kernel of {cell.id}") as bench:
            kept = build.moved_to(store, bench)
            _compile(store, kept, headers=False)
            _keep_devel(store, digest, kept, bench)
    return digest


def _keep_devel(store: Store, digest: Digest, build: _Build, bench: Bench) -> None:
    arch = build.cell.arch.linux_arch
    keep_devel(store, digest, tree=bench.tree, objects=bench.objects, linux_arch=arch)
    bench.note_made(note_of(digest, bench.objects))


def _check_release(cell: VmConfig, objects: Path, parts: tuple[tuple[str, str], ...]) -> None:
    release = (objects / RELEASE_FILE).read_text().strip()
    check_release(cell.kernel.release, release, parts, label=cell.id, where=str(cell.file))


def _final_config(
    store: Store, build: _Build, located: Located, compiler: str, version: str
) -> str:
    """Return the .config that was made before from the same, or make it.

    After an edit that can't decide a configuration nothing is configured again.
    """
    cell = build.cell
    key = request_key(cell, located.config_digest, compiler)
    tools = versions_of(build.variables)
    noted = store.root / "configs" / digest_of([key, build.variables, *tools])
    if known := read_sealed(noted):
        return known.decode()
    store.progress.say(f"configuring {cell.id} ({version})")
    _configure(store, build, compiler)
    final = (build.directory / ".config").read_text()
    write_sealed(noted, final.encode())
    return final


def _configuration(store: Store, build: _Build) -> Configuration:
    return Configuration(
        kernel=build.cell.kernel,
        arch=build.cell.arch,
        label=build.cell.id,
        version=kernel_version(build.tree),
        tree=build.tree,
        directory=build.directory,
        make=_asking_once(store, build, _answers(build)),
    )


def _answers(build: _Build) -> Path:
    return build.directory.with_name("conf-answers")


def _asking_once(store: Store, build: _Build, answers: Path) -> _Build:
    environment = asking_once(store, build.cell.kernel.llvm, answers)
    return replace(build, env={**build.env, **environment})


def _put_conf_programs(store: Store, build: _Build, compiler: str) -> None:
    """Spare a build directory the compilation of conf, and its questions.

    Not where the source may change. compiler: its version, and the linker's.
    """
    if build.files is not None:
        return

    def configure(directory: Path, answers: Path) -> None:
        there = replace(build, directory=directory)
        _asking_once(store, there, answers).make("allnoconfig")

    tools = versions_of(build.variables)
    decided_by = (str(build.tree.resolve()), compiler, *build.variables, *tools)
    put_conf_programs(store, decided_by, build.directory, _answers(build), configure)


def _configure(store: Store, build: _Build, compiler: str) -> None:
    _put_conf_programs(store, build, compiler)
    configuration = _configuration(store, build)
    decision = configuration.settle()
    if decision.lost:
        # What is lost for want of a program is not explained by symbols.
        lost = {request.name: request for request in decision.lost}
        values = {name: request.value for name, request in lost.items()}
        require_tools(build.cell.id, values, lost, where=build.cell.kernel.base)
        store.progress.say(f"explaining what {build.cell.id} has lost")
        raise configuration.explain(decision)
    changed = configuration.base_not_kept(decision)
    if changed:
        base = build.cell.kernel.base
        store.progress.say(
            f"{len(changed)} symbols of {base} came out otherwise; "
            f"`kernelvm config diff {base} {build.cell.id}` shows them"
        )
        for told in told_missing(changed):
            store.progress.say(told)
    for request in decision.dropped:
        store.progress.say(f"{build.cell.id} goes without {request}, {request.where}")


def _compile(store: Store, build: _Build, *, headers: bool) -> int:
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
    config = dot_config.parse_config((build.directory / ".config").read_text())
    goals = [*cell.kernel.images]
    if config.get("MODULES") == "y":
        goals.append("modules")
    if headers:
        goals.append("headers")
    build.make(*goals, on_line=count)
    return compiled


def _install_modules(build: _Build, earlier: Earlier | None, installed: Path) -> None:
    config = dot_config.parse_config((build.directory / ".config").read_text())
    if config.get("MODULES") != "y":
        return
    if earlier and earlier.modules == module_stamps(build.directory):
        link_tree(earlier.entry / "modules", installed)
    else:
        build.make(f"INSTALL_MOD_PATH={installed}", "modules_install")
