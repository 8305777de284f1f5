"""Reading a vm-config: one cell for each of its versions."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from pytest_kernelvm.arch.base import Arch
from pytest_kernelvm.arch.registry import ARCHES
from pytest_kernelvm.config.files import read_base_config
from pytest_kernelvm.config.model import (
    BUILTIN_PATCHES,
    CellConfig,
    KernelConfig,
    Machine,
    ModprobeConfig,
    Patch,
    Timeouts,
)
from pytest_kernelvm.config.patches import read_patches
from pytest_kernelvm.config.requests import (
    cookie_facts,
    cookie_of,
    implied_symbols,
    read_conditional,
    read_fragment,
    read_symbols,
)
from pytest_kernelvm.config.roots import root_of
from pytest_kernelvm.config.schema import SCHEMA
from pytest_kernelvm.config.services import services_of
from pytest_kernelvm.config.sources import read_source
from pytest_kernelvm.config.typed_yaml import Complaints, compose
from pytest_kernelvm.errors import BadInput, Evidence


def _kernel(raw: dict[str, Any], arch: Arch, file: Path, version: str) -> KernelConfig:
    base = file.parent
    kernel = raw["kernel"]
    cookie, _whole_word = cookie_of(raw)
    patches = read_patches(base, kernel.get("patches", ()), version)
    if cookie:
        name = cookie_facts(arch, file).patch
        place = f"{file} (cookie)"
        patches.append(Patch(name=name, file=BUILTIN_PATCHES / f"{name}.patch", where=place))
    images = kernel.get("image", ())
    for image in images:
        if image.text not in arch.images:
            raise BadInput(
                f"{arch.name} has no image target {image.text!r}",
                Evidence(where=(str(image.place),), expected=f"one of {', '.join(arch.images)}"),
            )
    implied = implied_symbols(arch, raw, file)
    asked = (request for patch in patches for request in patch.symbols)
    return KernelConfig(
        version=version,
        source=read_source(base, kernel.get("source", {}), file, version),
        base=read_base_config(base, kernel.get("base"), version),
        fragments=tuple(
            read_fragment(base, given, version) for given in kernel.get("fragments", ())
        ),
        symbols=(*implied, *asked, *read_symbols(kernel.get("symbols", {}))),
        conditional=tuple(
            read_conditional(condition, symbols, file)
            for condition, symbols in kernel.get("conditional", {}).items()
        ),
        auto_modules=kernel.get("auto_modules", False),
        prefer_builtin=kernel.get("prefer_builtin", False),
        patches=tuple(patches),
        image=images[0].text if images else arch.default_image,
        further_images=tuple(image.text for image in images[1:]),
        release=kernel.get("release", ""),
        llvm=_llvm(kernel.get("LLVM", "false")),
    )


def _llvm(text: str) -> str:
    """Return what make is told as LLVM= (Documentation/kbuild/llvm.rst): 1, or a suffix."""
    return {"false": "", "true": "1"}.get(text, f"-{text}")


# It names directories, tests and guests, and stands among QEMU's options.
_NAME = re.compile(r"\w[\w.+~ -]{0,99}")


def _check_name(file: Path) -> None:
    if not _NAME.fullmatch(file.stem) or file.stem.endswith(" "):
        raise BadInput(
            f"{file.name!r} is no name for a vm-config",
            Evidence(
                expected="letters, digits, and _ . + ~ - or blanks between them, at most 100",
                where=(repr(str(file)),),
                next_step="rename it: its cells are called by its name",
            ),
        )


def read_config(file: Path, *, version: str = "") -> tuple[CellConfig, ...]:
    """Read one vm-config and return its cells, one a kernel version.

    version: the one to make a cell for, instead of those that the file names.
    Raises BadInput with file, line and column of all that is wrong.
    """
    _check_name(file)
    complaints = Complaints(file)
    raw = SCHEMA.read(compose(file), complaints)
    complaints.raise_if_any()
    arch = ARCHES[raw["arch"]]
    machine = raw.get("machine", {})
    timeouts = raw.get("timeouts", {})
    modprobe = raw.get("modprobe", {})
    memory_mib = int(machine.get("memory_mib", 128))
    if memory_mib > arch.max_memory_mib:
        raise BadInput(
            f"{memory_mib} MiB are more than a {arch.machine} machine has in one piece",
            Evidence(where=(str(file),), expected=f"at most {arch.max_memory_mib} MiB"),
        )
    return tuple(
        CellConfig(
            id=f"{file.stem}-{version}",
            name=file.stem,
            file=file,
            arch=arch,
            kernel=_kernel(raw, arch, file, version),
            modules=raw.get("modules", ()),
            allow_missing=raw.get("allow_missing", ()),
            allow_empty=raw.get("allow_empty", False),
            modprobe=ModprobeConfig(
                options=tuple(modprobe.get("options", {}).items()),
                blacklist=modprobe.get("blacklist", ()),
            ),
            services=services_of(raw.get("services", {}), str(file)),
            cmdline=raw.get("cmdline", ""),
            builtin_cmdline=raw.get("builtin_cmdline", ""),
            cookie=cookie_of(raw)[0],
            userland=raw.get("guest", {}).get("userland", "none"),
            machine=Machine(
                memory_mib=memory_mib,
                cpu=machine.get("cpu", arch.cpu),
                fast_boot=machine.get("fast_boot", True),
                sandbox=machine.get("sandbox", True),
            ),
            timeouts=Timeouts(
                boot_s=float(timeouts.get("boot_s", 60)),
                command_s=float(timeouts.get("command_s", 20)),
                build_s=float(timeouts.get("build_s", 7200)),
            ),
            root=root_of(raw.get("root"), file.parent),
        )
        for version in dict.fromkeys([version] if version else raw["kernel"]["version"])
    )
