"""Pages in headless Chromium, driven by a page of ours that holds them in a frame; no further package is needed."""

import html
import json
import re
import shutil
import subprocess
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

CHROMIUM = next(
    (path for name in ("chromium", "chromium-browser", "google-chrome") if (path := shutil.which(name))), None
)

_DRIVER = """<!doctype html><body><iframe id="frame"></iframe><pre id="result"></pre><script>
const frame = document.getElementById("frame");
const loaded = (address) => new Promise((resolve) => { frame.onload = resolve; frame.src = address; });
const settled = () => new Promise((resolve) => setTimeout(resolve, 50));
const at = (selector) => frame.contentDocument.querySelector(selector);
const all = (selector) => [...frame.contentDocument.querySelectorAll(selector)];
function enter(selector, value) {
  at(selector).value = value;
  at(selector).dispatchEvent(new Event("input", { bubbles: true }));
}
(async () => { %s })()
  .then((value) => { document.getElementById("result").textContent = JSON.stringify(value); })
  .catch((error) => { document.getElementById("result").textContent = JSON.stringify({ failed: String(error) }); });
</script>"""


class _Quiet(SimpleHTTPRequestHandler):
    def log_message(self, format: str, *args: Any) -> None:
        """Say nothing."""


@contextmanager
def _served(folder: Path) -> Iterator[str]:
    server = ThreadingHTTPServer(("127.0.0.1", 0), partial(_Quiet, directory=str(folder)))
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


def dumped(address: str, profile: Path, width: int = 1600) -> tuple[str, list[str]]:
    """(document after its scripts have run, lines of the console)."""
    assert CHROMIUM is not None
    command = [
        CHROMIUM, "--headless", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--no-first-run",
        f"--user-data-dir={profile}", f"--window-size={width},900", "--enable-logging=stderr",
        "--virtual-time-budget=10000", "--dump-dom", address,
    ]  # fmt: skip
    run = subprocess.run(command, capture_output=True, text=True, timeout=120, check=True)
    return run.stdout, [line for line in run.stderr.splitlines() if "CONSOLE" in line]


def driven(page: Path, script: str, profile: Path) -> tuple[Any, list[str]]:
    """(what a script returns that drives a page in a frame, lines of the console).

    The script is the body of an async function; `loaded`, `settled`, `at`, `all` and `enter` help it.
    """
    (page.parent / "driver.html").write_text(_DRIVER.replace("%s", script, 1), encoding="utf-8")
    with _served(page.parent) as address:
        document, console = dumped(f"{address}/driver.html", profile)
    found = re.search(r'<pre id="result">(.*?)</pre>', document, re.DOTALL)
    assert found is not None and found[1], f"the script did not end: {document[-2000:]}"
    return json.loads(html.unescape(found[1])), console
