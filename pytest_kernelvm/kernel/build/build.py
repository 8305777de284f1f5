"""From a cell's description to a kernel in the store: configure, make, install, publish."""

from __future__ import annotations

import json
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path

from pytest_kernelvm.arch.base import Arch
from pytest_kernelvm.config.model import CellConfig
from pytest_kernelvm.config.versions import begins_with, series_of
from pytest_kernelvm.errors import BadInput, Evidence, HarnessError
from pytest_kernelvm.kernel.build.build_directories import (
    BuildRequest,
)
from pytest_kernelvm.kernel.build.configure import (
    answers_of,
    final_config,
    make_run_in,
    source_tree,
)
from pytest_kernelvm.kernel.build.kernel_build import KernelBuild
from pytest_kernelvm.kernel.build.keys import kernel_digest, make_variables, request_key
from pytest_kernelvm.kernel.build.make import MakeRun
from pytest_kernelvm.kernel.build.release import check_release
from pytest_kernelvm.kernel.kconfig import dot_config
from pytest_kernelvm.kernel.kconfig.requests import requests_of
from pytest_kernelvm.kernel.prebuilt.prebuilt import is_prebuilt, obtain_prebuilt, prebuilt_digest
from pytest_kernelvm.kernel.source.source import LocatedSource, kernel_version, locate
from pytest_kernelvm.store.digest import Digest, digest_of, file_digest
from pytest_kernelvm.store.intact import require_intact
from pytest_kernelvm.store.kernel_metadata import KernelMetadata, requested_kernel, stored_kernel
from pytest_kernelvm.store.kinds import DEVEL, KERNELS, REQUESTS
from pytest_kernelvm.store.remote import remote_of_environment
from pytest_kernelvm.store.store import Store
from pytest_kernelvm.store.writing import remove_tree, write_whole
from pytest_kernelvm.toolchain.compiler import PREFIX_MAP_FLAG, compiler_version, require_arch
from pytest_kernelvm.toolchain.config_tools import needed_tools, require_tools
from pytest_kernelvm.toolchain.image_tools import require_image_tools


@dataclass(frozen=True, kw_only=True)
class Kernel:
    """A built kernel in the store.

    Attributes:
        digest: Names all that made it.
        release: What `uname -r` says.
        arch: Its architecture.
        directory: Its entry in the store.
        image: The file that QEMU boots.
        patches: Names of the patches in it.
        headers_digest: Names the headers that programs for it are compiled with.
        features: What its patches bring, as the vm-config says.
        shared_console: Whether it has no port for the agent alone.
        llvm: What make was given as LLVM=, empty for gcc.
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
        return self.directory.parent.parent / DEVEL.name / self.digest

    @cached_property
    def config(self) -> dict[str, str]:
        """The final configuration: symbols that are set, without CONFIG_."""
        require_intact((self.directory / "config",))
        return dot_config.parse_config((self.directory / "config").read_text())


def find_kernel(store: Store, config: CellConfig) -> Kernel | None:
    """Return a cell's kernel if the store has it; nothing is unpacked or compiled.

    Raises ToolMissing if the source or the compiler is not installed, BuildFailed if its release is
    not the one that the vm-config demands.

    Args:
        store: Where to look.
        config: The cell.

    Returns:
        The kernel; None if it is not built.
    """
    if is_prebuilt(config):
        stored = stored_kernel(store, prebuilt_digest(store, config.kernel.source))
        return _kernel(*stored, config) if stored else None
    located = locate(store, config.kernel.source)
    compiler = compiler_version(config.arch, config.kernel.llvm)
    return _stored(store, config, digest_of(request_key(config, located.digest, compiler)))


def _stored(store: Store, config: CellConfig, request: Digest) -> Kernel | None:
    digest = requested_kernel(store.place(REQUESTS) / f"{request}.json")
    stored = stored_kernel(store, digest) if digest else None
    return _kernel(*stored, config) if stored and store.find(DEVEL, stored[1].digest) else None


def _kernel(entry: Path, metadata: KernelMetadata, config: CellConfig) -> Kernel:
    kernel = Kernel(
        digest=metadata.digest,
        release=metadata.release,
        arch=metadata.arch,
        directory=entry,
        image=entry / metadata.image,
        patches=metadata.patches,
        headers_digest=metadata.headers_digest,
        # Features are not part of the entry: a new name for one must not rebuild the kernel.
        features=() if is_prebuilt(config) else config.kernel.features_for(metadata.version),
        shared_console=metadata.shared_console or not metadata.arch.channel,
        llvm=metadata.llvm,
    )
    wanted = config.kernel.release
    check_release(
        wanted, kernel.release, metadata.release_parts, label=config.id, where=str(config.file)
    )
    return kernel


def build_kernel(store: Store, config: CellConfig, *, jobs: int | None = None) -> Kernel:
    """Return a cell's kernel, building it unless the store has it.

    Raises ConfigLost if a symbol that was asked for is not in the final .config, BuildFailed if
    make failed, or a patch does not apply, ToolMissing if a program or the source is not installed,
    BadInput if the vm-config does not fit the source, HarnessError if the store failed.

    Args:
        store: Where it is put.
        config: The cell.
        jobs: How many compilers run at once; None for one a core.

    Returns:
        The kernel.
    """
    if is_prebuilt(config):
        obtain_prebuilt(store, config)
        return _require(find_kernel(store, config), store, config)
    located = locate(store, config.kernel.source)
    compiler = compiler_version(config.arch, config.kernel.llvm)
    request = digest_of(request_key(config, located.digest, compiler))
    found = _stored(store, config, request)
    if found:
        return found
    with store.lock(f"requests-{request}", f"the kernel of {config.id}"):
        found = _stored(store, config, request)
        if found:
            return found
        remote = remote_of_environment()
        digest = remote.fetch(store, request) if remote else None
        if digest:
            return _record_request(store, config, request, digest)
        with (
            source_tree(store, located, config) as (tree, files),
            store.work(f"build-{request}") as work,
        ):
            require_arch(config.arch, config.kernel.llvm, work.directory)
            require_image_tools(config.kernel.images)
            build = replace(make_run_in(store, config, tree, work.directory, jobs), files=files)
            digest = _build_into(store, build, located, compiler)
        if remote:
            remote.put(store, request, digest, config.id)
        return _record_request(store, config, request, digest)


def _record_request(store: Store, config: CellConfig, request: Digest, digest: Digest) -> Kernel:
    """Note which kernel a request means, and return it."""
    note = json.dumps({"kernel": digest, "cell": config.id})
    with store.disk_errors():
        write_whole(store.place(REQUESTS) / f"{request}.json", note.encode())
    return _require(_stored(store, config, request), store, config)


def _require(found: Kernel | None, store: Store, config: CellConfig) -> Kernel:
    if not found:
        raise HarnessError(
            f"the kernel of {config.id} vanished from the store", Evidence(where=(str(store.root),))
        )
    return found


def _build_into(store: Store, run: MakeRun, located: LocatedSource, compiler: str) -> Digest:
    """Return the digest of a kernel, which is in the store then."""
    kernel_build = _prepared(store, run, located, compiler)
    label = f"the kernel of {run.config.id}"
    store.obtain(KERNELS, kernel_build.digest, kernel_build.make, label=label)
    if not store.find(DEVEL, kernel_build.digest):
        # `gc` removed it without the kernel.
        kernel_build.make_devel()
    return kernel_build.digest


def _prepared(store: Store, run: MakeRun, located: LocatedSource, compiler: str) -> KernelBuild:
    """Return a kernel to be made: its .config is final, and so is what names it."""
    config, version = run.config, kernel_version(run.tree)
    _check_version(config, version, located)
    run, final = _configured(store, run, located, compiler, version)
    parsed = dot_config.parse_config(final)
    requests = requests_of(config.kernel, version)
    require_tools(config.id, parsed, requests, where=config.kernel.base)
    patches = config.kernel.patches_for(version)
    return KernelBuild(
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
            images=config.kernel.images,
        ),
        request=BuildRequest(
            tree=run.tree,
            family=located.family,
            series=series_of(version),
            state=run.tree.parent.name,
            config=final,
            toolchain=digest_of([compiler, PREFIX_MAP_FLAG, run.variables]),
            files=run.files,
        ),
    )


def _check_version(config: CellConfig, version: str, located: LocatedSource) -> None:
    if begins_with(version, config.kernel.version):
        return
    raise BadInput(
        f"{config.id}: the source is {version}, not {config.kernel.version}",
        Evidence(
            where=(config.kernel.source.where,),
            seen=f"{located.label} holds {version}",
            next_step=f"name its version in {config.file}, or another source",
        ),
    )


def _configured(
    store: Store, run: MakeRun, located: LocatedSource, compiler: str, version: str
) -> tuple[MakeRun, str]:
    """Return the final .config, and how make is run with the programs that it needs."""
    final = final_config(store, run, located, compiler, version)
    variables = make_variables(run.config, needed_tools(dot_config.parse_config(final)))
    if variables == run.variables:
        return run, final
    # The first .config was made with other programs hidden than its symbols need.
    run = replace(run, variables=variables)
    for directory in (run.directory, answers_of(run)):
        remove_tree(directory)
    return run, final_config(store, run, located, compiler, version)
