"""The fake QEMU's monitor (docs/interop/qmp-spec.rst of QEMU)."""

from __future__ import annotations

import array
import json
import os
import socket
import threading
from collections.abc import Callable, Mapping
from typing import Any

Command = Callable[[dict[str, Any]], Any]

VERSION = {"qemu": {"major": 7, "minor": 2, "micro": 0}, "package": ""}
STAMP = {"seconds": 1, "microseconds": 0}


def do_nothing(_arguments: dict[str, Any]) -> dict[str, Any]:
    """Be a command that succeeds."""
    return {}


class FakeQmp:
    """Answers commands in a thread of its own.

    commands: what is done for some of them; the others return nothing and do nothing.
    refused: the commands that fail from now on.
    """

    def __init__(self, descriptor: int, commands: Mapping[str, Command]) -> None:
        self.refused: set[str] = set()
        self.received: list[int] = []
        self._socket = socket.socket(fileno=descriptor)
        self._commands = commands
        self._lock = threading.Lock()
        self._is_negotiated = threading.Event()

    def start(self) -> None:
        """Begin to answer."""
        self._say({"QMP": {"version": VERSION, "capabilities": []}})
        threading.Thread(target=self._serve, daemon=True).start()

    def event(self, name: str, **data: Any) -> None:
        """Tell of something; as QEMU does, not before somebody listens."""
        self._is_negotiated.wait(10)
        self._say({"event": name, "data": data, "timestamp": STAMP})

    def _say(self, message: dict[str, Any]) -> None:
        with self._lock:
            self._socket.sendall(json.dumps(message).encode() + b"\r\n")

    def _serve(self) -> None:
        buffered = b""
        decoder = json.JSONDecoder()
        while data := self._receive():
            buffered += data
            while text := buffered.decode().lstrip():
                try:
                    command, end = decoder.raw_decode(text)
                except ValueError:
                    break
                buffered = text[end:].encode()
                self._answer(command)

    def _receive(self) -> bytes:
        """Return what has come; descriptors that come along are kept."""
        room = socket.CMSG_LEN(array.array("i").itemsize)
        data, ancillary, _flags, _address = self._socket.recvmsg(65536, room)
        for _level, _kind, raw in ancillary:
            self.received += array.array("i", raw[: len(raw) - len(raw) % 4])
        return data

    def _answer(self, command: dict[str, Any]) -> None:
        name = command["execute"]
        answer: dict[str, Any]
        if name in self.refused:
            answer = {"error": {"class": "GenericError", "desc": f"{name} is refused"}}
        else:
            do: Command = self._commands.get(name, do_nothing)
            answer = {"return": do(command.get("arguments", {}))}
        if "id" in command:
            answer["id"] = command["id"]
        self._say(answer)
        if name == "qmp_capabilities":
            self._is_negotiated.set()
        if name == "quit":
            os._exit(0)
