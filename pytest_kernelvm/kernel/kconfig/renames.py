"""Symbols that kernels have renamed or removed, for those who bring older configurations."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True, slots=True)
class Departure:
    """What became of a symbol.

    name: without CONFIG_. since: the first release without it. new: what does its work now, empty
    if nothing does. note: what a reader should know besides.
    """

    name: str
    since: str
    new: str = ""
    note: str = ""

    def __str__(self) -> str:
        became = f"renamed to {self.new}" if self.new else "removed"
        return f"{became} in {self.since}" + (f": {self.note}" if self.note else "")


def _by_name(*departures: Departure) -> dict[str, Departure]:
    return {departure.name: departure for departure in departures}


# Releases are those of the mainline commits that took the symbols away. Those between 6.1 and 6.12
# are checked against both sources by tests/vm/test_kconfig_sources.py.
DEPARTED = _by_name(
    Departure(name="CC_STACKPROTECTOR", since="4.18", new="STACKPROTECTOR"),
    Departure(name="CC_STACKPROTECTOR_STRONG", since="4.18", new="STACKPROTECTOR_STRONG"),
    Departure(name="AUTOFS4_FS", since="4.18", new="AUTOFS_FS", note="old name until 6.6"),
    Departure(name="NF_CONNTRACK_IPV4", since="4.19", new="NF_CONNTRACK"),
    Departure(name="NF_CONNTRACK_IPV6", since="4.19", new="NF_CONNTRACK"),
    Departure(name="IOSCHED_CFQ", since="5.0", new="IOSCHED_BFQ"),
    Departure(name="IOSCHED_DEADLINE", since="5.0", new="MQ_IOSCHED_DEADLINE"),
    Departure(name="NF_NAT_IPV4", since="5.1", new="NF_NAT"),
    Departure(name="NF_NAT_IPV6", since="5.1", new="NF_NAT"),
    Departure(name="RAW_DRIVER", since="5.14"),
    Departure(name="BLK_DEV_CRYPTOLOOP", since="5.16", note="dm-crypt does its work"),
    Departure(name="NFT_COUNTER", since="5.17", note="nf_tables has it built in"),
    Departure(name="DECNET", since="6.1"),
    Departure(name="RANDOM_TRUST_CPU", since="6.2", note="random.trust_cpu= on the command line"),
    Departure(
        name="RANDOM_TRUST_BOOTLOADER",
        since="6.2",
        note="random.trust_bootloader= on the command line",
    ),
    Departure(name="NFT_OBJREF", since="6.2", note="nf_tables has it built in"),
    Departure(name="GENERIC_MSI_IRQ_DOMAIN", since="6.2", new="GENERIC_MSI_IRQ"),
    Departure(name="PCI_MSI_IRQ_DOMAIN", since="6.2", new="PCI_MSI"),
    Departure(name="IP_NF_TARGET_CLUSTERIP", since="6.3", note="xt_cluster does its work"),
    Departure(name="HABANA_AI", since="6.3", new="DRM_ACCEL_HABANALABS"),
    Departure(name="SLOB", since="6.4", new="SLUB_TINY"),
    Departure(name="SECURITY_SELINUX_DISABLE", since="6.4", note="selinux=0 on the command line"),
    Departure(name="ARM64_MODULE_PLTS", since="6.5", note="always on with MODULES"),
    Departure(name="MFD_RK808", since="6.5", new="MFD_RK8XX_I2C"),
    Departure(name="MICROCODE_AMD", since="6.6", new="MICROCODE"),
    Departure(name="MICROCODE_INTEL", since="6.6", new="MICROCODE"),
    Departure(name="PSTORE_DEFLATE_COMPRESS", since="6.6", new="PSTORE_COMPRESS"),
    Departure(name="EMBEDDED", since="6.6", note="EXPERT is what it stood for"),
    Departure(name="DEBUG_CREDENTIALS", since="6.7"),
    Departure(name="SLAB", since="6.8", new="SLUB"),
    Departure(name="DEBUG_SLAB", since="6.8", new="SLUB_DEBUG"),
    Departure(name="RETPOLINE", since="6.9", new="MITIGATION_RETPOLINE"),
    Departure(name="RETHUNK", since="6.9", new="MITIGATION_RETHUNK"),
    Departure(name="SLS", since="6.9", new="MITIGATION_SLS"),
    Departure(name="PAGE_TABLE_ISOLATION", since="6.9", new="MITIGATION_PAGE_TABLE_ISOLATION"),
    Departure(name="CPU_IBPB_ENTRY", since="6.9", new="MITIGATION_IBPB_ENTRY"),
    Departure(name="CPU_IBRS_ENTRY", since="6.9", new="MITIGATION_IBRS_ENTRY"),
    Departure(name="CPU_UNRET_ENTRY", since="6.9", new="MITIGATION_UNRET_ENTRY"),
    Departure(name="CPU_SRSO", since="6.9", new="MITIGATION_SRSO"),
    Departure(name="BPFILTER", since="6.9"),
    Departure(name="CRYPTO_STATS", since="6.10"),
    Departure(name="USB_ONBOARD_HUB", since="6.10", new="USB_ONBOARD_DEV"),
    Departure(name="MEMCG_KMEM", since="6.11", new="MEMCG"),
    Departure(
        name="MODULE_COMPRESS_NONE", since="6.12", new="MODULE_COMPRESS", note="where it is n"
    ),
    Departure(name="REISERFS_FS", since="6.13"),
    Departure(name="SCHED_DEBUG", since="6.15", note="always on"),
    Departure(name="LIBCRC32C", since="6.15", new="CRC32"),
    Departure(name="IP_DCCP", since="6.16"),
    Departure(name="NF_CT_PROTO_DCCP", since="6.17"),
)
