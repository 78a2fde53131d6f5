"""What every test stands on: offline, one thread, no chatter, a Chromium."""

import gc
import os

os.environ.update(
    CUDA_VISIBLE_DEVICES=os.environ.get("CUDA_VISIBLE_DEVICES", ""),  # the same numbers on every machine
    GRADIO_ANALYTICS_ENABLED="False",
    HF_HUB_OFFLINE="1",
    HF_HUB_DISABLE_TELEMETRY="1",
    NO_PROXY="127.0.0.1,localhost",
    TOKENIZERS_PARALLELISM="false",
)

import shutil
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
import torch

from .families import FAMILIES, TinyFamily

if TYPE_CHECKING:
    from playwright.sync_api import Browser

CHROMIUMS = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
CHROMIUM_ARGS = [
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]


def pytest_configure() -> None:
    """Once, before anything is built."""
    import diffusers
    import transformers

    torch.set_num_threads(1)  # two threads may add in another order
    torch.use_deterministic_algorithms(True)
    diffusers.utils.logging.set_verbosity_error()
    diffusers.utils.logging.disable_progress_bar()
    transformers.utils.logging.set_verbosity_error()


def pytest_collection_finish() -> None:
    """Once everything is imported: a million objects that stay need not be looked through at every collection."""
    gc.collect()
    gc.freeze()


@pytest.fixture(params=FAMILIES.values(), ids=FAMILIES)
def family(request: pytest.FixtureRequest) -> TinyFamily:
    """Each of the ten families in turn."""
    return request.param


@pytest.fixture(scope="session")
def chromium_path() -> str:
    """Where this machine keeps a Chromium. Without one the tests of the page are skipped, but never in CI."""
    found = os.environ.get("CHROMIUM") or next(filter(None, map(shutil.which, CHROMIUMS)), None)
    if found is None and sys.platform == "darwin":
        usual = Path("/Applications/Google Chrome.app/Contents/MacOS/Google Chrome")
        found = str(usual) if usual.exists() else None
    if found is None:
        reason = "no Chromium on PATH: install one (Debian: apt-get install chromium) or set CHROMIUM=/path/to/it"
        (pytest.fail if os.environ.get("CI") else pytest.skip)(reason)
    return found


@pytest.fixture(scope="module")
def chromium(chromium_path: str) -> Iterator["Browser"]:
    """One browser for a file of tests; a test opens its own `chromium.new_page()`, or a context for another viewport.

    Not one for the session: while Playwright runs, nobody else in this thread can use asyncio.
    """
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=chromium_path, args=CHROMIUM_ARGS)
        yield browser
        browser.close()


@pytest.fixture(scope="session")
def url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The address of the app, in a process of its own, as users start it."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    log = (tmp_path_factory.mktemp("app") / "log").open("w")
    command = [sys.executable, "app.py", "--port", str(port)]
    root, quiet = Path(__file__).parents[1], {**os.environ, "OMP_NUM_THREADS": "1"}
    server = subprocess.Popen(command, cwd=root, stdout=log, stderr=log, env=quiet)
    address = f"http://127.0.0.1:{port}/"
    try:
        for _ in range(240):
            time.sleep(0.25)
            assert server.poll() is None, Path(log.name).read_text()
            try:
                urllib.request.urlopen(address).close()
                break
            except OSError:
                continue
        yield address
        assert "Traceback" not in Path(log.name).read_text()
    finally:
        server.terminate()
        server.wait()
        log.close()
