"""Takes the screenshots of the live page that the documentation shows: `python -m scripts.page_screenshots`.

Serves models/digits, calls it from a few threads with one to four images per call, and uses a headless Chromium.
"""

import shutil
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from threading import Event, Thread
from typing import Any

import numpy as np

from headrace_client import Client, ServerError

ROOT = Path(__file__).resolve().parents[1]
MODEL = ROOT / "models" / "digits"
IMAGES = ROOT / "docs" / "images"
PORT, REST_PORT = 18500, 18501
OBJECTIVE_PORT, OBJECTIVE_REST_PORT = 18502, 18503
"""The ports of a second server, which has a latency objective."""
CALLERS = 12
LOOK_SECONDS = 130
"""How long the callers call before the pictures are taken: longer than the two minutes that the charts show."""
FLAGS = ("--no-sandbox", "--disable-gpu")

SHOTS = {
    "page-light": ("light", 1280, 900, ""),
    "page-dark": ("dark", 1280, 900, ""),
    "page-try": ("light", 1280, 760, "#try"),
    "page-phone": ("dark", 390, 844, ""),
}
"""The name of each picture, its colours, its width and height, and the element that it begins with."""


def main() -> None:
    """Takes all screenshots."""
    chromium = shutil.which("chromium") or sys.exit("the chromium command is missing")
    from playwright.sync_api import sync_playwright

    batching = f"--batching_parameters_file={MODEL / 'batching.pbtxt'}"
    with (
        _served(PORT, REST_PORT, batching),
        _served(OBJECTIVE_PORT, OBJECTIVE_REST_PORT, "--latency_objective=p99 20ms"),
        _called(PORT),
        _called(OBJECTIVE_PORT),
        sync_playwright() as driver,
    ):
        browser: Any = driver.chromium.launch(executable_path=chromium, args=FLAGS)
        objective = browser.new_page(color_scheme="light", viewport={"width": 1280, "height": 900})
        objective.goto(f"http://127.0.0.1:{OBJECTIVE_REST_PORT}/")
        pages = {}
        for name, (colours, width, height, _) in SHOTS.items():
            context = browser.new_context(color_scheme=colours, viewport={"width": width, "height": height})
            pages[name] = context.new_page()
            pages[name].goto(f"http://127.0.0.1:{REST_PORT}/")
        time.sleep(LOOK_SECONDS)
        for name, page in pages.items():
            page.click("#try-send")
            page.wait_for_selector("#try-answer pre")
            if start := SHOTS[name][3]:
                page.locator(start).scroll_into_view_if_needed()
                page.evaluate("selector => document.querySelector(selector).scrollIntoView()", start)
            else:
                page.evaluate("scrollTo(0, 0)")
            page.screenshot(path=IMAGES / f"{name}.png")
        objective.locator("#objective").screenshot(path=IMAGES / "page-objective.png")
        browser.close()


@contextmanager
def _served(port: int, rest_port: int, flag: str) -> Iterator[None]:
    command = [
        str(Path(sys.executable).with_name("headrace")),
        "serve",
        str(MODEL),
        f"--port={port}",
        f"--rest_api_port={rest_port}",
        "--host=127.0.0.1",
        "--rest_api_host=127.0.0.1",
        flag,
    ]
    server = subprocess.Popen(command, stderr=subprocess.DEVNULL)
    try:
        while True:
            with suppress(OSError), urllib.request.urlopen(f"http://127.0.0.1:{rest_port}/healthz"):
                break
            time.sleep(0.05)
        yield
    finally:
        server.terminate()
        server.wait()


@contextmanager
def _called(port: int) -> Iterator[None]:
    over = Event()
    images = np.load(MODEL / "held_out.npz")["images"].reshape(-1, 64).astype(np.float32)

    def call(number: int) -> None:
        random = np.random.default_rng(number)
        with Client(f"127.0.0.1:{port}") as client:
            while not over.wait(random.exponential(0.005)):
                first = int(random.integers(len(images) - 4))
                with suppress(ServerError):
                    client.predict("digits", {"image": images[first : first + int(random.integers(1, 5))]})

    callers = [Thread(target=call, args=(number,)) for number in range(CALLERS)]
    for caller in callers:
        caller.start()
    try:
        yield
    finally:
        over.set()
        for caller in callers:
            caller.join()


if __name__ == "__main__":
    main()
