"""The fake guest's agent: it answers the protocol of pytest_kernelvm/guest/c/agent.c."""

from __future__ import annotations

import errno
import os
import signal
import struct
from collections.abc import Callable

from pytest_kernelvm.guest.frames import FrameSplitter, encode_frame
from pytest_kernelvm.guest.protocol import (
    HELLO_ID,
    MEMORY_BYTES,
    NOT_MADE,
    NR_LOG,
    NR_RUN,
    NR_TAINT,
    PROTOCOL_VERSION,
)
from tests.fake_qemu.kernel import SYSCALLS, FakeKernel, text_at

ALWAYS = 1
OUT_RESULT = 0x8000
RESULT = 2
BOOT_ID = 77
# What a guest does when this is written to: acts, one a line.
ACTS_FILE = "/acts"
# The program that does the acts that its arguments are.
ACTS_PROGRAM = "/bin/act"
NAMES = {number: name for name, number in SYSCALLS.items()}


class FakeProgram:
    """What runs in the fake guest: acts may say how it ends."""

    def __init__(self) -> None:
        self.output = b""
        self.errors = b""
        self.status = 0
        self.runs_on = False


class FakeAgent:
    """Answers requests.

    act: does one act. reboot: makes the system call reboot(2) with a command.
    """

    def __init__(
        self,
        kernel: FakeKernel,
        incoming: int,
        outgoing: int,
        act: Callable[[str], None],
        reboot: Callable[[int], None],
    ) -> None:
        self.kernel = kernel
        self.program = FakeProgram()
        self.is_mute = False
        self.is_damaging = False
        self.is_talking_nonsense = False
        self.boot_id = BOOT_ID
        self.version = PROTOCOL_VERSION
        self._incoming = incoming
        self._outgoing = outgoing
        self._act = act
        self._reboot = reboot
        self._splitter = FrameSplitter("little")
        self._last_id = 0
        self._last_reply = b""

    def hello(self) -> None:
        """Say that the guest is ready."""
        self._send(struct.pack("<IIII", HELLO_ID, 2, self.version, self.boot_id))

    def _send(self, payload: bytes) -> None:
        if self.is_mute:
            return
        if self.is_talking_nonsense:
            payload = payload[:4] + b"\xff" * 4
        frame = encode_frame(payload, "little")
        if self.is_damaging:
            self.is_damaging = False
            frame = frame[:1] + bytes([frame[1] ^ 1]) + frame[2:]
        os.write(self._outgoing, frame)

    def serve(self) -> None:
        """Answer until nobody asks any more."""
        while payloads := self._receive():
            for payload in payloads:
                self._answer(payload)

    def _receive(self) -> list[bytes]:
        """Return the next requests; nothing at the end."""
        while data := os.read(self._incoming, 65536):
            if payloads := self._splitter.feed(data)[0]:
                return payloads
        return []

    def _answer(self, payload: bytes) -> None:
        request_id, count, _start = struct.unpack_from("<IHH", payload)
        if request_id == HELLO_ID:
            self.hello()
        elif request_id == self._last_id:
            self._send(self._last_reply)
        else:
            self._last_id = request_id
            self._last_reply = self._made(payload, request_id, count)
            self._send(self._last_reply)

    def _made(self, payload: bytes, request_id: int, count: int) -> bytes:
        """Make the steps of a request; return the reply."""
        start = struct.unpack_from("<H", payload, 6)[0]
        memory = bytearray(payload[start:].ljust(MEMORY_BYTES, b"\0"))
        results: list[int] = []
        outputs = b""
        at, failed = 8, False
        for _step in range(count):
            number, flags, given, kinds, out = struct.unpack_from("<HBBHH", payload, at)
            args = list(struct.unpack_from(f"<{given}i", payload, at + 8))
            at += 8 + 4 * given
            if failed and not flags & ALWAYS:
                results.append(NOT_MADE)
                continue
            for place in range(given):
                if kinds >> 2 * place & 3 == RESULT:
                    args[place] = results[args[place]]
            result = self._step(number, args, memory)
            results.append(result)
            failed = failed or result < 0
            if out and result >= 0:
                length = result if out & OUT_RESULT else out & 0xFFF
                where = args[out >> 12 & 7]
                outputs += memory[where : where + length]
        return struct.pack(f"<II{count}i", request_id, count, *results) + outputs

    def _step(self, number: int, args: list[int], memory: bytearray) -> int:
        if number == NR_RUN:
            return self._run(args, memory)
        if number == NR_LOG:
            return self._log(args, memory)
        if number == NR_TAINT:
            raw = f"{self.kernel.taint}\n".encode()
            memory[args[0] : args[0] + len(raw)] = raw
            return len(raw)
        name = NAMES.get(number)
        if name is None:
            return -errno.ENOSYS
        if name == "reboot" and name not in self.kernel.refused:
            self._reboot(args[2])
            return 0
        result = self.kernel.call(name, args, memory)
        if name == "write" and result > 0 and ACTS_FILE in self.kernel.files:
            for act in self.kernel.files.pop(ACTS_FILE).decode().splitlines():
                self._act(act)
        return result

    def _log(self, args: list[int], memory: bytearray) -> int:
        mark = bytes(memory[args[2] : args[2] + args[3]])
        result, raw = self.kernel.read_log(mark, anew=bool(args[4]))
        memory[args[0] : args[0] + len(raw)] = raw
        return result

    def _run(self, args: list[int], memory: bytearray) -> int:
        if text_at(memory, args[0]) != ACTS_PROGRAM:
            return -errno.ENOENT
        words, at = [], args[1]
        for _word in range(args[2]):
            words.append(text_at(memory, at))
            at += len(words[-1].encode()) + 1
        self.program = program = FakeProgram()
        for act in words[1:]:
            self._act(act)
        if program.runs_on:
            self._await_cancel()
            program.status = signal.SIGKILL
        self.kernel.append(args[4], program.output)
        self.kernel.append(args[5], program.errors)
        return program.status

    def _await_cancel(self) -> None:
        """Wait for a request without a step, which kills the program; answer those for the log."""
        while True:
            for payload in self._receive():
                request_id, count, _start = struct.unpack_from("<IHH", payload)
                if count == 0:
                    return
                if count == 1 and struct.unpack_from("<H", payload, 8)[0] == NR_LOG:
                    self._send(self._made(payload, request_id, count))
