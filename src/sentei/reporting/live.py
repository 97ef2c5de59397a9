"""Serve the page of a run on this machine's loopback address while the run goes on.

The server reads the run's folder, as a process of its own: the run's random numbers and times stay
what they are. Only the standard library is used, and torch is imported when a page is asked for.
"""

from __future__ import annotations

import html
import json
import time
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Lock

from sentei.errors import PruningError

HOST = "127.0.0.1"
REST = 4  # a new page is built at most after this many times as long as the last one took
WAITING = "The run has not finished its first step."

Build = Callable[[], bytes]  # makes the page of the steps so far


def waiting(why: str) -> bytes:
    """Return a page that says why there is no page of the run, and is loaded again and again."""
    head = '<meta charset="utf-8"><meta http-equiv="refresh" content="2"><title>sentei</title>'
    words = f"<p>{html.escape(why)}</p><p>This page looks again every two seconds.</p>"
    return f'<!doctype html><html lang="en">{head}{words}</html>'.encode()


class Pages:
    """The newest page of a run, built once for all readers.

    Args:
        folder: the run's folder; it need not exist yet.
        build: makes the page.
    """

    def __init__(self, folder: Path, build: Build):
        self.folder, self.build = folder, build
        self._lock = Lock()
        self._shown, self._page, self._free_at = 0, waiting(WAITING), 0.0

    def steps(self) -> int:
        """Return how many complete steps the folder has, that of the untouched network included."""
        return sum(1 for _ in (self.folder / "steps").glob("*.safetensors"))

    def newest(self) -> bytes:
        """Return the page of the steps so far; an older one if that was built a moment ago."""
        with self._lock:
            now = time.monotonic()
            steps = self.steps()
            if steps > self._shown and now >= self._free_at:
                try:
                    self._page, self._shown = self.build(), steps
                except PruningError as error:  # the run is writing a step; or no page can be made
                    if not self._shown:
                        self._page = waiting(f"There is no page of this run yet: {error}")
                ready = time.monotonic()
                self._free_at = ready + REST * (ready - now)
            return self._page

    def to_show(self) -> int:
        """Return the number of steps that a reader would see now."""
        return self.steps() if time.monotonic() >= self._free_at else self._shown


def server(pages: Pages, port: int = 0) -> ThreadingHTTPServer:
    """Return a server of the pages at `HOST`; `serve_forever()` starts it.

    Args:
        pages: what is served.
        port: the port; any free one if 0.

    Raises:
        OSError: the port is taken.
    """

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            mine = {f"{name}:{made.server_port}" for name in (HOST, "localhost")}
            if self.headers.get("Host") not in mine:  # another site's name that leads here
                self._answer(403, "text/plain", b"This page is for this machine alone.")
            elif self.path == "/":
                self._answer(200, "text/html; charset=utf-8", pages.newest())
            elif self.path == "/steps":
                self._answer(200, "application/json", json.dumps(pages.to_show()).encode())
            else:
                self._answer(404, "text/plain", b"There is one page: /")

        def _answer(self, code: int, kind: str, body: bytes) -> None:
            self.send_response(code)
            self.send_header("Content-Type", kind)
            self.send_header("Content-Length", str(len(body)))
            self.send_header("Cache-Control", "no-store")
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, format: str, *args: object) -> None:
            """Print nothing: the terminal shows the run."""

    made = ThreadingHTTPServer((HOST, port), Handler)
    made.daemon_threads = True
    return made
