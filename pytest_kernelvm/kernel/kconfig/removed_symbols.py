"""Symbols that kernels have renamed or removed, for configurations of older kernels."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True, slots=True)
class RemovedSymbol:
    """A symbol that mainline has renamed or removed.

    Attributes:
        name: Without CONFIG_.
        since: The first release without it.
        new: The symbol that replaces it, empty if there is none.
        note: What else a reader should know, empty if nothing.
    """

    name: str
    since: str
    new: str = ""
    note: str = ""

    def __str__(self) -> str:
        became = f"renamed to {self.new}" if self.new else "removed"
        return f"{became} in {self.since}" + (f": {self.note}" if self.note else "")


def _by_name(*symbols: RemovedSymbol) -> dict[str, RemovedSymbol]:
    return {symbol.name: symbol for symbol in symbols}


# Releases are those of the mainline commits that took the symbols away. Those between 6.1 and 6.12
# are checked against both sources by tests/vm/test_kconfig_sources.py.
REMOVED_SYMBOLS = _by_name(
    RemovedSymbol(name="CC_STACKPROTECTOR", since="4.18", new="STACKPROTECTOR"),
    RemovedSymbol(name="CC_STACKPROTECTOR_STRONG", since="4.18", new="STACKPROTECTOR_STRONG"),
    RemovedSymbol(name="AUTOFS4_FS", since="4.18", new="AUTOFS_FS", note="old name until 6.6"),
    RemovedSymbol(name="NF_CONNTRACK_IPV4", since="4.19", new="NF_CONNTRACK"),
    RemovedSymbol(name="NF_CONNTRACK_IPV6", since="4.19", new="NF_CONNTRACK"),
    RemovedSymbol(name="IOSCHED_CFQ", since="5.0", new="IOSCHED_BFQ"),
    RemovedSymbol(name="IOSCHED_DEADLINE", since="5.0", new="MQ_IOSCHED_DEADLINE"),
    RemovedSymbol(name="NF_NAT_IPV4", since="5.1", new="NF_NAT"),
    RemovedSymbol(name="NF_NAT_IPV6", since="5.1", new="NF_NAT"),
    RemovedSymbol(name="RAW_DRIVER", since="5.14"),
    RemovedSymbol(name="BLK_DEV_CRYPTOLOOP", since="5.16", note="dm-crypt does its work"),
    RemovedSymbol(name="NFT_COUNTER", since="5.17", note="nf_tables has it built in"),
    RemovedSymbol(name="DECNET", since="6.1"),
    RemovedSymbol(
        name="RANDOM_TRUST_CPU", since="6.2", note="random.trust_cpu= on the command line"
    ),
    RemovedSymbol(
        name="RANDOM_TRUST_BOOTLOADER",
        since="6.2",
        note="random.trust_bootloader= on the command line",
    ),
    RemovedSymbol(name="NFT_OBJREF", since="6.2", note="nf_tables has it built in"),
    RemovedSymbol(name="GENERIC_MSI_IRQ_DOMAIN", since="6.2", new="GENERIC_MSI_IRQ"),
    RemovedSymbol(name="PCI_MSI_IRQ_DOMAIN", since="6.2", new="PCI_MSI"),
    RemovedSymbol(name="IP_NF_TARGET_CLUSTERIP", since="6.3", note="xt_cluster does its work"),
    RemovedSymbol(name="HABANA_AI", since="6.3", new="DRM_ACCEL_HABANALABS"),
    RemovedSymbol(name="SLOB", since="6.4", new="SLUB_TINY"),
    RemovedSymbol(
        name="SECURITY_SELINUX_DISABLE", since="6.4", note="selinux=0 on the command line"
    ),
    RemovedSymbol(name="ARM64_MODULE_PLTS", since="6.5", note="always on with MODULES"),
    RemovedSymbol(name="MFD_RK808", since="6.5", new="MFD_RK8XX_I2C"),
    RemovedSymbol(name="MICROCODE_AMD", since="6.6", new="MICROCODE"),
    RemovedSymbol(name="MICROCODE_INTEL", since="6.6", new="MICROCODE"),
    RemovedSymbol(name="PSTORE_DEFLATE_COMPRESS", since="6.6", new="PSTORE_COMPRESS"),
    RemovedSymbol(name="EMBEDDED", since="6.6", note="EXPERT is what it stood for"),
    RemovedSymbol(name="DEBUG_CREDENTIALS", since="6.7"),
    RemovedSymbol(name="SLAB", since="6.8", new="SLUB"),
    RemovedSymbol(name="DEBUG_SLAB", since="6.8", new="SLUB_DEBUG"),
    RemovedSymbol(name="RETPOLINE", since="6.9", new="MITIGATION_RETPOLINE"),
    RemovedSymbol(name="RETHUNK", since="6.9", new="MITIGATION_RETHUNK"),
    RemovedSymbol(name="SLS", since="6.9", new="MITIGATION_SLS"),
    RemovedSymbol(name="PAGE_TABLE_ISOLATION", since="6.9", new="MITIGATION_PAGE_TABLE_ISOLATION"),
    RemovedSymbol(name="CPU_IBPB_ENTRY", since="6.9", new="MITIGATION_IBPB_ENTRY"),
    RemovedSymbol(name="CPU_IBRS_ENTRY", since="6.9", new="MITIGATION_IBRS_ENTRY"),
    RemovedSymbol(name="CPU_UNRET_ENTRY", since="6.9", new="MITIGATION_UNRET_ENTRY"),
    RemovedSymbol(name="CPU_SRSO", since="6.9", new="MITIGATION_SRSO"),
    RemovedSymbol(name="BPFILTER", since="6.9"),
    RemovedSymbol(name="CRYPTO_STATS", since="6.10"),
    RemovedSymbol(name="USB_ONBOARD_HUB", since="6.10", new="USB_ONBOARD_DEV"),
    RemovedSymbol(name="MEMCG_KMEM", since="6.11", new="MEMCG"),
    RemovedSymbol(
        name="MODULE_COMPRESS_NONE", since="6.12", new="MODULE_COMPRESS", note="where it is n"
    ),
    RemovedSymbol(name="REISERFS_FS", since="6.13"),
    RemovedSymbol(name="SCHED_DEBUG", since="6.15", note="always on"),
    RemovedSymbol(name="LIBCRC32C", since="6.15", new="CRC32"),
    RemovedSymbol(name="IP_DCCP", since="6.16"),
    RemovedSymbol(name="NF_CT_PROTO_DCCP", since="6.17"),
)
