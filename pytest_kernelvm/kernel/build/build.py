"""From a cell's description to a kernel in the store: configure, make, install, publish."""

from __future__ import annotations

import json
import platform
import time
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

from pytest_kernelvm.arch.base import Arch
from pytest_kernelvm.config.model import CellConfig
from pytest_kernelvm.config.versions import begins_with, series_of
from pytest_kernelvm.errors import BadInput, Evidence, HarnessError
from pytest_kernelvm.kernel.build import devel
from pytest_kernelvm.kernel.build.build_directories import BuildDirectory, BuildRequest, kept_build
from pytest_kernelvm.kernel.build.config_uses import write_uses
from pytest_kernelvm.kernel.build.configure import (
    answers_of,
    final_config,
    make_run_in,
    source_tree,
)
from pytest_kernelvm.kernel.build.devel import keep_devel
from pytest_kernelvm.kernel.build.incremental import earlier_kernel, note_of
from pytest_kernelvm.kernel.build.keys import kernel_digest, make_variables, request_key
from pytest_kernelvm.kernel.build.make import RELEASE_FILE, MakeRun, compile_kernel, install_modules
from pytest_kernelvm.kernel.build.outputs import (
    FinishedBuild,
    collect,
    module_count,
    outputs,
    section_sizes,
    tool_versions,
)
from pytest_kernelvm.kernel.build.release import check_release, release_parts
from pytest_kernelvm.kernel.kconfig import dot_config
from pytest_kernelvm.kernel.kconfig.requests import requests_of
from pytest_kernelvm.kernel.prebuilt import is_prebuilt, obtain_prebuilt, prebuilt_digest
from pytest_kernelvm.kernel.source.source import LocatedSource, kernel_version, locate
from pytest_kernelvm.store.digest import Digest, digest_of, file_digest
from pytest_kernelvm.store.intact import require_intact
from pytest_kernelvm.store.kernel_note import KernelNote, requested_kernel, stored_kernel
from pytest_kernelvm.store.remote import remote_of_environment
from pytest_kernelvm.store.store import REQUESTS, StagingDirectory, Store
from pytest_kernelvm.store.writing import remove_tree, write_whole
from pytest_kernelvm.toolchain.compiler import BLIND, ccache_summary, compiler_version, require_arch
from pytest_kernelvm.toolchain.config_tools import require_tools, wanted_tools
from pytest_kernelvm.toolchain.image_tools import require_image_tools


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

    @cached_property
    def config(self) -> dict[str, str]:
        """The final configuration: symbols that are set, without CONFIG_."""
        require_intact((self.directory / "config",))
        return dot_config.parse_config((self.directory / "config").read_text())


def find_kernel(store: Store, cell: CellConfig) -> Kernel | None:
    """Return a cell's kernel if the store has it; nothing is unpacked or compiled.

    Raises ToolMissing if the source or the compiler is not installed.
    """
    if is_prebuilt(cell):
        stored = stored_kernel(store, prebuilt_digest(store, cell.kernel.source))
        return _kernel(*stored, cell) if stored else None
    located = locate(store, cell.kernel.source)
    compiler = compiler_version(cell.arch, cell.kernel.llvm)
    return _stored(store, cell, digest_of(request_key(cell, located.digest, compiler)))


def _stored(store: Store, cell: CellConfig, request: Digest) -> Kernel | None:
    digest = requested_kernel(store.root / REQUESTS / f"{request}.json")
    stored = stored_kernel(store, digest) if digest else None
    return _kernel(*stored, cell) if stored and store.find(devel.KIND, stored[1].digest) else None


def _kernel(entry: Path, note: KernelNote, cell: CellConfig) -> Kernel:
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


def build_kernel(store: Store, cell: CellConfig, *, jobs: int | None = None) -> Kernel:
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
            build = replace(make_run_in(store, cell, tree, work.directory, jobs), files=files)
            digest = _build_into(store, build, located, compiler)
        if remote:
            remote.put(store, request, digest, cell.id)
        return _noted(store, cell, request, digest)


def _noted(store: Store, cell: CellConfig, request: Digest, digest: Digest) -> Kernel:
    """Note which kernel a request means, and return it."""
    note = json.dumps({"kernel": digest, "cell": cell.id})
    with store.disk_errors():
        write_whole(store.root / REQUESTS / f"{request}.json", note.encode())
    return _found(_stored(store, cell, request), store, cell)


def _found(found: Kernel | None, store: Store, cell: CellConfig) -> Kernel:
    if not found:
        raise HarnessError(
            f"the kernel of {cell.id} vanished from the store", Evidence(where=(str(store.root),))
        )
    return found


def _build_into(store: Store, run: MakeRun, located: LocatedSource, compiler: str) -> Digest:
    """Return the digest of a kernel, which is in the store then."""
    making = _prepared(store, run, located, compiler)
    label = f"the kernel of {run.cell.id}"
    store.obtain("kernels", making.digest, making.make, label=label)
    if not store.find(devel.KIND, making.digest):
        # It was collected alone.
        making.make_devel()
    return making.digest


def _prepared(store: Store, run: MakeRun, located: LocatedSource, compiler: str) -> _Making:
    """Return a kernel to be made: its .config is final, and so is what names it."""
    cell, version = run.cell, kernel_version(run.tree)
    _check_version(cell, version, located)
    run, final = _configured(store, run, located, compiler, version)
    parsed = dot_config.parse_config(final)
    requests = requests_of(cell.kernel, version)
    require_tools(cell.id, parsed, requests, where=cell.kernel.base)
    patches = cell.kernel.patches_for(version)
    return _Making(
        store=store,
        run=run,
        located=located,
        compiler=compiler,
        version=version,
        final=final,
        digest=kernel_digest(
            source=located.digest,
            patches=[file_digest(patch.file) for patch in patches],
            config=final,
            compiler=compiler,
            images=cell.kernel.images,
        ),
        request=BuildRequest(
            tree=run.tree,
            family=located.family,
            series=series_of(version),
            state=run.tree.parent.name,
            config=final,
            toolchain=digest_of([compiler, BLIND, run.variables]),
            files=run.files,
        ),
    )


def _check_version(cell: CellConfig, version: str, located: LocatedSource) -> None:
    if begins_with(version, cell.kernel.version):
        return
    raise BadInput(
        f"{cell.id}: the source is {version}, not {cell.kernel.version}",
        Evidence(
            where=(cell.kernel.source.where,),
            seen=f"{located.label} holds {version}",
            next_step=f"name its version in {cell.file}, or another source",
        ),
    )


def _configured(
    store: Store, run: MakeRun, located: LocatedSource, compiler: str, version: str
) -> tuple[MakeRun, str]:
    """Return the final .config, and how make is run with the programs that it needs."""
    final = final_config(store, run, located, compiler, version)
    variables = make_variables(run.cell, wanted_tools(dot_config.parse_config(final)))
    if variables == run.variables:
        return run, final
    # Something else made it need a program, or nothing did in the end.
    run = replace(run, variables=variables)
    for directory in (run.directory, answers_of(run)):
        remove_tree(directory)
    return run, final_config(store, run, located, compiler, version)


@dataclass(frozen=True, kw_only=True, slots=True)
class _Making:
    """A kernel that is made: what names it, and what it is made of.

    final: its .config. request: the build directory that suits it.
    """

    store: Store
    run: MakeRun
    located: LocatedSource
    compiler: str
    version: str
    final: str
    digest: Digest
    request: BuildRequest

    def make(self, work: StagingDirectory) -> dict[str, Any]:
        """Build it into an entry of the store; return the entry's note."""
        cell, started = self.run.cell, time.monotonic()
        with kept_build(self.store, self.request, f"the kernel of {cell.id}") as build_directory:
            kept = self.run.moved_to(self.store, build_directory)
            parts = release_parts(
                build_directory.tree, self.version, dot_config.parse_config(self.final)
            )
            if cell.kernel.release:
                # Known before all is compiled.
                kept.make(RELEASE_FILE)
                _check_release(cell, build_directory.objects, parts)
            files = self._built(kept, build_directory, work)
            release = (build_directory.objects / RELEASE_FILE).read_text().strip()
            _keep_devel(self.store, self.digest, kept, build_directory)
        elapsed_s = time.monotonic() - started
        if cached := ccache_summary(Path(self.run.env["CCACHE_STATSLOG"])):
            self.store.progress.say(cached)
        self.store.progress.say(f"built {cell.id}: {files} files in {elapsed_s:.0f} s")
        return {
            **self._about(work.entry),
            "release": release,
            "built_s": round(elapsed_s, 1),
            "built_upon": build_directory.parent,
            "release_parts": parts,
        }

    def _built(self, kept: MakeRun, build_directory: BuildDirectory, work: StagingDirectory) -> int:
        """Compile and collect it; return how many files were compiled."""
        installed = work.directory / "installed"
        earlier = earlier_kernel(self.store, build_directory)
        same_headers = earlier if earlier and earlier.has_headers else None
        files = compile_kernel(self.store, kept, headers=not same_headers)
        install_modules(kept, earlier, installed)
        built = FinishedBuild(
            arch=self.run.cell.arch,
            tree=build_directory.tree,
            objects=build_directory.objects,
            installed=installed,
            log=self.run.log,
            images=self.run.cell.kernel.images,
            earlier=same_headers,
        )
        collect(built, work.entry)
        write_uses(build_directory.objects, work.entry)
        return files

    def _about(self, entry: Path) -> dict[str, Any]:
        """Return what is noted of any kernel that was built so."""
        cell = self.run.cell
        return {
            "version": self.version,
            "arch": cell.arch.name,
            "image": Path(cell.arch.images[cell.kernel.image]).name,
            "patches": [patch.name for patch in cell.kernel.patches_for(self.version)],
            "compiler": self.compiler,
            "llvm": cell.kernel.llvm,
            "source": self.located.label,
            "first_cell": cell.id,
            "built_on": platform.node(),
            "modules": module_count(entry),
            "section_bytes": section_sizes(cell.arch, entry / "vmlinux"),
            "tools": tool_versions(("make", f"{cell.arch.toolchain_prefix}ld")),
            "outputs": outputs(entry),
        }

    def make_devel(self) -> None:
        """Make only what modules of others are built against."""
        with kept_build(
            self.store, self.request, f"the kernel of {self.run.cell.id}"
        ) as build_directory:
            kept = self.run.moved_to(self.store, build_directory)
            compile_kernel(self.store, kept, headers=False)
            _keep_devel(self.store, self.digest, kept, build_directory)


def _keep_devel(
    store: Store, digest: Digest, build: MakeRun, build_directory: BuildDirectory
) -> None:
    arch = build.cell.arch.linux_arch
    keep_devel(
        store, digest, tree=build_directory.tree, objects=build_directory.objects, linux_arch=arch
    )
    build_directory.note_made(note_of(digest, build_directory.objects))


def _check_release(cell: CellConfig, objects: Path, parts: tuple[tuple[str, str], ...]) -> None:
    release = (objects / RELEASE_FILE).read_text().strip()
    check_release(cell.kernel.release, release, parts, label=cell.id, where=str(cell.file))
