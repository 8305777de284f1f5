"""A real HTTP server on this machine whose transfers can be made to break."""

from __future__ import annotations

import contextlib
import http.server
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path


@dataclass
class Served:
    """What a server does and was asked.

    cut: after how many bytes each of the next answers breaks off. statuses: what the next requests
    are refused with. ranges: whether it honours the header Range. asked: (method, path, Range).
    """

    directory: Path
    url: str = ""
    cut: list[int] = field(default_factory=list)
    statuses: list[int] = field(default_factory=list)
    ranges: bool = True
    asked: list[tuple[str, str, str]] = field(default_factory=list)


@contextlib.contextmanager
def serving(directory: Path) -> Iterator[Served]:
    """Serve a directory on a free port."""
    served = Served(directory)

    class Answers(http.server.BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self) -> None:
            given = self.headers.get("Range") or ""
            served.asked.append((self.command, self.path, given))
            self.close_connection = True
            path = directory / self.path.lstrip("/")
            if served.statuses or not path.is_file():
                self.send_error(served.statuses.pop(0) if served.statuses else 404)
                return
            content = path.read_bytes()
            start = 0
            if given and served.ranges:
                start = int(given.removeprefix("bytes=").partition("-")[0])
                if start >= len(content):
                    self.send_response(416)
                    self.send_header("Content-Range", f"bytes */{len(content)}")
                    self.send_header("Content-Length", "0")
                    self.end_headers()
                    return
            self.send_response(206 if start else 200)
            self.send_header("Content-Length", str(len(content) - start))
            if start:
                span = f"bytes {start}-{len(content) - 1}/{len(content)}"
                self.send_header("Content-Range", span)
            self.end_headers()
            if self.command == "HEAD":
                return
            answer = content[start:]
            self.wfile.write(answer[: served.cut.pop(0)] if served.cut else answer)

        do_HEAD = do_GET  # noqa: N815

        def log_message(self, format: str, *args: object) -> None:
            """Say nothing."""

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Answers) as server:
        served.url = f"http://127.0.0.1:{server.server_address[1]}"
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        try:
            yield served
        finally:
            server.shutdown()
            thread.join()
