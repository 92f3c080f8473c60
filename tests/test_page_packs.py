"""The page with packs of several kinds, in a real browser: which one a tab opens on, and what a choice changes."""

import json
import re
import shutil
import threading
import time
import urllib.error
import urllib.request
from dataclasses import replace
from pathlib import Path

import pytest
from browsing import Locator, Page, choose_cell, choose_pack, expect, launched, open_tab
from hub_server import Hub
from PIL import Image

from mmdemo import hub, packs, provenance
from mmdemo.errors import PackError
from mmdemo.studio import Studio
from mmdemo.ui import markdown
from mmdemo.ui.chooser import opens_on
from mmdemo.ui.pictures import size_of, sizes

WEIGHTS = "kinds"


@pytest.fixture
def page(watched: Page, address: str) -> Page:
    watched.goto(address)
    expect(chosen(watched)).to_have_attribute("value", "mnist")
    return watched


def chosen(page: Page) -> Locator:
    return page.locator("#pack input:checked")


def test_every_tab_shows_the_marked_pack(page: Page):
    expect(page.locator(".mm-tile", has_text="Codes").first).to_contain_text("16")
    open_tab(page, "Reconstruct")
    expect(chosen(page)).to_have_attribute("value", "mnist")
    expect(page.locator("#reconstruct .mm-status")).to_contain_text("16 × 16 pixels became 4 × 4 tokens")
    expect(page.get_by_label("auto", exact=True)).to_be_visible()  # of one channel
    open_tab(page, "Sample")
    expect(page.locator("#sample .mm-foot a")).to_have_attribute("download", "mnist-seed-0.png")
    choose_pack(page, "cifar")
    expect(page.locator("#sample .mm-foot a")).to_have_attribute("download", "cifar-seed-0.png")
    open_tab(page, "Reconstruct")
    expect(chosen(page)).to_have_attribute("value", "cifar")
    expect(page.get_by_label("auto", exact=True)).to_be_hidden()
    choose_pack(page, "photos")
    expect(page.locator("#reconstruct .mm-status")).to_contain_text("32 × 32 pixels became 8 × 8 tokens")
    expect(page.get_by_role("tab", name="Reconstruct")).to_have_attribute("aria-selected", "true")


def test_the_opening_pack_is_a_named_one_or_else_the_first_that_samples(studio: Studio):
    packs = {pack.name: pack for pack in studio.packs()}
    assert opens_on(list(packs.values())) == "mnist"
    assert opens_on([*packs.values(), replace(packs["cifar"], name="faces")]) == "faces"
    assert opens_on([packs["photos"], packs["cifar"]]) == "cifar"
    assert opens_on([packs["photos"]]) == "photos"
    assert opens_on([]) is None


def test_the_codes_card_stays_in_sight_and_packs_cards_say_what_they_are_and_arrow_keys_choose_one(page: Page):
    card = page.locator("#codebook-view .mm-card")
    expect(page.locator("#codebook-view .mm-four img").first).to_be_visible()  # nothing will grow any more
    for height in (700, 1000):
        page.set_viewport_size({"width": 1280, "height": height})
        page.locator(".mm-bars").scroll_into_view_if_needed()
        assert page.evaluate("window.scrollY") > 0
        expect(card.locator("h3")).to_be_in_viewport()
    page.evaluate("window.scrollTo(0, 0)")
    cards = page.locator(".mm-pack")
    assert [one.partition("\n")[0] for one in cards.all_inner_texts()] == ["cifar", "mnist", "photos"]
    expect(cards.nth(0)).to_contain_text("2 classes, 16 codes, 16 × 16")
    expect(cards.nth(2)).to_contain_text("codec only, 4096 codes")
    expect(cards.nth(2)).to_contain_text("trained here")
    expect(page.get_by_role("searchbox")).to_be_hidden()  # three are seen at a glance
    expect(page.get_by_placeholder("owner/name")).to_have_count(0)  # unless the app was started so
    assert cards.locator("img").evaluate_all("all => all.every(one => one.naturalWidth > 0)")
    chosen(page).focus()
    page.keyboard.press("ArrowRight")
    expect(page.locator(".mm-tile", has_text="Codes").first).to_contain_text("4096")
    expect(chosen(page)).to_have_attribute("value", "photos")


def test_a_class_the_next_pack_has_stays_and_another_does_not(page: Page):
    open_tab(page, "Sample")
    box = page.locator("#sample").get_by_label("Class")
    for name, kept in (("circle", "circle"), ("square", "all")):
        choose_pack(page, "mnist")
        expect(page.locator("#sample .mm-foot a")).to_have_attribute("download", "mnist-seed-0.png")
        box.click()
        page.get_by_role("option", name=name).click()
        choose_pack(page, "cifar")
        expect(page.locator("#sample .mm-foot a")).to_have_attribute("download", "cifar-seed-0.png")
        expect(box).to_have_value(kept)


def test_colour_packs_begin_with_a_photograph_lead_to_their_own_codes_keep_a_persons_picture_and_offer_sizes(
    page: Page, tmp_path: Path
):
    choose_pack(page, "photos")
    open_tab(page, "Reconstruct")
    expect(page.locator("#reconstruct .mm-status")).to_contain_text("32 × 32 pixels")
    original = page.get_by_alt_text("Original")
    first = page.get_by_label("Example 1", exact=True)
    expect(first).to_have_attribute("aria-pressed", "true")
    assert colours(page) > 50
    assert first.locator("img").evaluate("image => image.naturalWidth") == 96
    expect(page.get_by_label("auto", exact=True)).to_be_hidden()
    expect(page.get_by_label("32", exact=True)).to_be_checked()
    tokens = page.get_by_role("grid", name="Tokens")
    choose_cell(tokens, 9, columns=8)
    title = tokens.locator("[aria-selected=true]").get_attribute("title")
    code = re.match(r"Token (\d+),", title)[1]
    expect(page.locator("#reconstruct-view .mm-card h3")).to_have_text(f"Code {code}")
    page.get_by_role("button", name="Open in Codebook").click()
    expect(page.locator(".mm-tile", has_text="Codes").first).to_contain_text("4096")
    expect(page.locator("#codebook-view .mm-card h3")).to_have_text(f"Code {code}")
    expect(chosen(page)).to_have_attribute("value", "photos")
    open_tab(page, "Reconstruct")
    Image.new("RGB", (40, 40), "red").save(tmp_path / "red.png")
    page.locator("#upload input[type=file]").set_input_files(tmp_path / "red.png")
    status = page.locator("#reconstruct .mm-status")
    expect(status).to_contain_text("Your file: 32 × 32 pixels")
    expect(page.locator(".mm-thumbs [aria-pressed=true]")).to_have_count(0)
    assert page.locator("#upload").evaluate("box => getComputedStyle(box).outlineStyle") == "solid"
    choose_pack(page, "cifar")
    expect(status).to_contain_text("Your file: 16 × 16 pixels")
    assert colours(page) == 255
    page.get_by_label("Example 1", exact=True).click()
    expect(page.get_by_label("Example 1", exact=True)).to_have_attribute("aria-pressed", "true")
    choose_pack(page, "photos")
    expect(status).to_contain_text("32 × 32 pixels")
    before = original.get_attribute("src")
    page.get_by_label("64", exact=True).check()
    expect(page.locator("#reconstruct .mm-status")).to_contain_text("64 × 64 pixels became 16 × 16 tokens")
    page.get_by_label("Example 2", exact=True).click()
    expect(page.locator("#reconstruct .mm-status")).to_contain_text("Example 2: 64 × 64 pixels")
    expect(original).not_to_have_attribute("src", before)
    choose_pack(page, "cifar")
    expect(page.locator("#codebook .mm-tile", has_text="Codes").first).to_contain_text("16")
    expect(page.get_by_label("64", exact=True)).to_be_checked()  # it fits, so it stays
    choose_pack(page, "mnist")
    expect(page.get_by_label("64", exact=True)).to_be_hidden()
    expect(page.locator("#reconstruct .mm-status")).to_contain_text("Example 1: 16 × 16 pixels")  # it has only one


def colours(page: Page) -> int:
    """How far apart the channels of the original are at most."""
    channels = page.get_by_alt_text("Original").evaluate(
        """image => { const c = document.createElement('canvas'); c.width = c.height = 16; const d = c.getContext('2d');
        d.drawImage(image, 0, 0, 16, 16); return [...d.getImageData(0, 0, 16, 16).data]; }"""
    )
    return max(abs(channels[i] - channels[i + 2]) for i in range(0, len(channels), 4))


@pytest.mark.parametrize("width", [390, 1280])
def test_4096_codes_are_large_enough_to_choose_and_quick_to_build(watched: Page, address: str, studio: Studio, width):
    watched.set_viewport_size({"width": width, "height": 844})
    watched.goto(address)
    choose_pack(watched, "photos")
    canvas = watched.locator(".mm-swatches canvas")
    expect(watched.locator(".mm-tile", has_text="Codes").first).to_contain_text("4096")
    expect(canvas).to_be_visible()
    assert canvas.evaluate("one => one.width * one.height") <= 4.2e6
    codes = watched.get_by_role("grid", name="Codes")
    assert codes.bounding_box()["width"] / 64 >= 11.9
    assert codes.locator("*").count() < 20  # elements for 4096 cells take half a second to build
    assert watched.locator(":root").evaluate("page => page.scrollWidth - page.clientWidth") <= 0
    codes.focus()
    watched.keyboard.press("Home")
    watched.keyboard.press("ArrowRight")
    watched.keyboard.press("Enter")
    picked = codes.locator("[aria-selected=true]")
    expect(picked).to_have_attribute("aria-colindex", "2")
    row = int(picked.locator("..").get_attribute("aria-rowindex")) - 1
    expect(watched.locator("#codebook-view .mm-card h3")).to_have_text(
        f"Code {studio.codebook('photos').order[row * 64 + 1]}"
    )
    frame, cell = watched.locator(".mm-swatches").bounding_box(), picked.bounding_box()
    assert frame["x"] <= cell["x"] <= frame["x"] + frame["width"]  # the box has scrolled to it
    assert frame["y"] <= cell["y"] <= frame["y"] + frame["height"]


class SlowBooks(Studio):
    """A studio that takes its time to read what it has not read before, and the longer the larger."""

    def __init__(self, *args, **options):
        super().__init__(*args, **options)
        self.begun, self.read = [], []

    def code_map(self, pack: str):
        self.begun.append(pack)
        time.sleep(self.codebook(pack).codes / 8192)
        made = super().code_map(pack)
        self.read.append(pack)
        return made


def test_quick_choices_leave_one_codebook_and_it_is_the_last_ones(watched: Page, kinds: Path):
    studio = SlowBooks([kinds], device="cpu")
    with launched(studio) as address:
        watched.goto(address)
        expect(watched.locator(".mm-tile", has_text="Codes").first).to_contain_text("16")
        for name in ("photos", "cifar", "mnist", "photos"):
            choose_pack(watched, name)
            watched.wait_for_timeout(60)
        for _ in range(200):  # or it might be chosen no longer before anybody looked
            if "photos" in studio.begun:
                break
            watched.wait_for_timeout(50)
        choose_pack(watched, "mnist")
        for _ in range(200):
            watched.wait_for_timeout(100)
            if "photos" in studio.read and len(studio.read) == len(studio.begun):
                break
        assert "photos" in studio.read
        watched.wait_for_function("window.mmdemo.store.get('code').pack === 'mnist'")
        watched.wait_for_timeout(700)  # what was read of the others is shown by now, if it ever is
        expect(watched.locator(".mm-tile", has_text="Codes").first).to_contain_text("16")
        expect(watched.locator(".mm-swatches canvas")).to_have_count(1)
        assert watched.evaluate("window.mmdemo.store.get('code').pack") == "mnist"


def test_no_lone_dot_stands_in_a_phones_footer_and_a_run_begun_at_its_bottom_is_brought_into_view(page: Page):
    page.set_viewport_size({"width": 390, "height": 600})
    expect(page.get_by_role("button", name="Use via API")).to_be_hidden()
    for dot in page.locator("footer .divider").all():
        expect(dot).to_be_hidden()
    for tab, button in (("Sample", "Draw"), ("Denoise", "Denoise")):
        open_tab(page, tab)
        go = page.get_by_role("button", name=button, exact=True)
        go.scroll_into_view_if_needed()
        stage = page.locator(f"#{tab.lower()} .mm-work")
        assert stage.bounding_box()["y"] < 0
        go.click()
        expect(stage).to_be_in_viewport()
        page.wait_for_function("one => one.getBoundingClientRect().top >= -1", arg=stage.element_handle())


def test_sizes_double_up_to_256_and_a_mere_codec_begins_with_the_second(studio: Studio):
    packs = {pack.name: pack for pack in studio.packs()}
    photos = replace(packs["photos"], image_size=64)
    assert sizes(photos) == [64, 128, 256] and size_of(photos, None) == 128
    assert sizes(replace(photos, image_size=128)) == [128, 256]
    assert size_of(replace(photos, image_size=512), 128) == 512  # nothing else fits
    assert size_of(replace(packs["cifar"], image_size=32), None) == 32
    assert sizes(packs["mnist"]) == [16]


# ---------------------------------------------------------------------------------------------------------- their cards

HOSTILE = """---
license: mine
---
# Theirs
<script>document.title = "taken"</script>
<img src="http://127.0.0.2:9/a.png" onerror="document.title = 'taken'"> in **words**

| a | b |
|---|---|
| <b onclick="alert(1)">1</b> | `<i>` |

![far](http://127.0.0.2:9/b.png) ![near](near.png) ![out](../near.png) ![hidden](.git/near.png) ![text](notes.png)
![data](data:image/png;base64,AAAA) [bad](javascript:document.title='taken')
[site](https://example.org/a) [file](notes.md)
"""


@pytest.fixture
def hostile(kinds: Path, tmp_path: Path) -> Path:
    """A folder with a pack whose card would do all it can."""
    pack = shutil.copytree(kinds / "mnist", tmp_path / "weights" / "theirs")
    (pack / "README.md").write_text(HOSTILE)
    (pack / ".git").mkdir()
    for file in (pack / "near.png", pack.parent / "near.png", pack / ".git" / "near.png"):
        Image.new("L", (20, 10), 99).save(file)
    (pack / "notes.png").write_text("no picture")
    return pack


def test_a_packs_card_is_shown_and_nothing_in_it_runs_or_is_fetched(watched: Page, hostile: Path):
    provenance.ship(hostile.parent, ["theirs"])
    with launched(Studio([hostile.parent], device="cpu")) as address:
        watched.goto(address)
        expect(watched.locator(".mm-pack")).to_contain_text("shipped")
        watched.get_by_role("button", name="Model card of theirs").click()
        card = watched.get_by_role("dialog")
        expect(card).to_contain_text("Shipped with the app")
        expect(card.get_by_role("heading", name="Theirs", exact=True)).to_be_visible()
        expect(card.get_by_role("cell", name="<i>")).to_be_visible()
        assert "license" not in card.inner_text() and "far" in card.inner_text()
        picture = card.locator("img")
        expect(picture).to_have_attribute("alt", "near")  # it alone
        assert picture.evaluate("one => one.naturalWidth") == 20
        links = card.locator("a[href]")
        expect(links).to_have_text("site")
        assert "noopener" in links.get_attribute("rel") and links.get_attribute("target") == "_blank"
        assert (
            card.locator(".mm-text *").evaluate_all("all => all.flatMap((one) => one.getAttributeNames())").count("alt")
            == 1
        )
        assert not card.locator(".mm-text :is(script, b, i, [onclick], [onerror])").count()
        assert watched.title() == "mmdemo"
        watched.keyboard.press("Escape")
        expect(card).to_be_hidden()


def test_a_card_that_is_missing_or_too_long_is_refused_and_one_not_in_utf_8_is_shown(hostile: Path):
    pack = packs.read(hostile)
    (hostile / "README.md").write_bytes(b"# caf\xe9\r\n")
    assert markdown.card(pack) == "<h1>caf\ufffd</h1>\n"
    (hostile / "README.md").write_text("a" * (markdown.MAX_TEXT + 1))
    with pytest.raises(PackError, match="longer than"):
        markdown.card(pack)
    (hostile / "README.md").unlink()
    with pytest.raises(PackError, match="has no card"):
        markdown.card(pack)


def test_a_pictures_bytes_count_each_time_it_is_shown(hostile: Path, monkeypatch: pytest.MonkeyPatch):
    (hostile / "README.md").write_text("![a](near.png) ![b](near.png) ![c](near.png)")
    monkeypatch.setattr(markdown, "MAX_PICTURES", 2 * (hostile / "near.png").stat().st_size)
    assert re.findall(r'alt="(\w)"', markdown.card(packs.read(hostile))) == ["a", "b"]


def test_more_than_six_packs_can_be_searched_and_one_taken_away_is_said_to_be_gone(
    watched: Page, kinds: Path, tmp_path: Path
):
    for i in range(7):
        shutil.copytree(kinds / ("cifar" if i % 2 else "photos"), tmp_path / f"pack-{i}")
    with launched(Studio([tmp_path], device="cpu")) as address:
        watched.goto(address)
        search, cards = watched.get_by_role("searchbox", name="Search packs"), watched.locator(".mm-pack:visible")
        expect(cards).to_have_count(7)
        search.fill("codec ONLY")
        expect(cards).to_have_count(4)
        search.fill("pack 3")
        expect(cards).to_have_count(1)
        expect(watched.get_by_role("radio", name="pack-3")).to_be_visible()
        search.fill("nothing")
        expect(watched.get_by_text("No pack is found by “nothing”.")).to_be_visible()
        search.fill("")
        expect(cards).to_have_count(7)
        shutil.rmtree(tmp_path / "pack-3")
        choose_pack(watched, "pack-3")
        said = watched.get_by_test_id("toast-body").filter(has_text="pack-3")
        expect(said.first).to_contain_text(re.compile("no longer there|must be one of"))
        choose_pack(watched, "pack-1")
        open_tab(watched, "Sample")
        expect(watched.locator("#sample .mm-status")).to_contain_text("Seed 0")


# ----------------------------------------------------------------------------------------------------------- the Hub


def test_what_is_fetched_is_watched_opens_by_itself_and_what_failed_can_be_tried_again(
    watched: Page, hub_server: Hub, tiny_weights: Path, kinds: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(hub, "WAITS", ())
    hub_server.fill("some/tiny", tiny_weights / "tiny")
    arrives = hub_server.held["transformer/diffusion_pytorch_model.safetensors"] = threading.Event()
    asked = []
    watched.on("request", lambda request: asked.append(1) if '"fetching"' in (request.post_data or "") else None)
    studio = Studio([kinds], hub=["some/tiny", "some/later"], device="cpu")
    for repo in studio.hub:
        studio.fetch(repo)
    with launched(studio) as address:
        watched.goto(address)
        expect(chosen(watched)).to_have_attribute("value", "mnist")
        bar = watched.get_by_role("progressbar", name="Fetching some/tiny")
        watched.wait_for_function("bar => bar.value > 0 && bar.value < 1", arg=bar.element_handle())
        expect(watched.locator(".mm-awaited", has_text="some/tiny")).to_contain_text(
            re.compile(r"being fetched: \d+ %")
        )
        failed = watched.locator(".mm-awaited", has_text="some/later")
        expect(failed).to_contain_text("there is no some/later on the Hub")
        expect(watched.locator("#notice")).to_have_text("")
        arrives.set()
        expect(chosen(watched)).to_have_attribute("value", "some/tiny")
        expect(bar).to_have_count(0)
        expect(watched.locator(".mm-pack", has_text="some/tiny")).to_contain_text(
            f"Hub at {hub_server.head('some/tiny')[:7]}"
        )
        watched.wait_for_function("window.mmdemo.store.get('code')?.pack === 'some/tiny'")
        count = len(asked)
        watched.wait_for_timeout(2500)
        assert len(asked) == count > 0, "nothing is on its way, and the server is asked all the same"
        choose_pack(watched, "cifar")
        hub_server.fill("some/later", tiny_weights / "tiny-codec")
        failed.get_by_role("button", name="Try again").click()
        expect(chosen(watched)).to_have_attribute("value", "some/later")


def test_what_arrives_does_not_disturb_who_has_begun_with_another_pack(
    watched: Page, hub_server: Hub, tiny_weights: Path, kinds: Path
):
    hub_server.fill("some/tiny", tiny_weights / "tiny")
    arrives = hub_server.held["transformer/diffusion_pytorch_model.safetensors"] = threading.Event()
    studio = Studio([kinds], hub=["some/tiny"], device="cpu")
    studio.fetch("some/tiny")
    with launched(studio) as address:
        watched.goto(address)
        choose_pack(watched, "cifar")
        chosen(watched).focus()
        arrives.set()
        expect(watched.get_by_role("radio", name="some/tiny")).to_be_visible()
        expect(chosen(watched)).to_have_attribute("value", "cifar")
        expect(chosen(watched)).to_be_focused()


def test_a_visitor_may_name_a_repository_only_where_the_app_was_started_so(
    watched: Page, address: str, studio: Studio, hub_server: Hub, tiny_weights: Path, kinds: Path
):
    hub_server.fill("some/tiny", tiny_weights / "tiny")
    for name in ("pull", "fetch"):
        with pytest.raises(urllib.error.HTTPError, match="404"):
            called(address, name, "some/tiny")
    assert "whoever starts the app" in called(address, "try_again", "some/tiny")["error"]
    assert not studio.hub and not hub_server.asked
    studio = Studio([kinds], device="cpu")
    with launched(studio, allow_pull=True) as address:
        watched.goto(address)
        choose_pack(watched, "cifar")
        field = watched.get_by_placeholder("owner/name")
        field.fill("no repository")
        watched.get_by_role("button", name="Fetch from the Hub").click()
        expect(watched.get_by_role("alert").filter(has_text="must be owner/name")).to_be_visible()
        assert not studio.hub
        field.fill(" some/tiny ")
        field.press("Enter")
        expect(chosen(watched)).to_have_attribute("value", "some/tiny")
        expect(field).to_have_value("")
        assert studio.hub == ["some/tiny"]


def called(address: str, name: str, argument: str) -> dict:
    """What a program is answered that calls a function of the list as its script does."""
    with urllib.request.urlopen(f"{address}config") as answer:
        components = json.load(answer)["components"]
    (pack,) = (one["id"] for one in components if one["props"].get("elem_id") == "pack")
    asked = json.dumps({"data": argument, "fn_name": name, "component_id": pack, "session_hash": "visitor"}).encode()
    request = urllib.request.Request(
        f"{address}gradio_api/component_server", asked, {"Content-Type": "application/json"}
    )
    with urllib.request.urlopen(request) as answer:
        return json.load(answer)
