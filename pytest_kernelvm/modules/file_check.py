"""Module files that modprobe takes and only the kernel refuses: found before a guest boots."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import TypeVar

from pytest_kernelvm.arch.base import Arch
from pytest_kernelvm.errors import BadInput, Evidence
from pytest_kernelvm.foreign.elf import ElfKind
from pytest_kernelvm.modules.modinfo import modinfo, module_of
from pytest_kernelvm.modules.provenance import ClosureModule
from pytest_kernelvm.modules.unpack import unpacked

# include/linux/module_signature.h
_SIGNED = b"~Module signature appended~\n"
_MOST_NAMED = 10

T = TypeVar("T")


@dataclass(frozen=True, kw_only=True, slots=True)
class FileFacts:
    """What the kernel looks at in a module file.

    Attributes:
        module: The module.
        kind: For which machine its file is.
        vermagic: Its first word is the release; the rest are flags of the build.
        has_symbol_versions: Whether its symbols have CRCs (MODVERSIONS).
        is_signed: Whether a signature is appended.
        has_symbol_table: Whether it has a .symtab. A module without one was stripped, which also
            makes its signature invalid.
    """

    module: ClosureModule
    kind: ElfKind
    vermagic: str
    has_symbol_versions: bool
    is_signed: bool
    has_symbol_table: bool

    @property
    def release(self) -> str:
        """The release that the module was built for."""
        return self.vermagic.partition(" ")[0]

    @property
    def flags(self) -> str:
        """What vermagic says behind the release, such as `SMP mod_unload`."""
        return self.vermagic.partition(" ")[2]


def file_facts(module: ClosureModule) -> FileFacts:
    """Return what the file of a module says. Raises BadInput for a file that is no module."""
    data = unpacked(module.path)
    elf = module_of(data, str(module.path))
    return FileFacts(
        module=module,
        kind=elf.kind,
        vermagic=dict(modinfo(elf)).get("vermagic", ""),
        has_symbol_versions=elf.has_section("__versions"),
        is_signed=data.endswith(_SIGNED),
        has_symbol_table=elf.has_section(".symtab"),
    )


def check_files(
    modules: Iterable[ClosureModule],
    *,
    release: str,
    arch: Arch | None = None,
    signed: bool = False,
) -> None:
    """Raise an error that has all faults, if the kernel would refuse the file of some module.

    Checked are: machine, class and byte order; the release in vermagic; the flags in vermagic and
    MODVERSIONS, which have to be the same in all files; signatures; symbol tables.
    Source: the kernel's kernel/module/main.c, elf_validity_check and check_modinfo.

    Args:
        modules: The modules.
        release: The release of the kernel.
        arch: The architecture of the guest; None for the one that most of the files are for.
        signed: Whether the kernel refuses modules without a signature (MODULE_SIG_FORCE).

    Raises:
        BadInput: If there is a fault, or a file that is no module.
    """
    facts = [file_facts(module) for module in modules]
    if not facts:
        return
    expected = _expected(facts, release, arch, signed=signed)
    faults = [(each.module, fault) for each in facts for fault in _faults(each, expected)]
    if faults:
        count = len({module.name for module, _ in faults})
        raise BadInput(
            f"the kernel {release} would refuse {count} of {len(facts)} modules",
            Evidence(
                expected=f"modules of {release}",
                seen="; ".join(f"{module.name}: {fault}" for module, fault in faults[:5]),
                where=tuple(str(module.path) for module, _ in faults[:_MOST_NAMED]),
                next_step="install the modules of this very kernel, and strip with --strip-debug",
            ),
        )


@dataclass(frozen=True, kw_only=True, slots=True)
class _Expected:
    """What all files have to be like; see FileFacts."""

    kind: ElfKind
    release: str
    flags: str
    symbol_versions: bool
    signed: bool


def _expected(
    facts: Sequence[FileFacts], release: str, arch: Arch | None, *, signed: bool
) -> _Expected:
    return _Expected(
        kind=_most_common(each.kind for each in facts) if arch is None else ElfKind.of_arch(arch),
        release=release,
        flags=_most_common(each.flags for each in facts),
        symbol_versions=_most_common(each.has_symbol_versions for each in facts),
        signed=signed,
    )


def _most_common(values: Iterable[T]) -> T:
    return Counter(values).most_common(1)[0][0]


def _faults(facts: FileFacts, expected: _Expected) -> Iterator[str]:
    release, flags = expected.release, expected.flags
    if facts.kind != expected.kind:
        yield f"for {_words(facts.kind)}, not for {_words(expected.kind)}"
    if facts.release != release:
        yield f"vermagic names {facts.release or 'no release'}, the tree is of {release}"
    elif facts.flags != flags:
        yield f"vermagic {facts.vermagic!r}, the others have {release} {flags}"
    if facts.has_symbol_versions != expected.symbol_versions:
        yield "with symbol versions" if facts.has_symbol_versions else "without symbol versions"
    if expected.signed and not facts.is_signed:
        yield "without a signature"
    if not facts.has_symbol_table:
        yield "stripped of its symbol table"


def _words(kind: ElfKind) -> str:
    return f"machine {kind.machine}, {kind.bits} bits, {kind.endianness}-endian"
