"""Whether a module fits a kernel's image, found out before anything is booted.

vermagic, which the kernel itself compares, says little: the release, SMP, PREEMPT, unloading,
MODVERSIONS, the CPU. What it does not see is looked for here as well: symbols that the image does
not export, CRCs of symbols that differ, and, where the modules' configuration is known, objects of
the image that were compiled by other values of its symbols.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from pytest_kernelvm.errors import BadInput, BuildFailed, Evidence
from pytest_kernelvm.kernel.build import Kernel
from pytest_kernelvm.kernel.config_uses import differences, read_uses
from pytest_kernelvm.kernel.elf_head import fits
from pytest_kernelvm.kernel.kconfig import parse_config
from pytest_kernelvm.process import run

TOOL_TIMEOUT_S = 60.0


@dataclass(frozen=True, kw_only=True, slots=True)
class Objection:
    """One reason why a module does not fit. kind: architecture, vermagic, symbol, crc or layout."""

    kind: str
    text: str

    def __str__(self) -> str:
        return f"{self.kind}: {self.text}"


def exported(symvers: Path) -> dict[str, str]:
    """Return the CRCs of the symbols of a Module.symvers.

    Raises BadInput, with the line, if it is damaged.
    """
    found = {}
    try:
        lines = symvers.read_text(errors="replace").splitlines()
    except OSError as error:
        raise BadInput(
            f"cannot read {symvers.name}: {error.strerror}", Evidence(where=(str(symvers),))
        ) from None
    for number, line in enumerate(lines, start=1):
        fields = line.split("\t")
        if len(fields) < 4 or not fields[0].startswith("0x"):
            raise BadInput(
                f"{symvers.name} is damaged",
                Evidence(
                    expected="CRC, symbol, module and kind of export between tabs",
                    seen=line[:80],
                    where=(f"{symvers}:{number}",),
                ),
            )
        found[fields[1]] = fields[0]
    return found


def objections(
    kernel: Kernel, modules: Sequence[Path], *, config: Mapping[str, str] | None = None
) -> tuple[Objection, ...]:
    """Return why modules do not fit a kernel's image; nothing if they do.

    modules: .ko files that are loaded together. config: what they were built for, if known.
    """
    strange = [module.name for module in modules if not fits(module, kernel.arch)]
    if strange:
        text = f"{', '.join(strange)}: not of {kernel.arch.name}"
        return (Objection(kind="architecture", text=text),)
    symvers = exported(kernel.directory / "Module.symvers")
    theirs = {name for module in modules for name in _symbols(kernel, module, "--defined-only")}
    expected = _own_magic(kernel)
    found: list[Objection] = []
    for module in modules:
        found += _vermagic(kernel, module, expected)
        found += _undefined(kernel, module, symvers.keys() | theirs)
        found += _crcs(kernel, module, symvers)
    if config is not None:
        found += layout_objections(kernel, config)
    return tuple(found)


def layout_objections(kernel: Kernel, config: Mapping[str, str]) -> Iterable[Objection]:
    """Give the symbols whose other value has compiled objects of the image otherwise."""
    uses = read_uses(kernel.directory)
    for name, ours, theirs in differences(kernel.config, config):
        count, objects = uses.get(name, (0, ()))
        if count:
            more = f" and {count - len(objects)} more" if count > len(objects) else ""
            yield Objection(
                kind="layout",
                text=f"{name} is {ours} in the image and {theirs} for the module; compiled by it "
                f"into the image: {', '.join(objects)}{more}",
            )


def require_fit(
    kernel: Kernel, modules: Sequence[Path], *, config: Mapping[str, str] | None = None
) -> None:
    """Raise BuildFailed, with every reason, if modules do not fit a kernel's image."""
    found = objections(kernel, modules, config=config)
    if found:
        names = ", ".join(module.name for module in modules)
        raise BuildFailed(
            f"{names} is not for this kernel, {kernel.release}",
            Evidence(
                expected="modules that were built together with the image, or against its tree",
                excerpt="\n".join(str(objection) for objection in found),
                where=(str(kernel.directory),),
                next_step="build image and modules from one configuration",
            ),
        )


def config_near(modules: Sequence[Path]) -> dict[str, str] | None:
    """Return the configuration that lies with modules in the build directory they were made in.

    A kernel of the store has it too. None if there is none, or if they come from several places.
    """
    found = {_config_above(module.absolute()) for module in modules}
    path = found.pop() if len(found) == 1 else None
    return parse_config(path.read_text()) if path else None


def _config_above(module: Path) -> Path | None:
    for directory in module.parents:
        for name in (".config", "config"):
            if (directory / name).is_file() and (directory / "Module.symvers").is_file():
                return directory / name
    return None


def _tool(kernel: Kernel, name: str) -> str:
    return f"{kernel.arch.toolchain_prefix}{name}"


def _symbols(kernel: Kernel, module: Path, which: str) -> set[str]:
    argv: list[str | Path] = [_tool(kernel, "nm"), "--format=posix", which, module]
    done = run(argv, timeout_s=TOOL_TIMEOUT_S, check=False)
    if done.status != 0:
        raise BadInput(f"{module} is no module", Evidence(excerpt=done.stderr))
    lines = [line.split(" ") for line in done.stdout.splitlines()]
    # A weak one may stay undefined.
    return {line[0] for line in lines if len(line) > 1 and line[1] not in "wv"}


def _undefined(kernel: Kernel, module: Path, known: set[str]) -> Iterable[Objection]:
    for name in sorted(_symbols(kernel, module, "--undefined-only") - known):
        # ld's own (arch/mips/kernel/vpe.c), which modpost passes over as well.
        if name not in ("_GLOBAL_OFFSET_TABLE_", "_gp_disp", "__gnu_local_gp"):
            yield Objection(
                kind="symbol",
                text=f"{module.name} needs {name}, which neither the image nor a module of this "
                "kernel exports",
            )


def _vermagic(kernel: Kernel, module: Path, expected: str) -> Iterable[Objection]:
    """expected: what the kernel's own modules say, of a kernel without modules its release."""
    magic = _magic_of(module)
    release, known = magic.partition(" ")[0], expected.partition(" ")[0]
    if release != known:
        yield Objection(
            kind="vermagic",
            text=f"{module.name} is for {release or 'no kernel'}, this one is {known}",
        )
    elif expected != kernel.release and magic != expected:
        yield Objection(
            kind="vermagic", text=f"{module.name} is for {magic!r}, this one is {expected!r}"
        )


def _magic_of(module: Path) -> str:
    argv: list[str | Path] = ["modinfo", "--field", "vermagic", module]
    return run(argv, timeout_s=TOOL_TIMEOUT_S, check=False).stdout.strip()


def _own_magic(kernel: Kernel) -> str:
    own = next(kernel.module_tree.rglob("*.ko*"), None)
    return (_magic_of(own) if own else "") or kernel.release


def _crcs(kernel: Kernel, module: Path, symvers: Mapping[str, str]) -> Iterable[Objection]:
    argv: list[str | Path] = ["modprobe", "--dump-modversions", module]
    said = run(argv, timeout_s=TOOL_TIMEOUT_S, check=False).stdout
    for line in said.splitlines():
        found = re.match(r"(0x[0-9a-f]+)\s+(\S+)", line)
        if not found or found[2] not in symvers:
            continue
        if int(found[1], 16) != int(symvers[found[2]], 16):
            yield Objection(
                kind="crc",
                text=f"{module.name} knows {found[2]} as {found[1]}, "
                f"in {kernel.release} it is {symvers[found[2]]}",
            )
