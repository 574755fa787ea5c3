"""Stand between s3fs and the S3 server of the tests, and spoil some of the answers to reads of objects."""

import http.client
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import urlsplit

PAGE = b"<html><body>Please log in to the network of this hotel</body></html>"


class FaultyServer(ThreadingHTTPServer):
    """A proxy. ``faults`` are those of the next reads whose path contains ``of``. All else is forwarded."""

    daemon_threads = True

    def __init__(self, target: str) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.target = urlsplit(target).netloc
        self.faults: list[str] = []
        self.of = ""
        self.num_spoiled = 0

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}"


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: FaultyServer

    def _serve(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        connection = http.client.HTTPConnection(self.server.target)
        connection.request(self.command, self.path, body, dict(self.headers.items()))
        answer = connection.getresponse()
        data = answer.read()
        status, headers = answer.status, [(n, v) for n, v in answer.getheaders() if n not in ("Connection", "Date")]
        fault = ""
        if self.command in ("GET", "HEAD") and self.server.of and self.server.of in self.path and self.server.faults:
            fault = self.server.faults.pop(0)
            self.server.num_spoiled += 1
        if fault in ("500", "503", "404"):
            status, data, headers = int(fault), b"", []
        elif fault == "html":
            status, data, headers = 200, PAGE, [("Content-Type", "text/html")]
        elif fault == "flipped" and data:
            data = data[:-1] + bytes([data[-1] ^ 1])
        self.send_response(status)
        for name, value in headers:
            if name != "Content-Length":
                self.send_header(name, value)
        length = next((v for n, v in headers if n == "Content-Length"), str(len(data)))
        self.send_header("Content-Length", length if self.command == "HEAD" and not fault else str(len(data)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(data[: len(data) // 2] if fault == "reset" else data)
        if fault == "reset":
            self.close_connection = True
            self.connection.shutdown(2)

    do_GET = do_HEAD = do_PUT = do_POST = do_DELETE = _serve  # noqa: N815  names of http.server

    def log_message(self, *args: object) -> None:
        pass


@contextmanager
def faulty_server(target: str) -> Iterator[FaultyServer]:
    server = FaultyServer(target)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield server
    finally:
        server.shutdown()
        server.server_close()
