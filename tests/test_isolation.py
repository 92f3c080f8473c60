"""What a visitor can neither run in another's browser, nor read from the machine, nor have it ask of others."""

import http.client
import json
import shutil
import signal
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from urllib.parse import quote, urlencode

import httpx
import pytest
from browsing import TABS, Locator, Page, expect, give_picture, launched, open_tab
from gradio_client import Client
from gradio_client.exceptions import AppError
from playwright.sync_api import Route
from running import ROOT, free_port, start_app

from mmdemo.studio import Studio

RUNS = "parent.ran = 1"
MARKUP = [
    f'<img src="data:," onerror="{RUNS}">',
    f"<svg onload='{RUNS}'></svg>",
    f"<script>{RUNS}</script>",
    f'"><iframe srcdoc="<script>{RUNS}</script>"></iframe>',
    f"<a href='javascript:{RUNS}'>here</a>",
    f"&lt;img src=x onerror='{RUNS}'&gt;",
    "![here](http://127.0.0.1:9/x.png) **bold**",
]


def said_as_text(page: Page, *words: str) -> None:
    """The messages that are seen have these words, no element within, and ran nothing. They are closed."""
    toast = page.get_by_test_id("toast-text")
    expect(toast.first).to_be_visible()
    for one in words:
        expect(toast.filter(has_text=one).first).to_be_visible()
    assert page.locator("[data-testid=toast-text] *").count() == 0, toast.first.inner_html()
    assert page.evaluate("window.ran") is None
    page.get_by_test_id("toast-close").click()
    expect(toast).to_have_count(0)


def open_compare(page: Page) -> Locator:
    page.get_by_role("tab", name="Compare", exact=True).click()
    grid = page.locator("#grid")
    expect(grid.get_by_role("link", name="Download PNG")).to_be_visible()
    return grid


def test_markup_that_a_person_types_or_a_tampered_request_has_is_said_back_as_text(page: Page):
    grid = open_compare(page)
    for markup in MARKUP:
        grid.get_by_label("Guidance: values").fill(markup)
        grid.get_by_role("button", name="Compare", exact=True).click()
        said_as_text(page, markup[:16])
    # Refused by the studio, and by gradio; both say it back:
    open_tab(page, "Reconstruct")
    for sent in ("tiny", "yes"):
        page.route("**/queue/join*", tampering(sent))
        page.get_by_label("yes" if sent == "yes" else "no", exact=True).check()
        said_as_text(page, MARKUP[0])
        page.unroute("**/queue/join*")


def test_markup_in_the_name_of_a_file_runs_nothing_nor_does_any_that_came_into_the_page(
    window, address: str, tmp_path: Path
):
    page = window.new_page()  # not a watched one: the policy complains of what gradio's own message would run
    page.goto(address)
    open_tab(page, "Reconstruct")
    for kind in ("png", "txt"):
        (tmp_path / f"{MARKUP[0]}.{kind}").write_text("This is no picture.")
        page.locator("#upload input[type=file]").set_input_files(tmp_path / f"{MARKUP[0]}.{kind}")
        if kind == "png":
            said_as_text(page, "cannot be read as a picture")
    expect(page.get_by_test_id("toast-text")).to_contain_text("Invalid file type")  # gradio's, in the browser
    assert page.evaluate("window.ran") is None
    for markup in MARKUP:  # and under the policy nothing runs however it came into the page
        page.evaluate("markup => document.body.insertAdjacentHTML('beforeend', markup)", markup)
    page.get_by_role("link", name="here").evaluate("link => link.click()")
    page.wait_for_timeout(500)
    assert page.evaluate("window.ran") is None
    page.close()


def test_a_link_to_the_page_can_have_it_say_nothing(page: Page, address: str):
    page.goto(f"{address}?{urlencode(dict.fromkeys(('deep_link', 'view', '__lang', '__theme'), MARKUP[0]))}")
    open_tab(page, "Sample")
    assert page.evaluate("window.ran") is None and page.locator("img[src='data:,']").count() == 0


@pytest.fixture
def named_with_markup(tiny_weights: Path, tmp_path: Path) -> Path:
    """A folder with a pack, and one more that cannot be opened, whose names and classes are markup."""
    pack = shutil.copytree(tiny_weights / "tiny", tmp_path / "weights" / MARKUP[0])
    index = json.loads((pack / "model_index.json").read_text())
    index["id2label"] = {str(i): markup for i, markup in enumerate(MARKUP[:3])}
    (pack / "model_index.json").write_text(json.dumps(index))
    shutil.copytree(tiny_weights / "broken", tmp_path / "weights" / MARKUP[0].replace("img", "image"))
    return tmp_path / "weights"


def test_markup_in_a_strangers_pack_runs_nothing_in_any_tab(watched: Page, named_with_markup: Path):
    with launched(Studio([named_with_markup], device="cpu")) as address:
        watched.goto(address)
        for tab in TABS:
            open_tab(watched, tab)
        expect(watched.locator("#denoise .mm-status")).to_contain_text(MARKUP[0])
        grid = open_compare(watched)
        expect(grid).to_contain_text(MARKUP[1])
        shutil.rmtree(named_with_markup / MARKUP[0])
        grid.get_by_role("button", name="Compare", exact=True).click()
        said_as_text(watched, MARKUP[0])


def tampering(sent: str) -> Callable[[Route], None]:
    def tamper(route: Route) -> None:
        body = route.request.post_data_json
        body["data"] = [MARKUP[0] if one == sent else one for one in body["data"]]
        route.continue_(post_data=json.dumps(body))

    return tamper


@pytest.fixture
def policy(address: str) -> str:
    return httpx.get(address).headers["content-security-policy"]


def test_the_page_does_nothing_that_its_policy_refuses(policy: str, page: Page, tmp_path: Path):
    assert "'unsafe-inline'" not in policy.partition("script-src")[2].partition(";")[0]
    assert "frame-ancestors" not in policy  # a Space is shown in a frame
    for tab in TABS:
        open_tab(page, tab)
    for name in ("GIF", "Video", "PNG"):
        with page.expect_download():
            page.locator("#denoise").get_by_role("button", name=name).click()
    open_compare(page)
    open_tab(page, "Reconstruct")
    give_picture(page, tmp_path / "white.png")


# -------------------------------------------------------------------------------------------------- what is kept secret

CANARY = "hf_canaryCanaryCanary"


def test_a_token_of_the_apps_is_in_nothing_that_it_says(tiny_weights: Path, monkeypatch: pytest.MonkeyPatch):
    """In no page, answer, refusal, log or traceback. The Hub, which is asked with it, refuses the connection."""
    monkeypatch.setenv("HF_TOKEN", CANARY)
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")
    app = start_app("--port", free_port(), "--weights", str(tiny_weights), "--device", "cpu", "--hub", "some/gone")
    try:
        address, said = app.stdout.readline().split()[-1], []
        for path, methods in httpx.get(f"{address}/openapi.json").json()["paths"].items():
            if "get" in methods and "{" not in path and "/dev/reload" not in path:  # which never ends
                said.append(httpx.get(address + path, timeout=20).text)
            if "post" in methods and "{" not in path:
                said.append(httpx.post(address + path, json={"data": 1, "fn_index": 0, "component_id": 0}).text)
        client = Client(address, verbose=False)
        said.append(json.dumps(client.predict(api_name="/packs")))
        said += [refused(client, pack) for pack in ("some/gone", "$HF_TOKEN")]
    finally:
        app.send_signal(signal.SIGTERM)
        said += app.communicate(timeout=20)
    assert any("some/gone" in one for one in said)
    assert not [one for one in said if CANARY in one]


def refused(client: Client, pack: str) -> str:
    with pytest.raises(AppError) as error:
        client.predict(pack, api_name="/codebook")
    return str(error.value)


# ----------------------------------------------------------------------------------------- what cannot be read or asked


@pytest.mark.parametrize("route", ["/gradio_api/file=", "/gradio_api/file/", "/static/", "/assets/", "/svelte/"])
def test_no_file_of_the_machine_is_given_out(app: str, route: str):
    port = int(app.rpartition(":")[2])
    for path in (ROOT / "app.py", ROOT / "weights" / "shipped.json", Path("/proc/self/environ"), Path("/etc/hostname")):
        for form in (str(path), "../" * 12 + str(path)[1:], "..%2f" * 12 + quote(str(path)[1:], ""), f"%2e%2e/{path}"):
            assert raw_status(port, f"{route}{form}") in (400, 403, 404), f"{route}{form}"


def raw_status(port: int, path: str) -> int:
    """As it is written: a client would put the path in order before it asks."""
    asking = http.client.HTTPConnection("127.0.0.1", port, timeout=20)
    asking.request("GET", path)
    status = asking.getresponse().status
    asking.close()
    return status


def test_a_script_calls_no_function_but_those_meant_for_it(app: str):
    config = httpx.get(f"{app}/config").json()
    (packs,) = (one["id"] for one in config["components"] if one["props"].get("elem_id") == "pack")
    for name in ("listing", "preprocess", "__init__", "get_config"):
        asked = {"component_id": packs, "fn_name": name, "session_hash": "x", "data": []}
        answer = httpx.post(f"{app}/gradio_api/component_server", json=asked)
        assert (answer.status_code == 200) == (name == "listing"), name


LOOKED_UP: list[str] = []


@pytest.fixture
def looked_up() -> Iterator[list[str]]:
    """The machines whose address this process asks for, the app's own among them."""
    if not LOOKED_UP:
        sys.addaudithook(
            lambda event, given: LOOKED_UP.append(str(given[0])) if event == "socket.getaddrinfo" else None
        )
    LOOKED_UP[:] = ["begun"]
    yield LOOKED_UP


@pytest.mark.parametrize(
    "url", ["http://far.invalid/x.png", "https://far.invalid/x.png", "http://[::ffff:a00:1]/x.png"]
)
def test_the_app_asks_nothing_of_another_machine_whoever_bids_it_to(address: str, looked_up: list, url: str):
    for route in ("file=", "proxy=", "file/"):
        assert httpx.get(f"{address}gradio_api/{route}{url}").status_code in (400, 403, 404)
    sent = {"path": url, "url": url, "meta": {"_type": "gradio.FileData"}}
    asked = httpx.post(f"{address}gradio_api/call/reconstruct", json={"data": ["tiny", sent]}).json()
    answer = httpx.get(f"{address}gradio_api/call/reconstruct/{asked['event_id']}", timeout=20).text
    assert "upload" in answer
    assert not [host for host in looked_up if host not in ("begun", "127.0.0.1", "localhost")]
