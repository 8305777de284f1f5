"""Whether a module fits a kernel's image, found out before anything is booted.

The kernel itself compares vermagic, which says little: the release, SMP, PREEMPT, unloading,
MODVERSIONS, the CPU. Here is compared besides: symbols that the image does not export, CRCs of
symbols, and, where the modules' configuration is known, symbols with another value that objects of
the image were compiled by.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from pytest_kernelvm.errors import BadInput, BuildFailed, Evidence
from pytest_kernelvm.foreign.elf import is_built_for
from pytest_kernelvm.kernel.build.build import Kernel
from pytest_kernelvm.kernel.build.symbol_users import differences, read_symbol_users
from pytest_kernelvm.kernel.exports import SYMVERS, Exports, exports_of
from pytest_kernelvm.kernel.kconfig.dot_config import parse_config
from pytest_kernelvm.process import run

TOOL_TIMEOUT_S = 60.0
# How many objections of each kind are shown, so that an error fits one screen.
MOST_NAMED = 5
# Symbols that record versions of tools (init/Kconfig).
_TOOL = re.compile(r"(?:GCC|CLANG|AS|LD|LLD|PAHOLE|RUSTC|RUSTC_LLVM)_VERSION")


@dataclass(frozen=True, kw_only=True, slots=True)
class Objection:
    """One reason why a module does not fit.

    Attributes:
        kind: architecture, modules (the kernel loads none), vermagic, symbol, crc or layout.
        text: The reason, in words.
    """

    kind: str
    text: str

    def __str__(self) -> str:
        return f"{self.kind}: {self.text}"


def objections(
    kernel: Kernel, modules: Sequence[Path], *, config: Mapping[str, str] | None = None
) -> tuple[Objection, ...]:
    """Return why modules do not fit a kernel's image.

    Where the kernel itself would refuse a module, only that is reported: symbols, CRCs and
    structures of another kernel differ anyway.

    Raises BadInput if a file is no module.

    Args:
        kernel: The kernel.
        modules: .ko files that are loaded together.
        config: Values by symbol that the modules were built for; None if not known.

    Returns:
        The reasons; nothing if they fit.
    """
    strange = [module.name for module in modules if not is_built_for(module, kernel.arch)]
    if strange:
        text = f"{_listed(strange)}: not of {kernel.arch.name}"
        return (Objection(kind="architecture", text=text),)
    if kernel.config and kernel.config.get("MODULES") != "y":
        text = f"{kernel.release} was built without MODULES, it loads none"
        return (Objection(kind="modules", text=text),)
    refused = tuple(_vermagic(kernel, modules))
    if refused:
        return refused
    exports = _exports_of(kernel)
    theirs = {name for module in modules for name in symbols(kernel, module, "--defined-only")}
    found: list[Objection] = []
    for module in modules:
        found += _undefined(kernel, module, exports, theirs)
    for module in modules:
        found += _crcs(kernel, module, exports)
    if config is not None:
        found += layout_objections(kernel, config)
    return tuple(found)


def layout_objections(kernel: Kernel, config: Mapping[str, str]) -> tuple[Objection, ...]:
    """Return the symbols whose other value has given structures of the image another layout.

    A symbol counts if some object of the image was compiled by it and some header mentions it. A
    text changes no layout, nor does the version of a tool.

    Args:
        kernel: The kernel.
        config: Values by symbol that the modules were built for.

    Returns:
        The reasons; first the symbols that most of the image was compiled by.
    """
    uses = read_symbol_users(kernel.directory)
    found = []
    for name, ours, theirs in differences(kernel.config, config):
        use = uses.get(name)
        is_text = '"' in (ours[:1], theirs[:1])
        if not use or not use.count or not use.in_header or is_text or _TOOL.fullmatch(name):
            continue
        more = f" and {use.count - len(use.named)} more" if use.count > len(use.named) else ""
        text = (
            f"{name} is {ours} in the image and {theirs} for the module; compiled by it "
            f"into the image: {', '.join(use.named)}{more}"
        )
        found.append((use.count, Objection(kind="layout", text=text)))
    # First the symbols that most objects depend on.
    return tuple(each for _count, each in sorted(found, key=lambda pair: -pair[0]))


def unchecked(kernel: Kernel, *, config: Mapping[str, str] | None) -> tuple[str, ...]:
    """Return what `objections` could not find out.

    Args:
        kernel: The kernel.
        config: Values by symbol that the modules were built for; None if not known.

    Returns:
        What was not compared and why, in words.
    """
    found = []
    if _exports_of(kernel).crcs is None:
        found.append(
            f"symbols were looked for in the image's text and CRCs were not compared, as "
            f"{kernel.release} came without a {SYMVERS} (Debian has it in "
            f"linux-headers-{kernel.release}, Fedora in kernel-devel)"
        )
    if config is None:
        found.append("what they were configured for is not known")
    elif not kernel.config:
        found.append("what the kernel was configured for is not known")
    elif not read_symbol_users(kernel.directory):
        found.append("which structures its configuration decides is not known")
    if not kernel.module_tree.is_dir():
        found.append("the kernel has no modules of its own, whose vermagic would be compared")
    return tuple(found)


def require_fit(
    kernel: Kernel, modules: Sequence[Path], *, config: Mapping[str, str] | None = None
) -> None:
    """Refuse modules that do not fit a kernel's image.

    Raises BadInput if a file is no module.

    Args:
        kernel: The kernel.
        modules: .ko files that are loaded together.
        config: Values by symbol that the modules were built for; None if not known.

    Raises:
        BuildFailed: They do not fit; the error has every reason.
    """
    found = objections(kernel, modules, config=config)
    if found:
        names = ", ".join(module.name for module in modules)
        raise BuildFailed(
            f"{names} is not for this kernel, {kernel.release}",
            Evidence(
                expected="modules that were built together with the image, or against its tree",
                excerpt="\n".join(_shortened(found)),
                where=(str(kernel.directory),),
                next_step="build image and modules from one configuration",
            ),
        )


def _shortened(found: Sequence[Objection]) -> Iterable[str]:
    """Give the first objections of each kind, and how many more there are."""
    for kind in dict.fromkeys(objection.kind for objection in found):
        same = [objection for objection in found if objection.kind == kind]
        yield from map(str, same[:MOST_NAMED])
        if len(same) > MOST_NAMED:
            yield f"{kind}: {len(same) - MOST_NAMED} more"


def config_near(modules: Sequence[Path]) -> dict[str, str] | None:
    """Return the configuration of the build directory that modules are in.

    A kernel of the store has one too.

    Args:
        modules: The .ko files.

    Returns:
        Values by symbol; None if there is no configuration, or if the modules come from several
        places.
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


def symbols(kernel: Kernel, module: Path, which: str) -> set[str]:
    """Return symbols of a module.

    Args:
        kernel: The one whose toolchain reads it.
        module: The .ko file.
        which: nm's option, such as --undefined-only.

    Returns:
        Their names, without weak ones.

    Raises:
        BadInput: The file is no module.
    """
    argv: list[str | Path] = [_tool(kernel, "nm"), "--format=posix", which, module]
    done = run(argv, timeout_s=TOOL_TIMEOUT_S, check=False)
    if done.status != 0:
        raise BadInput(f"{module} is no module", Evidence(excerpt=done.stderr))
    lines = [line.split(" ") for line in done.stdout.splitlines()]
    # A weak symbol may stay undefined.
    return {line[0] for line in lines if len(line) > 1 and line[1] not in "wv"}


def _undefined(
    kernel: Kernel, module: Path, exports: Exports, theirs: set[str]
) -> Iterable[Objection]:
    for name in sorted(symbols(kernel, module, "--undefined-only") - theirs):
        # Symbols of ld itself (arch/mips/kernel/vpe.c); modpost ignores them too.
        if name in ("_GLOBAL_OFFSET_TABLE_", "_gp_disp", "__gnu_local_gp"):
            continue
        if not exports.may_have(name):
            yield Objection(
                kind="symbol",
                text=f"{module.name} needs {name}, which neither the image nor a module of this "
                "kernel exports",
            )


def _vermagic(kernel: Kernel, modules: Sequence[Path]) -> Iterable[Objection]:
    """Give objections as the kernel compares vermagic (kernel/module/version.c, same_magic).

    What the kernel's own modules say is its vermagic; of a kernel without modules only the release
    is known.

    Yields:
        One objection for all modules with the same vermagic.
    """
    expected = _own_magic(kernel)
    alike: dict[tuple[str, str], list[str]] = {}
    for module in modules:
        magic = _magic_of(module)
        differing = _difference(magic, expected, kernel.release)
        if differing:
            alike.setdefault(differing, []).append(module.name)
    for (theirs, ours), names in alike.items():
        verb = "are" if len(names) > 1 else "is"
        yield Objection(
            kind="vermagic", text=f"{_listed(names)} {verb} for {theirs}, this one is {ours}"
        )


def _difference(magic: str, expected: str, release: str) -> tuple[str, str] | None:
    """Return a module's vermagic and the kernel's where the kernel refuses it, for the error."""
    theirs, _, their_words = magic.partition(" ")
    ours, _, our_words = expected.partition(" ")
    if expected == release:
        return (theirs or "no kernel", ours) if theirs != ours else None
    if their_words != our_words and theirs == ours:
        return repr(magic), repr(expected)
    # With MODVERSIONS the kernel does not compare the release.
    if their_words != our_words or (theirs != ours and "modversions" not in our_words.split()):
        return theirs or "no kernel", ours
    return None


def _exports_of(kernel: Kernel) -> Exports:
    return exports_of(kernel.directory, kernel.module_tree, kernel.image)


def _listed(names: Sequence[str]) -> str:
    more = f" and {len(names) - MOST_NAMED} more" if len(names) > MOST_NAMED else ""
    return f"{', '.join(names[:MOST_NAMED])}{more}"


def _magic_of(module: Path) -> str:
    argv: list[str | Path] = ["modinfo", "--field", "vermagic", module]
    return run(argv, timeout_s=TOOL_TIMEOUT_S, check=False).stdout.strip()


def _own_magic(kernel: Kernel) -> str:
    own = next(kernel.module_tree.rglob("*.ko*"), None)
    return (_magic_of(own) if own else "") or kernel.release


def _crcs(kernel: Kernel, module: Path, exports: Exports) -> Iterable[Objection]:
    if not exports.crcs or not exports.has_crcs:
        return
    argv: list[str | Path] = ["modprobe", "--dump-modversions", module]
    said = run(argv, timeout_s=TOOL_TIMEOUT_S, check=False).stdout
    for line in said.splitlines():
        found = re.match(r"(0x[0-9a-f]+)\s+(\S+)", line)
        if not found or found[2] not in exports.crcs:
            continue
        if int(found[1], 16) != int(exports.crcs[found[2]], 16):
            yield Objection(
                kind="crc",
                text=f"{module.name} knows {found[2]} as {found[1]}, "
                f"in {kernel.release} it is {exports.crcs[found[2]]}",
            )
