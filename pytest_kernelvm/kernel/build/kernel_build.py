"""One build of a kernel: compile, install, collect, publish."""

from __future__ import annotations

import platform
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pytest_kernelvm.config.model import CellConfig
from pytest_kernelvm.kernel.build.build_directories import (
    BuildDirectory,
    BuildRequest,
    open_build_directory,
)
from pytest_kernelvm.kernel.build.devel import publish_devel
from pytest_kernelvm.kernel.build.incremental import previous_kernel, record_of
from pytest_kernelvm.kernel.build.make import RELEASE_FILE, MakeRun, compile_kernel, install_modules
from pytest_kernelvm.kernel.build.outputs import (
    FinishedBuild,
    collect_outputs,
    module_count,
    outputs,
    section_sizes,
    tool_versions,
)
from pytest_kernelvm.kernel.build.release import check_release, release_parts
from pytest_kernelvm.kernel.build.symbol_users import write_symbol_users
from pytest_kernelvm.kernel.kconfig import dot_config
from pytest_kernelvm.kernel.source.source import LocatedSource
from pytest_kernelvm.store.digest import Digest
from pytest_kernelvm.store.store import StagingDirectory, Store
from pytest_kernelvm.toolchain.compiler import ccache_summary


@dataclass(frozen=True, kw_only=True, slots=True)
class KernelBuild:
    """A kernel that is made: what names it, and what it is made of.

    Attributes:
        store: Where it is put.
        run: How make is run.
        located: Its source.
        compiler: The compiler's version.
        version: The source's.
        final: Text of its .config.
        digest: Names it.
        request: The build directory that suits it.
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
        """Build it into an entry of the store.

        Raises BuildFailed if make failed, or if the release is not the one that is demanded.

        Args:
            work: As `Store.obtain` gives it.

        Returns:
            What is recorded about it.
        """
        config, started = self.run.config, time.monotonic()
        with open_build_directory(
            self.store, self.request, f"the kernel of {config.id}"
        ) as build_directory:
            run = self.run.moved_to(self.store, build_directory)
            parts = release_parts(
                build_directory.tree, self.version, dot_config.parse_config(self.final)
            )
            if config.kernel.release:
                # Before all is compiled: make needs a second for it.
                run.make(RELEASE_FILE)
                _check_release(config, build_directory.objects, parts)
            files = self._built(run, build_directory, work)
            release = (build_directory.objects / RELEASE_FILE).read_text().strip()
            _publish_devel(self.store, self.digest, run, build_directory)
        elapsed_s = time.monotonic() - started
        if cached := ccache_summary(Path(self.run.env["CCACHE_STATSLOG"])):
            self.store.progress.say(cached)
        self.store.progress.say(f"built {config.id}: {files} files in {elapsed_s:.0f} s")
        return {
            **self._about(work.entry),
            "release": release,
            "built_s": round(elapsed_s, 1),
            "built_upon": build_directory.parent,
            "release_parts": parts,
        }

    def _built(self, run: MakeRun, build_directory: BuildDirectory, work: StagingDirectory) -> int:
        """Compile and collect it; return how many files were compiled."""
        installed = work.directory / "installed"
        previous = previous_kernel(self.store, build_directory)
        same_headers = previous if previous and previous.has_headers else None
        files = compile_kernel(self.store, run, headers=not same_headers)
        install_modules(run, previous, installed)
        built = FinishedBuild(
            arch=self.run.config.arch,
            tree=build_directory.tree,
            objects=build_directory.objects,
            installed=installed,
            log=self.run.log,
            images=self.run.config.kernel.images,
            previous=same_headers,
        )
        collect_outputs(built, work.entry)
        write_symbol_users(build_directory.objects, work.entry)
        return files

    def _about(self, entry: Path) -> dict[str, Any]:
        """Return what is noted of any kernel that was built so."""
        config = self.run.config
        return {
            "version": self.version,
            "arch": config.arch.name,
            "image": Path(config.arch.images[config.kernel.image]).name,
            "patches": [patch.name for patch in config.kernel.patches_for(self.version)],
            "compiler": self.compiler,
            "llvm": config.kernel.llvm,
            "source": self.located.label,
            "first_cell": config.id,
            "built_on": platform.node(),
            "modules": module_count(entry),
            "section_bytes": section_sizes(config.arch, entry / "vmlinux"),
            "tools": tool_versions(("make", f"{config.arch.toolchain_prefix}ld")),
            "outputs": outputs(entry),
        }

    def make_devel(self) -> None:
        """Make only what modules of others are built against."""
        with open_build_directory(
            self.store, self.request, f"the kernel of {self.run.config.id}"
        ) as build_directory:
            run = self.run.moved_to(self.store, build_directory)
            compile_kernel(self.store, run, headers=False)
            _publish_devel(self.store, self.digest, run, build_directory)


def _publish_devel(
    store: Store, digest: Digest, build: MakeRun, build_directory: BuildDirectory
) -> None:
    arch = build.config.arch.linux_arch
    publish_devel(
        store, digest, tree=build_directory.tree, objects=build_directory.objects, linux_arch=arch
    )
    build_directory.record_made(record_of(digest, build_directory.objects))


def _check_release(config: CellConfig, objects: Path, parts: tuple[tuple[str, str], ...]) -> None:
    release = (objects / RELEASE_FILE).read_text().strip()
    check_release(config.kernel.release, release, parts, label=config.id, where=str(config.file))
