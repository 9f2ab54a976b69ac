"""A headless Chromium driven by chromedriver's HTTP protocol, for tests of pages."""

import base64
import contextlib
import json
import shutil
import socket
import subprocess
import time
import urllib.request
from collections.abc import Iterator
from typing import Any

CHROMIUM, DRIVER = shutil.which("chromium"), shutil.which("chromedriver")
ARGUMENTS = ("--no-sandbox", "--headless=new", "--disable-gpu", "--disable-dev-shm-usage", "--hide-scrollbars")
RIGHT, ENTER, ESCAPE = "\ue014", "\ue007", "\ue00c"


class Browser:
    """One window."""

    def __init__(self, port: int):
        self._address, self._session = f"http://127.0.0.1:{port}", ""
        for _ in range(100):
            with contextlib.suppress(OSError):
                self._call("GET", "/status")
                break
            time.sleep(0.05)
        options = {"binary": CHROMIUM, "args": ARGUMENTS}
        wanted = {"goog:chromeOptions": options, "goog:loggingPrefs": {"browser": "ALL"}}
        self._session = (
            "/session/" + self._call("POST", "/session", {"capabilities": {"alwaysMatch": wanted}})["sessionId"]
        )

    def _call(self, method: str, path: str, body: Any = None) -> Any:
        data = None if body is None else json.dumps(body).encode()
        request = urllib.request.Request(self._address + self._session + path, data, method=method)
        with urllib.request.urlopen(request, timeout=20) as answer:
            return json.loads(answer.read())["value"]

    def look(self, width: int, height: int = 900, scheme: str = "light") -> None:
        """Take a size, and a preference for light or dark."""
        size = {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": width < 500}
        self._devtools("Emulation.setDeviceMetricsOverride", **size)
        self._devtools("Emulation.setEmulatedMedia", features=[{"name": "prefers-color-scheme", "value": scheme}])

    def _devtools(self, command: str, **parameters: Any) -> Any:
        return self._call("POST", "/goog/cdp/execute", {"cmd": command, "params": parameters})

    def open(self, path) -> None:
        """Open a file."""
        self._call("POST", "/url", {"url": path.as_uri()})

    def run(self, script: str, *arguments: Any) -> Any:
        """What a script returns."""
        return self._call("POST", "/execute/sync", {"script": script, "args": arguments})

    def press(self, selector: str, keys: str) -> None:
        """Press keys on the element with this selector."""
        found = self._call("POST", "/element", {"using": "css selector", "value": selector})
        self._call("POST", f"/element/{next(iter(found.values()))}/value", {"text": keys})

    def log(self) -> list[dict[str, Any]]:
        """What stands in the console."""
        return self._call("POST", "/se/log", {"type": "browser"})

    def picture(self) -> bytes:
        """A screenshot, as PNG."""
        return base64.b64decode(self._devtools("Page.captureScreenshot", format="png")["data"])

    def quit(self) -> None:
        """Close the window."""
        self._call("DELETE", "")


@contextlib.contextmanager
def browser() -> Iterator[Browser]:
    """A browser as long as the block lasts."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    silent = {"stdin": subprocess.DEVNULL, "stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
    driver = subprocess.Popen([str(DRIVER), f"--port={port}"], **silent)
    try:
        window = Browser(port)
        try:
            yield window
        finally:
            window.quit()
    finally:
        driver.terminate()
        driver.wait(timeout=20)
