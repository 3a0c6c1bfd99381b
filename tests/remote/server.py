"""A server on this machine that serves a folder, and may be slow, drop connections, answer 503 or know no ranges."""

from __future__ import annotations

import hashlib
import re
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import unquote, urlsplit


@dataclass
class Server:
    """What it serves, how badly, and what it was asked.

    Attributes:
        fails: every so many requests are answered with 503; 0: none.
        drops: every so many answers end in the middle; 0: none.
        delay: seconds before each answer.
        rate: bytes a second of each answer; 0: as fast as it goes.
        token: must be in the query, or the answer is 403.
        down: every answer is 503.
    """

    folder: Path
    ranges: bool = True
    fails: int = 0
    drops: int = 0
    delay: float = 0.0
    rate: float = 0.0
    token: str = ""
    down: bool = False
    url: str = ""
    requests: list[tuple[str, str, int]] = field(default_factory=list)
    """(method, path, status)."""
    dropped: int = 0
    sent: int = 0
    lock: threading.Lock = field(default_factory=threading.Lock)

    def count(self, status: int, method: str = "") -> int:
        return sum(asked == status and kind.startswith(method) for kind, _, asked in self.requests)


@contextmanager
def serving(folder: Path, **how: object) -> Iterator[Server]:
    server = Server(folder, **how)  # type: ignore[arg-type]

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_HEAD(self) -> None:
            self.answer(False)

        def do_GET(self) -> None:
            self.answer(True)

        def answer(self, body: bool) -> None:
            time.sleep(server.delay)
            parts = urlsplit(self.path)
            file = server.folder / unquote(parts.path).strip("/")
            with server.lock:
                number = len(server.requests) + 1
                status = 200
                if server.down or (server.fails and number % server.fails == 0):
                    status = 503
                elif server.token and server.token not in parts.query:
                    status = 403
                elif not file.exists():
                    status = 404
                wanted = self.headers.get("Range") if server.ranges else None
                if status == 200 and wanted:
                    status = 206
                server.requests.append((self.command, parts.path, status))
                drop = body and status in (200, 206) and server.drops and number % server.drops == 0
                server.dropped += bool(drop)
            if status >= 400:
                self.send_response(status)
                self.send_header("Content-Length", "0")
                self.end_headers()
                return
            if file.is_dir():
                data = "".join(f'<a href="{each.name}">x</a>' for each in sorted(file.iterdir())).encode()
            else:
                data = file.read_bytes()
            start, end = 0, len(data)
            self.send_response(status)
            if status == 206:
                first, last = re.fullmatch(r"bytes=(\d+)-(\d*)", str(wanted)).groups()  # type: ignore[union-attr]
                start, end = int(first), min(int(last or end) + 1, end)
                self.send_header("Content-Range", f"bytes {start}-{end - 1}/{len(data)}")
            self.send_header("ETag", f'"{hashlib.sha1(data).hexdigest()}"')
            self.send_header("Content-Type", "text/html" if file.is_dir() else "application/octet-stream")
            self.send_header("Content-Length", str(end - start))
            self.end_headers()
            if body:
                part = data[start:end]
                time.sleep(len(part) / server.rate if server.rate else 0)
                with suppress(ConnectionError):  # a client without ranges goes when it has what it wants
                    self.wfile.write(part[: len(part) // 2] if drop else part)
                server.sent += len(part)
                self.close_connection = bool(drop)

        def log_message(self, *_: object) -> None:
            pass

    http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    http.daemon_threads = True
    server.url = f"http://127.0.0.1:{http.server_address[1]}"
    thread = threading.Thread(target=http.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
    thread.start()
    try:
        yield server
    finally:
        http.shutdown()
        http.server_close()
