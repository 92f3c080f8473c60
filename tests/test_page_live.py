"""The third part of the Compare tab in a real browser: a picture that follows the hand in a square."""

import json
import re

import pytest
from browsing import Locator, Page, SlowStudio, answered, choose_pack, expect, opened_uri
from conftest import alike

from mmdemo.samplers import FAST
from mmdemo.ui.live import FIRST_PLACE

STUDIO, WEIGHTS = SlowStudio, "fast_weights"
LABELS = ["circle", "square", "triangle", "circle"]
# Every picture that is shown from now on, and how many questions are open at once.
WATCH = """() => {
  const image = document.querySelector('.mm-square img'), ask = window.fetch;
  let open = 0;
  Object.assign(window, { shown: [], most: 0 });
  new MutationObserver(() => shown.push(image.src)).observe(image, { attributeFilter: ['src'] });
  window.fetch = async (...given) => {
    const ours = String(given[0]?.url ?? given[0]).includes('component_server');
    if (ours) most = Math.max(most, ++open);
    try { return await ask(...given); } finally { if (ours) open -= 1; }
  };
}"""


@pytest.fixture
def live(watched: Page, address: str) -> Locator:
    watched.goto(address)
    watched.get_by_role("tab", name="Compare", exact=True).click()
    watched.get_by_role("tab", name="Live", exact=True).click()
    expect(watched.locator(".mm-square img")).to_have_attribute("src", re.compile("^data:image/png"))
    watched.evaluate(WATCH)
    return watched.locator("#live")


def place(live: Locator) -> tuple[float, float]:
    """Where the handle is."""
    x, y = live.locator(".mm-handle").evaluate(
        "one => `${one.style.translate} 0`.split(' ').slice(0, 2).map(parseFloat)"
    )
    return x, y


def drawn(studio: SlowStudio, live: Locator, labels=LABELS, seeds=(0,) * 4, pack: str = "fast", **more):
    x, y = place(live)
    return studio.blend(pack, labels, x / 100, y / 100, list(seeds), sampler=FAST, **more).image


def shown(live: Locator):
    return opened_uri(live.locator(".mm-square img").get_attribute("src"))


def press(live: Locator, x: float, y: float, steps: int = 1) -> None:
    """Moves the mouse to a place, with its button as it is."""
    box = live.locator(".mm-square").bounding_box()
    live.page.mouse.move(box["x"] + x * box["width"], box["y"] + y * box["height"], steps=steps)


def test_a_picture_is_there_before_any_touch_and_follows_a_drag_by_few_questions(live: Locator, studio):
    page, mouse = live.page, live.page.mouse
    assert place(live) == tuple(100 * one for one in FIRST_PLACE)
    assert alike(shown(live), drawn(studio, live))
    expect(live.locator(".mm-edge span")).to_have_text(LABELS)
    press(live, 0.1, 0.9)
    with studio.taking(0.05), answered(page):
        mouse.down()
        press(live, 0.8, 0.3, steps=40)
        expect(live.locator(".mm-foot p")).to_contain_text("1 step of fast")
        mouse.up()
        press(live, 0.2, 0.2)  # let go of, it stays
    assert place(live) == pytest.approx((80, 30), abs=1)
    pictures = page.evaluate("window.shown")
    assert 2 <= len(pictures) < 40 and page.evaluate("window.most") == 2  # what lay between was not asked for
    assert alike(shown(live), drawn(studio, live))
    assert (
        "Circle: 38 %, square: 56 %, triangle: 6 %; seed 0, 4 steps of fast" in live.locator(".mm-foot p").inner_text()
    )
    with page.expect_download() as download:
        live.get_by_role("link", name="Download PNG").click()
    told = json.loads(opened(download.value.path()).text["mmdemo"])
    assert (told["labels"], told["sampler"], told["x"], told["y"]) == (
        LABELS,
        FAST,
        *(one / 100 for one in place(live)),
    )


def opened(path):
    from PIL import Image

    return Image.open(path)


def test_arrow_keys_move_the_handle_and_stop_at_the_edge(live: Locator, studio):
    square = live.get_by_role("slider", name="Place between the corners")
    with answered(live.page):
        square.press("ArrowRight")
        square.press("Shift+ArrowDown")
    assert place(live) == pytest.approx((27, 35))
    with answered(live.page):
        for _ in range(4):
            square.press("Shift+ArrowUp")
    assert place(live) == pytest.approx((27, 0))
    assert alike(shown(live), drawn(studio, live))
    expect(square).to_have_attribute("aria-valuetext", re.compile("^Circle: 73 %, square: 27 %; seed 0"))


def test_an_answer_that_a_newer_one_has_overtaken_is_not_shown(live: Locator, studio):
    page, square = live.page, live.get_by_role("slider", name="Place between the corners")
    with answered(page):
        with studio.taking(0.5):
            with page.expect_request(lambda one: "component_server" in one.url):
                square.press("ArrowRight")
            page.wait_for_timeout(200)  # its first step has begun
        square.press("Shift+ArrowRight")
        page.wait_for_function("window.shown.length")
        newest = drawn(studio, live)
        assert alike(shown(live), newest)
    assert len(page.evaluate("window.shown")) == 1 and alike(shown(live), newest)


def test_an_answer_for_corners_that_are_no_more_is_never_shown(live: Locator, studio):
    page = live.page
    with studio.taking(0.4), answered(page):
        with page.expect_request(lambda one: "component_server" in one.url):
            live.get_by_role("slider", name="Place between the corners").press("ArrowRight")  # on its way…
        live.get_by_label("Seed", exact=True).fill("5")  # … when its corners change
        page.wait_for_function("window.shown.length")
        page.wait_for_timeout(600)
    (only,) = page.evaluate("window.shown")
    assert alike(opened_uri(only), drawn(studio, live, seeds=[5] * 4))
    with studio.taking(0.4), answered(page):
        with page.expect_request(lambda one: "component_server" in one.url):
            live.get_by_role("slider", name="Place between the corners").press("ArrowRight")
        choose_pack(page, "tiny")
        expect(live.locator(".mm-status")).to_contain_text("train one: python -m mmdemo train student --pack tiny")
    for there in (
        live.locator(".mm-square"),
        live.get_by_role("radio", name="Seeds"),
        live.get_by_role("combobox", name="Top left"),
    ):
        expect(there).to_be_hidden()
    choose_pack(page, "fast")
    expect(live.locator(".mm-square")).to_be_visible()
    expect(live.get_by_label("Seed", exact=True)).to_have_value("0")
    assert alike(shown(live), drawn(studio, live))


def test_the_corners_may_be_seeds_or_texts(live: Locator, studio):
    with answered(live.page):
        live.get_by_role("radio", name="Seeds").check()
        expect(live.locator(".mm-edge span")).to_have_text(["seed 0", "seed 1", "seed 2", "seed 3"])
    assert alike(shown(live), drawn(studio, live, "circle", range(4)))
    expect(live.locator(".mm-foot p")).to_have_text(re.compile("^Seed 0: 56 %, .*; circle, 4 steps"))
    expect(live.get_by_role("combobox", name="Top left")).to_be_hidden()
    live.get_by_label("Seed", exact=True).fill("-1")
    expect(live.page.get_by_test_id("toast-body")).to_contain_text("seed is -1; it must be a whole number from 0 to")
    choose_pack(live.page, "words")
    expect(live.locator(".mm-edge span").first).to_have_text("“a red circle”")
    with answered(live.page):
        live.get_by_role("textbox", name="Bottom right").fill("a zebra")
        live.get_by_role("textbox", name="Bottom right").press("Enter")
        expect(live.locator(".mm-edge span").last).to_have_text("“a zebra”")
    texts = live.locator(".mm-edge span").all_inner_texts()
    assert alike(shown(live), drawn(studio, live, [text.strip("“”") for text in texts], pack="words"))
    expect(live.locator(".mm-foot p")).to_contain_text("“zebra” was never seen")


def test_the_square_fits_a_phone_and_fast_is_the_first_of_the_samplers(live: Locator):
    page = live.page
    page.set_viewport_size({"width": 390, "height": 844})
    expect(live.locator(".mm-square")).to_have_css("touch-action", "none")
    assert page.locator(":root").evaluate("page => page.scrollWidth - page.clientWidth") <= 0
    assert live.locator(".mm-square").bounding_box()["width"] > 340
    page.get_by_role("tab", name="Sample", exact=True).click()
    sample = page.locator("#sample")
    sample.get_by_role("button", name="Advanced").click()
    expect(sample.get_by_role("combobox", name="Sampler")).to_have_value("euler")
    sample.get_by_role("combobox", name="Sampler").click()
    page.get_by_role("option").first.click()
    expect(sample.get_by_role("combobox", name="Sampler")).to_have_value("fast (4 steps)")
    expect(sample.get_by_label("number input for Steps")).to_have_value("4")
    sample.get_by_role("button", name="Draw", exact=True).click()
    expect(sample.locator(".mm-status")).to_contain_text("4 steps of fast")
