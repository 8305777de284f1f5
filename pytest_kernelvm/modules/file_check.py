"""Module files that modprobe takes and only the kernel refuses: found before a guest boots."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from pytest_kernelvm.arch.base import Arch
from pytest_kernelvm.errors import BadInput, Evidence
from pytest_kernelvm.foreign.elf import ElfKind
from pytest_kernelvm.modules.modinfo import modinfo, module_of
from pytest_kernelvm.modules.provenance import ClosureModule
from pytest_kernelvm.modules.unpack import unpacked

# include/linux/module_signature.h
_SIGNED = b"~Module signature appended~\n"
_MOST_NAMED = 10


@dataclass(frozen=True, kw_only=True, slots=True)
class FileFacts:
    """What the kernel looks at in a module file.

    vermagic: its first word is the release. versions: whether symbols have CRCs (MODVERSIONS).
    signed: whether a signature is appended. symbols: whether there is a symbol table, which a
    module keeps unless something stripped it away, and its signature's worth with it.
    """

    module: ClosureModule
    kind: ElfKind
    vermagic: str
    versions: bool
    signed: bool
    symbols: bool

    @property
    def release(self) -> str:
        """The release that the module was built for."""
        return self.vermagic.partition(" ")[0]


def file_facts(module: ClosureModule) -> FileFacts:
    """Return what a module's file says. Raises BadInput for a file that is no module."""
    data = unpacked(module.path)
    elf = module_of(data, str(module.path))
    fields = dict(modinfo(elf))
    return FileFacts(
        module=module,
        kind=elf.kind,
        vermagic=fields.get("vermagic", ""),
        versions=elf.has_section("__versions"),
        signed=data.endswith(_SIGNED),
        symbols=elf.has_section(".symtab"),
    )


def check_files(
    modules: Iterable[ClosureModule],
    *,
    release: str,
    arch: Arch | None = None,
    signed: bool = False,
) -> None:
    """Raise BadInput, with all faults, if the kernel would refuse some module's file.

    release: the kernel's. arch: what the guest is; by default what most of the files are for.
    signed: whether the kernel takes none without a signature (MODULE_SIG_FORCE).
    Checked are the machine, class and byte order, vermagic's release and its further words, which
    must be the same in all, MODVERSIONS in all or none, signatures, and symbol tables.
    Source: the kernel's kernel/module/main.c, elf_validity_check and check_modinfo.
    """
    facts = [file_facts(module) for module in modules]
    if not facts:
        return
    kinds = Counter(each.kind for each in facts)
    kind = kinds.most_common(1)[0][0] if arch is None else ElfKind.of_arch(arch)
    flags = Counter(each.vermagic.partition(" ")[2] for each in facts).most_common(1)[0][0]
    versions = Counter(each.versions for each in facts).most_common(1)[0][0]
    faults = [
        (each, fault)
        for each in facts
        for fault in _faults(each, kind, release, flags, versions=versions, signed=signed)
    ]
    if faults:
        raise BadInput(
            f"the kernel {release} would refuse {len({each.module.name for each, _ in faults})} "
            f"of {len(facts)} modules",
            Evidence(
                expected=f"modules of {release}",
                seen="; ".join(f"{each.module.name}: {fault}" for each, fault in faults[:5]),
                where=tuple(str(each.module.path) for each, _ in faults[:_MOST_NAMED]),
                next_step="install the modules of this very kernel, and strip with --strip-debug",
            ),
        )


def _faults(
    facts: FileFacts, kind: ElfKind, release: str, flags: str, *, versions: bool, signed: bool
) -> Iterator[str]:
    if facts.kind != kind:
        yield f"for {_words(facts.kind)}, not for {_words(kind)}"
    if facts.release != release:
        yield f"vermagic names {facts.release or 'no release'}, the tree is of {release}"
    elif facts.vermagic.partition(" ")[2] != flags:
        yield f"vermagic {facts.vermagic!r}, the others have {release} {flags}"
    if facts.versions != versions:
        yield "with symbol versions" if facts.versions else "without symbol versions"
    if signed and not facts.signed:
        yield "without a signature"
    if not facts.symbols:
        yield "stripped of its symbol table"


def _words(kind: ElfKind) -> str:
    return f"machine {kind.machine}, {kind.bits} bits, {kind.endianness}-endian"
