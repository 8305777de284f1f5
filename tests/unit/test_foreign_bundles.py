"""Somebody else's bundle: whatever is in it, no process is started and no file is touched."""

from __future__ import annotations

import json
import os
import shutil
import tarfile
from collections.abc import Callable
from pathlib import Path

import pytest

from pytest_kernelvm.process import find_program, run
from tests.unit.hostile import (
    Change,
    Scratch,
    draft,
    good_entry,
    make_scratch,
    refused,
    write_bundle,
)

TOUCH = "exec:touch pwned"


@pytest.fixture
def scratch(tmp_path: Path) -> Scratch:
    return make_scratch(tmp_path)


def test_a_good_bundle_gets_as_far_as_qemu(scratch: Scratch) -> None:
    """The others fail for what is changed in them, and for nothing else."""
    made = draft()
    made.boot["machine"]["sandbox"] = False
    write_bundle(scratch.inside / "b", made)
    done = scratch.kernelvm("replay", "b")
    assert done.status == 12, done.stdout + done.stderr
    assert "--allow=no-sandbox" in done.stderr
    launched = [line for line in scratch.started if "-kernel" in line]
    assert launched
    assert all("-sandbox on," in line for line in launched)
    assert scratch.kernelvm("replay", "b", "--allow=no-sandbox").status == 12
    assert "-sandbox" not in scratch.started[-1]


def qmp(command: str, **arguments: object) -> Change:
    """Return what adds a QMP command to the journal."""
    given = {name.replace("_", "-"): value for name, value in arguments.items()}
    return lambda made: made.acts.append({"at_s": 1, "qmp": command, "arguments": given})


def monitor(line: str) -> Change:
    return qmp("human-monitor-command", command_line=line)


def put(*place: str, value: object) -> Change:
    """Return what puts a value into guest.json or, with `about` first, into bundle.json."""

    def change(made: object) -> None:
        at = getattr(made, place[0])
        for name in place[1:-1]:
            at = at[name]
        at[place[-1]] = value

    return change


def act(**changes: object) -> Change:
    return lambda made: made.acts.append(good_entry() | changes)


def line(text: str) -> Change:
    return lambda made: made.acts.append(text)


MACHINE = ("boot", "machine")
CASES: dict[str, tuple[Change, str]] = {
    # What QEMU is told
    "flags": (put("boot", "extra", value=["-incoming", TOUCH]), "boot.extra"),
    "flags-of-a-guest": (put("guest", "extra", value=["-incoming", TOUCH]), "extra"),
    "cpu-words": (put(*MACHINE, "cpu", value=f"max -incoming {TOUCH}"), "boot.machine.cpu"),
    "cpu-properties": (put(*MACHINE, "cpu", value="host,x=/etc/passwd"), "boot.machine.cpu"),
    "cpu-newline": (put(*MACHINE, "cpu", value="max\n"), "boot.machine.cpu"),
    "memory-path": (put(*MACHINE, "memory_mib", value="1G,mem-path=/x"), "boot.machine.memory"),
    "memory-huge": (put(*MACHINE, "memory_mib", value=10**9), "from 32 to"),
    "memory-true": (put(*MACHINE, "memory_mib", value=True), "boot.machine.memory_mib"),
    "network": (put("boot", "network", value="user,smb=/etc"), "boot.network"),
    "network-outside": (put("boot", "network", value="outside"), "--allow=outside"),
    "arch": (put("boot", "arch", value="../../bin/x"), "boot.arch"),
    "cmdline-nul": (put("boot", "cmdline", value="a\0b"), "boot.cmdline"),
    "cmdline-list": (put("boot", "cmdline", value=["a"]), "boot.cmdline"),
    "loaded-flags": (put("boot", "loaded", value=["0,file=/etc/passwd"]), "boot.loaded[0]"),
    "loaded-without-file": (put("boot", "loaded", value=[4096]), "boot.loaded"),
    "root-address": (put("boot", "root_address", value=-1), "boot.root_address"),
    # Files
    "file-elsewhere": (
        put("guest", "files", value={"image": {"path": "/etc/passwd", "sha256": "0" * 64}}),
        "files.image",
    ),
    "file-named-up": (put("guest", "files", value={"../../canary": "0" * 64}), "files"),
    "digest-is-a-path": (put("guest", "files", "image", value="/etc/passwd"), "files.image"),
    "another-image": (put("guest", "files", "image", value="0" * 64), "has changed since"),
    "kernel-is-a-path": (put("guest", "kernel", value="../../../outside"), "kernel"),
    "guests-elsewhere": (put("about", "guests", value=["../../outside"]), "guests[0]"),
    "guest-absolute": (put("about", "guests", value=["/etc"]), "guests[0]"),
    "no-guests": (put("about", "guests", value=[]), "guests"),
    "many-guests": (put("about", "guests", value=["guest-0"] * 10**5), "guests"),
    "snapshot-digest": (
        put(
            "guest",
            "snapshot",
            value={
                **dict.fromkeys(("request_id", "boot_id", "clock_offset_s", "taint"), 0),
                "console_ages_s": [],
                "sha256": dict.fromkeys(("state", "console", "log"), "0" * 64)
                | {"memory": "../../x"},
            },
        ),
        "snapshot.sha256.memory",
    ),
    # QMP
    "pmemsave": (qmp("pmemsave", val=0, size=100, filename="pwned"), "journal.jsonl:2"),
    "memsave": (qmp("memsave", val=0, size=100, filename="pwned"), "--allow=qmp"),
    "migrate": (qmp("migrate", uri=TOUCH), "--allow=qmp"),
    "screendump": (qmp("screendump", filename="pwned"), "--allow=qmp"),
    "dump": (qmp("dump-guest-memory", paging=False, protocol="file:pwned"), "--allow=qmp"),
    "chardev": (qmp("chardev-add", id="x", backend={"type": "file"}), "--allow=qmp"),
    "netdev": (qmp("netdev_add", type="tap", id="x", script="/bin/true"), "--allow=qmp"),
    "device": (qmp("device_add", driver="loader", file="/etc/passwd"), "--allow=qmp"),
    "object": (qmp("object-add", qom_type="filter-dump", id="x", file="pwned"), "--allow=qmp"),
    "question-with-arguments": (qmp("query-status", x=1), "--allow=qmp"),
    "monitor-pmemsave": (monitor("pmemsave 0 100 pwned"), "--allow=qmp"),
    "monitor-two-lines": (monitor("info status\npmemsave 0 100 pwned"), "--allow=qmp"),
    "monitor-log": (monitor("logfile pwned"), "--allow=qmp"),
    "monitor-gdb": (monitor("gdbserver tcp::1234"), "--allow=qmp"),
    "monitor-port-for-all": (monitor("hostfwd_add net0 tcp:0.0.0.0:80-:80"), "--allow=qmp"),
    "monitor-arguments": (
        qmp("human-monitor-command", command_line="info status", cpu_index=1),
        "--allow=qmp",
    ),
    "keys": (qmp("send-key", keys=[{"type": "qcode", "data": "a\n"}]), "--allow=qmp"),
    "qmp-name": (qmp("quit\r\n{}"), "qmp"),
    "qmp-arguments": (lambda made: made.acts.append({"at_s": 1, "qmp": "quit"}), "arguments"),
    # Numbers and forms
    "signal": (lambda made: made.acts.append({"at_s": 1, "signal": 10**6}), "signal"),
    "wait-for-ever": (act(at_s=1e9), "at_s"),
    "timeout-for-ever": (act(timeout_s=1e300), "timeout_s"),
    "too-many-arguments": (act(steps=[{"call": "read", "args": [0] * 9}]), "steps[0].args"),
    "argument-of-64-bits": (act(steps=[{"call": "read", "args": [1 << 40]}]), "steps[0].args"),
    "unknown-call": (act(steps=[{"call": "nosuch", "args": []}]), "'nosuch'"),
    "too-large-a-batch": (act(space_bytes=1 << 30), "space_bytes"),
    "bytes-that-are-none": (act(data={"base64": "!"}), "data"),
    "results-that-are-none": (act(results="x"), "results"),
    "no-such-field": (act(also=1), "also"),
    "not-a-number": (line('{"at_s": NaN, "typed": ""}'), "NaN"),
    "infinite": (line('{"at_s": 1e999, "typed": ""}'), "at_s"),
    "digits": (line('{"at_s": %s, "typed": ""}' % ("9" * 6000)), "journal.jsonl:2"),
    "deep": (line("[" * 100_000), "journal.jsonl:2"),
    "twice": (line('{"at_s": 1, "at_s": 2, "typed": ""}'), "twice"),
    "empty-line": (line(""), "journal.jsonl:2"),
    "verdict": (put("about", "verdict", value="\x1b[31mred"), "verdict"),
    "time": (put("about", "at", value="\x1b]0;x\x07"), "at"),
    "label": (put("guest", "label", value="a\x1b[2Jb"), "label"),
    "limits": (put("guest", "limits", "boot_s", value=float("inf")), "guest.json"),
    "abi": (put("guest", "abi", "syscalls", value={"read": 1 << 70}), "abi.syscalls.read"),
    "old-format": (put("about", "format", value=1), "another version"),
    "about-is-a-list": (lambda made: setattr(made, "about", []), "bundle.json"),
}


@pytest.mark.parametrize("name", CASES)
def test_hostile_notes_are_refused(scratch: Scratch, name: str) -> None:
    change, says = CASES[name]
    made = draft()
    change(made)
    write_bundle(scratch.inside / "b", made)
    refused(scratch, "replay", "--fast", "b", says=says)


def replaced(relative: str, make: Callable[[Path], object]) -> Callable[[Path], None]:
    def change(bundle: Path) -> None:
        path = bundle / relative
        shutil.rmtree(path) if path.is_dir() else path.unlink(missing_ok=True)
        make(path)

    return change


def link_to(target: str) -> Callable[[Path], object]:
    return lambda path: path.symlink_to(target)


def sparse(size: int) -> Callable[[Path], object]:
    def make(path: Path) -> None:
        with path.open("wb") as file:
            file.truncate(size)

    return make


FILES: dict[str, Callable[[Path], None]] = {
    "image-is-a-link": replaced("guest-0/image", link_to("/etc/passwd")),
    "image-is-a-fifo": replaced("guest-0/image", os.mkfifo),
    "image-is-endless": replaced("guest-0/image", link_to("/dev/zero")),
    "note-is-a-fifo": replaced("guest-0/guest.json", os.mkfifo),
    "note-is-endless": replaced("guest-0/guest.json", link_to("/dev/zero")),
    "note-is-large": replaced("guest-0/guest.json", sparse(1 << 30)),
    "note-is-gone": replaced("guest-0/guest.json", lambda _path: None),
    "note-is-no-text": replaced("guest-0/guest.json", lambda path: path.write_bytes(b"\xff\0")),
    "note-is-deep": replaced("guest-0/guest.json", lambda path: path.write_text("[" * 10**6)),
    "about-is-large": replaced("bundle.json", sparse(1 << 30)),
    "journal-is-a-fifo": replaced("guest-0/journal.jsonl", os.mkfifo),
    "journal-is-gone": replaced("guest-0/journal.jsonl", lambda _path: None),
    "journal-has-one-line": replaced("guest-0/journal.jsonl", sparse(1 << 30)),
    "guest-is-a-link": replaced("guest-0", link_to("../../outside")),
    "console-is-a-link": replaced("guest-0/console.log", link_to("../../../outside/canary")),
    "socket": replaced("guest-0/s", lambda path: os.mknod(path, 0o140644)),
}


@pytest.mark.parametrize("verb", ["replay", "export"])
@pytest.mark.parametrize("name", FILES)
def test_hostile_files_are_refused(scratch: Scratch, name: str, verb: str) -> None:
    bundle = write_bundle(scratch.inside / "b", draft())
    FILES[name](bundle)
    more = ["out.tar.gz"] if verb == "export" else []
    if verb == "export" and name.startswith(("journal-is-gone", "journal-has")):
        pytest.skip("export does not read journals")
    refused(scratch, verb, "b", *more, says="b")


def test_attach_refuses_a_memory_of_another_size(scratch: Scratch) -> None:
    made = draft()
    made.guest["left"] = {
        **dict.fromkeys(("request_id", "boot_id", "clock_offset_s", "taint"), 0),
        "console_ages_s": [],
    }
    bundle = write_bundle(scratch.inside / "b", made)
    (bundle / "guest-0/left").mkdir()
    (bundle / "guest-0/left/memory").symlink_to(scratch.canary)
    refused(scratch, "attach", "b", says="a symbolic link")
    (bundle / "guest-0/left/memory").unlink()
    (bundle / "guest-0/left/memory").write_bytes(b"short")
    refused(scratch, "attach", "b", says="128 MiB")


@pytest.mark.parametrize("name", ["..", ".", "../outside", "link", "/etc", "-x", ""])
def test_kept_removes_bundles_alone(scratch: Scratch, name: str) -> None:
    kind = scratch.store / "failures"
    write_bundle(kind / "good", draft())
    (kind / "link").symlink_to(scratch.outside)
    (scratch.store / "bundle.json").write_text("{}")
    before = sorted(scratch.store.rglob("*"))
    done = scratch.kernelvm("kept", "--end", f"--{name}" if name == "-x" else name)
    assert done.status == 2
    assert sorted(scratch.store.rglob("*")) == before
    assert scratch.canary.read_text() == "canary\n"
    assert [line.split()[0] for line in scratch.kernelvm("kept").stdout.splitlines()] == ["good"]


def test_kept_shows_no_escape_sequences(scratch: Scratch) -> None:
    made = draft()
    made.about["test"] = "test_it.py::test\x1b[2J\r\n\u202eit"
    write_bundle(scratch.store / "failures/good", made)
    shown = scratch.kernelvm("kept").stdout
    assert len(shown.splitlines()) == 1
    assert shown.rstrip("\n").isprintable()


# Archives of bundles


def member(name: str, kind: bytes = tarfile.REGTYPE, **more: object) -> tarfile.TarInfo:
    info = tarfile.TarInfo(name)
    info.type = kind
    for key, value in more.items():
        setattr(info, key, value)
    return info


MEMBERS: dict[str, tarfile.TarInfo] = {
    "link": member("./guest-0/initramfs", tarfile.SYMTYPE, linkname="/etc/passwd"),
    "link-inside": member("./guest-0/x", tarfile.SYMTYPE, linkname="image"),
    "hard-link": member("./guest-0/x", tarfile.LNKTYPE, linkname="guest-0/image"),
    "hard-link-out": member("./x", tarfile.LNKTYPE, linkname="../../outside/canary"),
    "fifo": member("./guest-0/x", tarfile.FIFOTYPE),
    "device": member("./guest-0/x", tarfile.CHRTYPE, devmajor=1, devminor=3),
    "up": member("../../outside/pwned"),
    "up-inside": member("./guest-0/../../../pwned"),
    "absolute": member("/tmp/pwned"),
    "newline": member("./a\nb"),
    "escape": member("./a\x1b[2J"),
    "twice": member("./bundle.json"),
    "file-as-directory": member("./bundle.json/x"),
    "directory-as-file": member("./guest-0"),
    "long": member("./" + "a" * 300),
    "deep": member("./" + "a/" * 300 + "b"),
}


@pytest.mark.parametrize("name", MEMBERS)
def test_hostile_archives_are_refused(scratch: Scratch, name: str) -> None:
    bundle = write_bundle(scratch.root / "made", draft())
    with tarfile.open(scratch.inside / "b.tar.gz", "w:gz") as archive:
        archive.add(bundle, arcname=".")
        archive.addfile(MEMBERS[name])
    shutil.rmtree(bundle)
    refused(scratch, "replay", "b.tar.gz", says="b.tar.gz")


def test_an_archive_of_holes(scratch: Scratch) -> None:
    """A file of a terabyte takes nothing in an archive, and nothing on the disk."""
    sparse(1 << 40)(scratch.root / "hole")
    argv = ["tar", "--sparse", "--create", "--gzip", f"--file={scratch.inside / 'b.tar.gz'}"]
    run([*argv, f"--directory={scratch.root}", "hole"], timeout_s=60)
    (scratch.root / "hole").unlink()
    refused(scratch, "replay", "b.tar.gz", says="GiB")


def test_an_archive_of_zeros(scratch: Scratch) -> None:
    find_program("gzip")
    sparse(300 << 20)(scratch.root / "zeros")
    argv = ["tar", "--create", "--gzip", f"--file={scratch.inside / 'b.tar.gz'}"]
    run([*argv, f"--directory={scratch.root}", "zeros"], timeout_s=120)
    (scratch.root / "zeros").unlink()
    refused(scratch, "replay", "b.tar.gz", says="compressed")


@pytest.mark.parametrize("end", [".tar", ".tar.gz"])
def test_an_exported_bundle_is_the_same(scratch: Scratch, end: str) -> None:
    bundle = write_bundle(scratch.inside / "b", draft())
    (bundle / "guest-0/left").mkdir()
    sparse(3 << 20)(bundle / "guest-0/left/memory")
    with (bundle / "guest-0/left/memory").open("r+b") as file:
        for place in (4096, 1 << 20, (3 << 20) - 5):
            file.seek(place)
            file.write(b"there")
    assert scratch.kernelvm("export", "b", f"x{end}").status == 0
    assert scratch.kernelvm("replay", f"x{end}").status == 12
    assert json.loads((bundle / "bundle.json").read_text())["format"] == 2
    unpacked = scratch.root / "unpacked"
    unpack_here(scratch.inside / f"x{end}", unpacked)
    for path in bundle.rglob("*"):
        if path.is_file():
            assert (unpacked / path.relative_to(bundle)).read_bytes() == path.read_bytes()
    memory = unpacked / "guest-0/left/memory"
    assert memory.stat().st_blocks * 512 < memory.stat().st_size / 2


def unpack_here(file: Path, directory: Path) -> None:
    from pytest_kernelvm.failures.bundle_files import RULES
    from pytest_kernelvm.fetch.tarball import unpack_tarball
    from pytest_kernelvm.foreign.archive_rules import UnpackOptions

    unpack_tarball(file, directory, UnpackOptions(what=str(file), rules=RULES))
