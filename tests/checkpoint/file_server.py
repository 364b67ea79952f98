"""A local web server that serves files like publishers' servers, and simulates network failures."""

import contextlib
import hashlib
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer


@dataclass
class Served:
    """A served file and its failures.

    `cuts` are the numbers of bytes after which the next responses end; `shift` offsets the returned parts from the
    requested ones; `gate` blocks responses until it is set.
    """

    content: bytes
    etag: str | None = None
    modified: str | None = None
    status: int = 200
    content_type: str = "application/octet-stream"
    ranges: bool = True
    shift: int = 0
    cuts: list[int] = field(default_factory=list)
    gate: threading.Event | None = None


@dataclass
class FileServer:
    """The address, the files by path, and the `Range` of each request (None for a whole file)."""

    url: str
    files: dict[str, Served] = field(default_factory=dict)
    requests: list[tuple[str, str | None]] = field(default_factory=list)

    def add(self, name: str, content: bytes, **settings) -> str:
        """Serve a file, with its hash as ETag unless the settings override it; returns its address."""
        settings.setdefault("etag", f'"{hashlib.sha256(content).hexdigest()}"')
        self.files[f"/{name}"] = Served(content, **settings)
        return f"{self.url}/{name}"


@contextlib.contextmanager
def file_server() -> Iterator[FileServer]:
    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            requested = self.headers.get("Range")
            served.requests.append((self.path, requested))
            file = served.files.get(self.path)
            if file is None or file.status != 200:
                self.send_error(404 if file is None else file.status)
                return
            if file.gate is not None:
                file.gate.wait(30)
            begin = 0
            current = self.headers.get("If-Range") in (file.etag, file.modified)
            if requested and file.ranges and current:
                begin = int(requested.removeprefix("bytes=").removesuffix("-")) + file.shift
                if begin >= len(file.content):
                    self.send_error(416)
                    return
            body = file.content[begin:]
            self.send_response(206 if begin else 200)
            self.send_header("Content-Type", file.content_type)
            self.send_header("Content-Length", str(len(body)))
            if begin:
                self.send_header("Content-Range", f"bytes {begin}-{len(file.content) - 1}/{len(file.content)}")
            for name, value in (("ETag", file.etag), ("Last-Modified", file.modified)):
                if value is not None:
                    self.send_header(name, value)
            self.end_headers()
            self.wfile.write(body[: file.cuts.pop(0)] if file.cuts else body)

        def log_message(self, format: str, *args: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    served = FileServer(f"http://127.0.0.1:{server.server_port}")
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True)
    thread.start()
    try:
        yield served
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
