"""An S3 server that misbehaves by script: a proxy in front of the real one."""

from __future__ import annotations

import http.client
import threading
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Literal
from urllib.parse import urlsplit

Fault = Literal["500", "503", "hang", "cut", "refuse"]
"""`500` and `503`: S3's own answers for its troubles; `hang`: no answer at all; `cut`: half a body, and the connection
ends; `refuse`: access denied."""

_DENIED = b"<?xml version='1.0'?><Error><Code>AccessDenied</Code><Message>Access Denied</Message></Error>"
_TROUBLE = b"<?xml version='1.0'?><Error><Code>%s</Code><Message>We encountered an error.</Message></Error>"


class FaultyS3:
    """Passes requests on to `target`, save where `fault(method, path)` names a fault.

    Attributes:
        seen: (method, path) of every request.
    """

    def __init__(self, target: str) -> None:
        self.fault: Callable[[str, str], Fault | None] = lambda _method, _path: None
        self.seen: list[tuple[str, str]] = []
        self._released = threading.Event()
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), self._handler(urlsplit(target).netloc))
        self._server.daemon_threads = True
        threading.Thread(target=self._server.serve_forever, daemon=True).start()

    @property
    def address(self) -> str:
        """Where it listens."""
        return f"http://127.0.0.1:{self._server.server_address[1]}"

    def close(self) -> None:
        """End it, and whatever hangs."""
        self._released.set()
        self._server.shutdown()
        self._server.server_close()

    def _handler(self, target: str) -> type[BaseHTTPRequestHandler]:
        proxy = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def _pass_on(self) -> None:
                body = self._body()
                proxy.seen.append((self.command, self.path))
                fault = proxy.fault(self.command, self.path)
                if fault == "hang":
                    proxy._released.wait()
                    self.close_connection = True
                    return
                if fault in ("500", "503", "refuse"):
                    codes = {"500": b"InternalError", "503": b"SlowDown"}
                    content = _DENIED if fault == "refuse" else _TROUBLE % codes[fault]
                    self._answer(403 if fault == "refuse" else int(fault), [], content)
                    return
                connection = http.client.HTTPConnection(target, timeout=30)
                # The signature covers the address that the client knows.
                connection.putrequest(self.command, self.path, skip_host=True, skip_accept_encoding=True)
                for name, value in self.headers.items():
                    if name.lower() not in ("transfer-encoding", "content-length"):
                        connection.putheader(name, value)
                connection.putheader("Content-Length", str(len(body)))
                connection.endheaders(body)
                reply = connection.getresponse()
                content = reply.read()
                headers = [(name, value) for name, value in reply.getheaders() if name.lower() not in _HOP]
                self._answer(reply.status, headers, content, cut=fault == "cut")
                connection.close()

            def _body(self) -> bytes:
                if self.headers.get("Transfer-Encoding", "").lower() != "chunked":
                    return self.rfile.read(int(self.headers.get("Content-Length") or 0))
                body = b""
                while size := int(self.rfile.readline().split(b";")[0], 16):
                    body += self.rfile.read(size)
                    self.rfile.readline()
                while self.rfile.readline().strip():
                    pass  # trailers
                return body

            def _answer(self, status: int, headers: list[tuple[str, str]], content: bytes, cut: bool = False) -> None:
                self.send_response(status)
                for name, value in headers:
                    self.send_header(name, value)
                if not any(name.lower() == "content-length" for name, _ in headers):
                    self.send_header("Content-Length", str(len(content)))
                self.end_headers()
                if self.command != "HEAD":
                    self.wfile.write(content[: len(content) // 2] if cut else content)
                if cut:
                    self.close_connection = True

            do_GET = do_PUT = do_POST = do_HEAD = do_DELETE = _pass_on

            def log_message(self, *_words: object) -> None:
                """Say nothing."""

        return Handler


_HOP = {"connection", "transfer-encoding", "date", "server"}
