"""Drive a headless Chromium over its DevTools protocol, with the standard library alone."""

import base64
import contextlib
import json
import os
import shutil
import socket
import struct
import subprocess
import tempfile
import time
import urllib.request
from pathlib import Path

import pytest

PROGRAM = next(
    (found for name in ("chromium", "chromium-browser", "google-chrome", "chrome")
     if (found := shutil.which(name))),
    None,
)  # fmt: skip
NEEDED = pytest.mark.skipif(
    PROGRAM is None, reason="no Chromium here; `apt-get install chromium` brings one"
)
PATIENCE = 60


class Page:
    """A browser tab; it records the errors and the network requests of its page."""

    def __init__(self, address: str):
        self._socket = _opened(address)
        self._next = 0
        self.errors: list[str] = []
        self.requests: list[str] = []
        for domain in ("Page", "Runtime", "Log", "Network"):
            self.send(f"{domain}.enable")

    def send(self, method: str, **given):
        """Ask the browser for something and wait for its answer."""
        self._next += 1
        own = self._next
        _write(self._socket, json.dumps({"id": own, "method": method, "params": given}))
        while True:
            answer = json.loads(_read(self._socket))
            if answer.get("id") == own:
                assert "error" not in answer, (method, answer["error"])
                return answer["result"]
            self._note(answer)

    def _note(self, event):
        about = event.get("params", {})
        match event.get("method"):
            case "Runtime.exceptionThrown":
                self.errors.append(json.dumps(about["exceptionDetails"])[:600])
            case "Runtime.consoleAPICalled" if about["type"] in ("error", "warning"):
                self.errors.append(json.dumps(about["args"])[:600])
            case "Log.entryAdded" if about["entry"]["level"] in ("error", "warning"):
                self.errors.append(about["entry"]["text"])
            case "Network.requestWillBeSent":
                self.requests.append(about["request"]["url"])

    def close(self):
        """Close the connection to the browser."""
        self._socket.close()

    def open(self, path: Path | str, width=1280, height=900, dark=False, touch=False):
        """Show a file, or an address, at a size, and wait until it says that it is ready."""
        mode = {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": touch}
        self.send("Emulation.setDeviceMetricsOverride", **mode)
        theme = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
        self.send("Emulation.setEmulatedMedia", features=[theme])
        self.send("Page.navigate", url=path if isinstance(path, str) else path.resolve().as_uri())
        self.until("document.documentElement?.dataset.ready === 'yes'")

    def until(self, condition: str):
        end = time.monotonic() + PATIENCE
        while not self.ask(condition):
            assert time.monotonic() < end, (condition, self.errors)
            time.sleep(0.05)

    def ask(self, expression: str):
        """Return the value of a JavaScript expression."""
        found = self.send(
            "Runtime.evaluate", expression=expression, returnByValue=True, awaitPromise=True
        )
        assert "exceptionDetails" not in found, found["exceptionDetails"]
        return found["result"].get("value")

    def click(self, selector: str):
        self.ask(f"document.querySelector({json.dumps(selector)}).click()")

    def set(self, selector: str, value):
        """Move a slider or choose an option, as a person would."""
        self.ask(
            f"(() => {{ const e = document.querySelector({json.dumps(selector)});"
            f"e.value = {json.dumps(value)};"
            "for (const n of ['input', 'change']) e.dispatchEvent(new Event(n, {bubbles: true}));"
            "})()"
        )

    def box(self, selector: str) -> dict:
        self.ask(
            f"document.querySelector({json.dumps(selector)}).scrollIntoView({{block: 'center'}})"
        )
        return self.ask(
            f"document.querySelector({json.dumps(selector)}).getBoundingClientRect().toJSON()"
        )

    def drag(self, points):
        """Press the mouse at the first point, move it through the others, and release it."""
        for place, (x, y) in enumerate(points):
            kind = "mousePressed" if place == 0 else "mouseMoved"
            self._mouse(kind, x, y)
        self._mouse("mouseReleased", *points[-1])

    def _mouse(self, kind, x, y):
        held = {"button": "left", "buttons": 1, "clickCount": 1}
        self.send("Input.dispatchMouseEvent", type=kind, x=x, y=y, **held)

    def key(self, name: str):
        for kind in ("keyDown", "keyUp"):
            self.send("Input.dispatchKeyEvent", type=kind, key=name, code=name)

    def screenshot(self, path: Path, whole=True, clip=None):
        given = {"format": "png", "captureBeyondViewport": whole}
        if whole and clip is None:
            size = self.send("Page.getLayoutMetrics")["cssContentSize"]
            clip = {"x": 0, "y": 0, "width": size["width"], "height": size["height"], "scale": 1}
        if clip:
            given["clip"] = clip
        found = self.send("Page.captureScreenshot", **given)
        Path(path).write_bytes(base64.b64decode(found["data"]))


@contextlib.contextmanager
def chromium():
    """Start a new browser; close it at the end."""
    assert PROGRAM is not None
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as profile:
        command = [
            *(PROGRAM, "--headless", "--no-sandbox", "--disable-gpu", "--no-first-run"),
            *("--disable-dev-shm-usage", "--disable-background-networking", "--disable-sync"),
            *("--hide-scrollbars", "--remote-debugging-port=0", f"--user-data-dir={profile}"),
            "about:blank",
        ]
        quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
        child = subprocess.Popen(command, env={**os.environ, "HOME": profile}, **quiet)
        page = None
        try:
            page = Page(_address(Path(profile) / "DevToolsActivePort"))
            yield page
        finally:
            if page is not None:
                page.close()
            child.terminate()
            child.wait(30)


def _address(file: Path) -> str:
    end = time.monotonic() + PATIENCE
    while not file.exists() or len(file.read_text().splitlines()) < 2:
        assert time.monotonic() < end, "Chromium did not start"
        time.sleep(0.05)
    port = file.read_text().splitlines()[0]
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/json") as answer:
        tabs = json.load(answer)
    return next(tab["webSocketDebuggerUrl"] for tab in tabs if tab["type"] == "page")


def _opened(address: str) -> socket.socket:
    host, _, path = address.removeprefix("ws://").partition("/")
    name, _, port = host.partition(":")
    held = socket.create_connection((name, int(port)), timeout=PATIENCE)
    key = base64.b64encode(os.urandom(16)).decode()
    head = (
        f"GET /{path} HTTP/1.1\r\nHost: {host}\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
        f"Sec-WebSocket-Key: {key}\r\nSec-WebSocket-Version: 13\r\n\r\n"
    )
    held.sendall(head.encode())
    answer = b""
    while b"\r\n\r\n" not in answer:
        answer += held.recv(1)
    assert b" 101 " in answer, answer
    return held


def _write(held: socket.socket, text: str):
    data = text.encode()
    size = len(data)
    if size < 126:
        form = struct.pack("!B", 0x80 | size)
    elif size < 1 << 16:
        form = struct.pack("!BH", 0x80 | 126, size)
    else:
        form = struct.pack("!BQ", 0x80 | 127, size)
    key = os.urandom(4)
    masked = bytes(byte ^ key[i % 4] for i, byte in enumerate(data))
    held.sendall(b"\x81" + form + key + masked)


def _read(held: socket.socket) -> str:
    whole = b""
    while True:
        first, second = _exactly(held, 2)
        size = second & 0x7F
        if size == 126:
            (size,) = struct.unpack("!H", _exactly(held, 2))
        elif size == 127:
            (size,) = struct.unpack("!Q", _exactly(held, 8))
        data = _exactly(held, size)
        if first & 0x0F in (0, 1):
            whole += data
            if first & 0x80:
                return whole.decode()


def _exactly(held: socket.socket, size: int) -> bytes:
    parts = []
    while size:
        part = held.recv(min(size, 1 << 20))
        assert part, "Chromium went away"
        parts.append(part)
        size -= len(part)
    return b"".join(parts)
