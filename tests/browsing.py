"""What the tests of the page share: serving it, and the first things one does in it."""

import base64
import io
import shutil
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from PIL import Image

from mmdemo.studio import Studio

sync_api = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
from playwright.sync_api import BrowserContext, Locator, Page, expect  # noqa: E402

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
QUIET = [
    "--no-sandbox",
    "--disable-gpu",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]
TABS = ["Codebook", "Reconstruct", "Sample", "Make data", "Denoise"]
READY = {
    "Codebook": ".mm-card",
    "Reconstruct": "#reconstruct-view .mm-tokens",
    "Sample": ".mm-foot a",
    "Denoise": ".mm-strip img",
    "Restore": "#restore .mm-candidate:enabled",
    "Make data": "#make-data .mm-foot button",
}

expect.set_options(timeout=30_000)


class SlowStudio(Studio):
    """A studio that takes its time over every step once `seconds` is set, and notes when a run is ended before it is
    done."""

    def __init__(self, *args, seconds: float = 0.0, **options):
        super().__init__(*args, **options)
        self.seconds, self.stopped = seconds, threading.Event()

    @contextmanager
    def taking(self, seconds: float) -> Iterator[None]:
        """Its time, until the end."""
        self.seconds = seconds
        self.stopped.clear()
        try:
            yield
        finally:
            self.seconds = 0

    def _with_models(self, *given):
        work = super()._with_models(*given)
        try:
            while True:
                try:
                    item = next(work)
                except StopIteration as end:
                    return end.value
                time.sleep(self.seconds)
                yield item
        except GeneratorExit:
            self.stopped.set()
            raise


@contextmanager
def launched(studio: Studio, **options) -> Iterator[str]:
    """The address at which the page for this studio is being served."""
    from mmdemo.ui import build_demo, launch_options

    demo = build_demo(studio, **options)
    demo.launch(server_name="127.0.0.1", prevent_thread_lock=True, **launch_options(demo))
    try:
        yield demo.local_url
    finally:
        demo.close(verbose=False)


def opened_uri(uri: str) -> Image.Image:
    """The picture in a data URI."""
    return Image.open(io.BytesIO(base64.b64decode(uri.partition(",")[2])))


def is_local(url: str) -> bool:
    return url.startswith(("http://127.0.0.1:", "data:", "blob:"))


def new_page(window: BrowserContext) -> tuple[Page, list[str]]:
    """An empty page, and what there is to complain of: errors, and requests of other machines."""
    page, complaints = window.new_page(), []
    page.set_viewport_size({"width": 1280, "height": 900})
    page.on("console", lambda line: complaints.append(line.text) if line.type == "error" else None)
    page.on("pageerror", lambda error: complaints.append(str(error)))
    page.on("request", lambda request: None if is_local(request.url) else complaints.append(request.url))
    return page, complaints


@contextmanager
def answered(page: Page, waiting: list | None = None) -> Iterator[None]:
    """Until all that the scripts ask Python from now on is answered and they had time to show it.
    waiting: what they have asked before."""
    waiting = list(waiting or [])

    def asks(request) -> None:
        if "component_server" in request.url:
            waiting.append(request)

    def ends(request) -> None:
        if request in waiting:
            waiting.remove(request)

    heard = {"request": asks, "requestfinished": ends, "requestfailed": ends}
    for event, does in heard.items():
        page.on(event, does)
    yield
    for _ in range(200):
        page.wait_for_timeout(100)
        if not waiting:
            break
    assert not waiting, f"no answer to {waiting}"
    page.wait_for_timeout(200)
    for event, does in heard.items():
        page.remove_listener(event, does)


def forget(status: Locator) -> None:
    """Empties the line that says what is going on: it may say already what is waited for."""
    status.evaluate("line => line.replaceChildren()")


def open_tab(page: Page, name: str) -> None:
    page.get_by_role("tab", name=name, exact=True).click()
    expect(page.locator(READY[name]).first).to_be_visible()


def give_picture(page: Page, file: Path) -> None:
    """Uploads a white one in the open Reconstruct tab, and waits until it has taken the place of the last one."""
    original = page.get_by_alt_text("Original")
    before = original.get_attribute("src")
    Image.new("L", (64, 64), 255).save(file)
    page.locator("#upload input[type=file]").set_input_files(file)
    expect(original).not_to_have_attribute("src", before)


def open_advanced(tab: Locator) -> None:
    """Unfolds the settings. gradio builds them then, and for a moment sets again what is typed at once."""
    if not tab.get_by_label("number input for Steps").is_visible():
        tab.get_by_role("button", name="Advanced").click()
        tab.page.wait_for_timeout(500)


def choose_pack(page: Page, name: str) -> None:
    page.get_by_role("group", name="Pack").get_by_role("radio", name=name, exact=True).check()


def open_pack(page: Page, name: str) -> None:
    """Chooses a pack and waits until its codes have taken the place of the last one's."""
    choose_pack(page, name)
    page.wait_for_function("name => window.mmdemo.store.get('code')?.pack === name", arg=name)


def choose_cell(grid: Locator, i: int, columns: int = 4) -> None:
    """Clicks the middle of the i-th cell; a grid has no elements for its cells."""
    expect(grid).to_have_attribute("aria-colcount", str(columns))
    side = 0
    while not side:  # one just drawn anew has no place yet
        side = grid.evaluate("grid => grid.getBoundingClientRect().width") / columns
    grid.click(position={"x": (i % columns + 0.5) * side, "y": (i // columns + 0.5) * side})
