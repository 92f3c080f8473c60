"""The page where people put it: under a path of a larger site, behind a server that passes on what is asked."""

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx
import pytest
import uvicorn
from browsing import TABS, Page, expect, give_picture, launched, open_tab
from conftest import same
from gradio_client import Client, handle_file
from PIL import Image
from running import free_port
from starlette.applications import Starlette
from starlette.background import BackgroundTask
from starlette.requests import Request
from starlette.responses import Response, StreamingResponse
from starlette.routing import Mount, Route

from mmdemo.studio import Studio

PREFIX = "/look/inside"
XML = "http://www.w3.org/"


@contextmanager
def proxied(app: str) -> Iterator[str]:
    """The address at which a server passes on to the app whatever is under PREFIX, which the app does not see."""
    behind = httpx.AsyncClient(base_url=app, timeout=60)

    async def forward(scope, receive, send) -> None:
        request = Request(scope, receive)
        path = httpx.URL(path=scope["path"].removeprefix(PREFIX), query=scope["query_string"])
        asked = behind.build_request(request.method, path, headers=request.headers.raw, content=request.stream())
        answer = await behind.send(asked, stream=True)
        passed_on = StreamingResponse(answer.aiter_raw(), answer.status_code, background=BackgroundTask(answer.aclose))
        passed_on.raw_headers = answer.headers.raw
        await passed_on(scope, receive, send)

    port = free_port()
    icon = Route("/favicon.ico", lambda request: Response())  # a browser asks the larger site for its icon
    site = Starlette(routes=[icon, Mount(PREFIX, forward)])
    server = uvicorn.Server(uvicorn.Config(site, port=int(port), log_level="warning", timeout_graceful_shutdown=1))
    running = threading.Thread(target=server.run)
    running.start()
    try:
        while not server.started:
            time.sleep(0.01)
        yield f"http://127.0.0.1:{port}{PREFIX}"
    finally:
        server.should_exit = True
        running.join()


@pytest.fixture(scope="module")
def proxy(studio: Studio) -> Iterator[str]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("GRADIO_ROOT_PATH", PREFIX)
        with launched(studio) as app, proxied(app) as address:
            yield address


@pytest.fixture
def asked(watched: Page) -> list[str]:
    """Every address that the page asks something of."""
    addresses = []
    watched.on("request", lambda request: addresses.append(request.url))
    return addresses


def test_every_tab_is_used_under_a_path_of_another_server(watched: Page, asked: list, proxy: str, tmp_path: Path):
    watched.goto(f"{proxy}/")
    for tab in TABS:
        open_tab(watched, tab)
    denoise = watched.locator("#denoise")
    denoise.get_by_role("button", name="Denoise", exact=True).click()
    expect(denoise.locator(".mm-status")).to_contain_text("denoised in")
    open_tab(watched, "Sample")
    with watched.expect_download() as download:
        watched.get_by_role("link", name="Download PNG").click()
    assert Image.open(download.value.path()).text["mmdemo"]
    open_tab(watched, "Reconstruct")
    give_picture(watched, tmp_path / "white.png")
    watched.get_by_role("tab", name="Compare", exact=True).click()
    expect(watched.locator("#grid").get_by_role("link", name="Download PNG")).to_be_visible()
    elsewhere = [url for url in asked if not url.startswith((f"{proxy}/", "data:", "blob:"))]
    assert elsewhere == []


def test_a_program_uploads_and_downloads_there_too(proxy: str, studio: Studio, drawing: Path, tmp_path: Path):
    client = Client(f"{proxy}/", verbose=False, download_files=str(tmp_path))
    rebuilt, *_ = client.predict("tiny", handle_file(drawing), api_name="/reconstruct")
    assert same(rebuilt, studio.reconstruct("tiny", drawing).image)


def test_behind_tls_the_pages_own_addresses_have_it_too(proxy: str):
    page = httpx.get(f"{proxy}/config", headers={"X-Forwarded-Proto": "https", "X-Forwarded-Host": "example.org"})
    assert page.json()["root"] == f"https://example.org{PREFIX}"
    assert "http://" not in page.text.replace(XML, "")
