"""What a guest's files and system calls say, parsed."""

from __future__ import annotations

import errno
import stat
import struct
from typing import Literal

import pytest

from pytest_kernelvm.vm.agent.results import (
    STATX_BYTES,
    UTSNAME_BYTES,
    CommandResult,
    LoadedModule,
    Uname,
    parse_directory,
    parse_proc_modules,
    parse_statx,
    parse_utsname,
)
from pytest_kernelvm.vm.klog.kmsg import LogRecord, parse_kmsg

ByteOrder = Literal["big", "little"]
PREFIX: dict[ByteOrder, str] = {"big": ">", "little": "<"}
both_orders = pytest.mark.parametrize("order", ["big", "little"])


@pytest.mark.parametrize(
    ("line", "module"),
    [
        pytest.param(
            "nf_conntrack 126976 3 nft_ct,nf_nat,nft_masq, Live 0xc00a2000",
            LoadedModule(
                name="nf_conntrack",
                size_bytes=126976,
                use_count=3,
                holders=("nft_ct", "nf_nat", "nft_masq"),
                state="Live",
            ),
            id="holders",
        ),
        pytest.param(
            "dummy 12288 0 - Live 0x0000000000000000",
            LoadedModule(name="dummy", size_bytes=12288, use_count=0, holders=(), state="Live"),
            id="unused",
        ),
        pytest.param(
            "ipv6 462848 10 [permanent], Live 0x7f000000",
            LoadedModule(name="ipv6", size_bytes=462848, use_count=10, holders=(), state="Live"),
            id="permanent",
        ),
        pytest.param(
            "nf_tables 221184 1 nft_ct,[permanent], Live 0x7f000000",
            LoadedModule(
                name="nf_tables", size_bytes=221184, use_count=1, holders=("nft_ct",), state="Live"
            ),
            id="holder-and-permanent",
        ),
        pytest.param(
            "loop 24576 - - Live 0x7f000000",
            LoadedModule(name="loop", size_bytes=24576, use_count=-1, holders=(), state="Live"),
            id="no-CONFIG_MODULE_UNLOAD",
        ),
        pytest.param(
            "loop 24576 1 - Loading 0xc0008000",
            LoadedModule(name="loop", size_bytes=24576, use_count=1, holders=(), state="Loading"),
            id="loading",
        ),
        pytest.param(
            "loop 24576 0 - Unloading 0xc0008000 (O-)",
            LoadedModule(name="loop", size_bytes=24576, use_count=0, holders=(), state="Unloading"),
            id="unloading-and-tainting",
        ),
    ],
)
def test_a_line_of_proc_modules(line: str, module: LoadedModule) -> None:
    assert parse_proc_modules(f"{line}\n") == (module,)


def test_proc_modules_keeps_its_order() -> None:
    text = "b 4096 0 - Live 0x0\na 4096 1 b, Live 0x0\n"
    assert [module.name for module in parse_proc_modules(text)] == ["b", "a"]
    assert parse_proc_modules("") == ()


KMSG = """\
5,0,0,-;Linux version 6.12.117 (kernelvm@kernelvm) #1 SMP 2024-01-01 00:00:00 UTC
6,187,1254483,-;serial8250.0: ttyS1 at I/O 0x2f8 (irq = 3, base_baud = 115200) is a 16550A
 SUBSYSTEM=platform
 DEVICE=+platform:serial8250.0
12,188,2218091,-;agent: ready; listening
4,189,2300000,-,caller=T27;loop: caf\\xc3\\xa9 \\xc2\\xb5s
0,190,18446744073709,c;two\\x0alines and a back\\x5cslash
30,191,18446744073710,-;facility 3, priority 6
"""


def test_records_of_dev_kmsg() -> None:
    log = parse_kmsg(KMSG)
    assert [record.sequence for record in log] == [0, 187, 188, 189, 190, 191]
    assert [record.priority for record in log] == [5, 6, 4, 4, 0, 6]
    assert log.records[1] == LogRecord(
        priority=6,
        sequence=187,
        time_s=1.254483,
        text="serial8250.0: ttyS1 at I/O 0x2f8 (irq = 3, base_baud = 115200) is a 16550A",
    )
    assert log.records[2].text == "agent: ready; listening"


def test_escapes_stand_for_bytes_of_utf8() -> None:
    log = parse_kmsg(KMSG)
    assert log.records[3].text == "loop: café µs"
    assert log.records[4].text == "two\nlines and a back\\slash"
    assert parse_kmsg("6,1,0,-;half a sign: \\xc3\n").records[0].text == "half a sign: \ufffd"
    assert parse_kmsg("6,1,0,-;\\x5cxc3 was written\n").records[0].text == "\\xc3 was written"


@pytest.mark.parametrize(
    "text",
    ["", "\n", " KEY=value\n", "no record\n", "6,1,0;a field is missing\n", "six,1,0,-;text\n"],
)
def test_text_that_is_no_record_is_skipped(text: str) -> None:
    assert parse_kmsg(text).records == ()
    both = [record.text for record in parse_kmsg(f"{text}6,2,0,-;record\n")]
    assert both == ["record"]


def test_a_kernel_log_is_asked() -> None:
    log = parse_kmsg(KMSG)
    assert "ttyS1 at I/O" in log
    assert "ttyS7" not in log
    assert [record.sequence for record in log.matching(r"ttyS\d|^agent")] == [187, 188]
    assert log.matching("nowhere") == ()
    assert "[    2.218091] agent: ready; listening" in str(log).splitlines()


def statx(order: ByteOrder, *, mode: int, size_bytes: int, uid: int, gid: int, links: int) -> bytes:
    """Return a struct statx, byte by byte as in include/uapi/linux/stat.h."""
    mask, block_bytes, attributes, inode = 0x7FF, 4096, 0x0102030405060708, 0x1122334455667788
    head = struct.pack(f"{PREFIX[order]}IIQ", mask, block_bytes, attributes)
    owner = struct.pack(f"{PREFIX[order]}IIIHH", links, uid, gid, mode, 0)
    return (head + owner + struct.pack(f"{PREFIX[order]}QQ", inode, size_bytes)).ljust(
        STATX_BYTES, b"\xee"
    )


@both_orders
def test_statx(order: ByteOrder) -> None:
    raw = statx(order, mode=0o104755, size_bytes=5 << 32 | 7, uid=1000, gid=33, links=2)
    found = parse_statx(raw, order)
    assert (found.mode, found.uid, found.gid, found.links) == (0o104755, 1000, 33, 2)
    assert found.size_bytes == 5 << 32 | 7
    assert not found.is_directory
    assert not found.is_link


@both_orders
@pytest.mark.parametrize(
    ("kind", "is_directory", "is_link"),
    [(stat.S_IFDIR, True, False), (stat.S_IFLNK, False, True), (stat.S_IFBLK, False, False)],
)
def test_kinds_of_files(order: ByteOrder, kind: int, is_directory: bool, is_link: bool) -> None:
    found = parse_statx(statx(order, mode=kind | 0o700, size_bytes=0, uid=0, gid=0, links=1), order)
    assert (found.is_directory, found.is_link) == (is_directory, is_link)


def dirent64(order: ByteOrder, name: bytes) -> bytes:
    """Return a struct linux_dirent64, padded to 8 bytes as the kernel does."""
    length = (19 + len(name) + 1 + 7) // 8 * 8
    head = struct.pack(f"{PREFIX[order]}QqHB", 12345, 0x7FFFFFFFFFFFFFFF, length, 8)
    return (head + name).ljust(length, b"\0")


@both_orders
def test_names_in_a_directory(order: ByteOrder) -> None:
    names = [b".", b"..", b"a", b".hidden", b"1234", b"12345", "ü".encode(), b"\xff", b"x" * 255]
    raw = b"".join(dirent64(order, name) for name in names)
    found = parse_directory(raw, order)
    assert [name.encode("utf-8", "surrogateescape") for name in found] == names[2:]
    assert parse_directory(b"", order) == []


def test_utsname() -> None:
    fields = ("Linux", "(none)", "6.12.117", "#1 SMP 2024-01-01 00:00:00 UTC", "mips", "(none)")
    raw = b"".join(field.encode().ljust(65, b"\0") for field in fields)
    assert len(raw) == UTSNAME_BYTES
    assert parse_utsname(raw) == Uname(*fields)
    assert parse_utsname(raw).machine == "mips"


def test_utsname_reads_no_further_than_a_zero() -> None:
    raw = b"Linux\0left over from a longer name".ljust(65, b"!") * 6
    assert parse_utsname(raw).sysname == "Linux"
    assert parse_utsname(b"x" * UTSNAME_BYTES).domainname == "x" * 65


def result(*, status: int, number: int = 0, output: bytes = b"", errors: str = "") -> CommandResult:
    return CommandResult(
        argv=("modprobe", "loop"), status=status, errno=number, raw_output=output, errors=errors
    )


def test_command_results_in_words() -> None:
    assert str(result(status=0)) == "modprobe loop → status 0"
    assert str(result(status=1, output=b"out\n", errors="no such\nmodule\n")) == (
        "modprobe loop → status 1\n  out\n  no such\n  module"
    )
    assert str(result(status=127, number=errno.ENOENT)) == (
        "modprobe loop → could not start: No such file or directory"
    )
    assert result(status=0, output=b"\xff\n").output == "\ufffd\n"
