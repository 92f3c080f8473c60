"""The codes on a map, and the chosen one in a picture, in a real browser."""

import json
import re
import time
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from browsing import Locator, Page, choose_cell, choose_pack, expect, launched, open_pack, open_tab, opened_uri
from PIL import Image

from mmdemo.studio import Studio
from mmdemo.ui.codebook import colours
from mmdemo.ui.pictures import photographs


@pytest.fixture(scope="module")
def studio(varied: Studio) -> Studio:
    return varied


@pytest.fixture
def page(watched: Page, address: str) -> Page:
    """The Codebook tab on `cifar`, with the chosen code's places in the first example."""
    watched.goto(address)
    open_pack(watched, "cifar")
    expect(places(watched)).to_contain_text("16 tokens of Example 1")
    return watched


def places(page: Page) -> Locator:
    return page.locator(".mm-places")


def card(page: Page) -> Locator:
    return page.locator("#codebook-view .mm-card h3")


def middle(ring: Locator) -> tuple[float, float]:
    box = ring.bounding_box()
    return box["x"] + box["width"] / 2, box["y"] + box["height"] / 2


def ring(page: Page) -> Locator:
    return page.locator(".mm-ring-picked")


def choose(page: Page, studio: Studio, code: int) -> None:
    choose_cell(page.get_by_role("grid", name="Codes"), studio.codebook("cifar").order.index(code))
    expect(card(page)).to_have_text(f"Code {code}")


def shows(page: Page, name: str, expected: Image.Image) -> None:
    for _ in range(50):
        uri = places(page).get_by_alt_text(name, exact=True).get_attribute("src")
        if "," in uri:
            seen = np.asarray(opened_uri(uri))
            if np.array_equal(seen, np.asarray(expected)):
                return
        page.wait_for_timeout(100)
    raise AssertionError(f"{name} is another picture")


def test_the_map_has_every_code_where_the_studio_puts_it_and_a_pointer_or_arrows_choose_it(page: Page, studio: Studio):
    plane = studio.code_map("cifar")
    expect(page.locator("#codebook-view")).to_contain_text(f"shows {plane.explained:.2%} of their variance")
    found = []
    for code in (0, 5, 11):
        choose(page, studio, code)
        found.append(middle(ring(page)))
    (ax, ay), (bx, by), (cx, cy) = found
    points = np.array([plane.points[code] for code in (0, 5, 11)])
    ours, theirs = np.array([(bx - ax, ay - by), (cx - ax, ay - cy)]), points[1:] - points[0]  # up is up
    scale = np.abs(ours).max() / np.abs(theirs).max()
    assert np.abs(ours - scale * theirs).max() < 2  # pixels
    choose(page, studio, 7)
    page.locator(".mm-map").scroll_into_view_if_needed()
    box, (x, y) = page.locator(".mm-map").bounding_box(), middle(ring(page))
    x, y = x - box["x"], y - box["y"]
    choose(page, studio, 3)  # which may scroll the page
    page.locator(".mm-map").hover(position={"x": x, "y": y})
    tip = page.locator(".mm-tip")
    expect(tip).to_contain_text(re.compile(r"Code 7, [\d.< ]+%"))
    drawn = tip.locator("canvas").evaluate("c => [...c.getContext('2d').getImageData(0, 0, c.width, c.height).data]")
    expected = np.asarray(studio.codebook("cifar").swatch(7).convert("RGBA"))
    assert np.array_equal(np.array(drawn, dtype=np.uint8).reshape(expected.shape), expected)
    page.locator(".mm-map").click(position={"x": x, "y": y})
    expect(card(page)).to_have_text("Code 7")
    picked = page.get_by_role("grid", name="Codes").locator("[aria-selected=true]")
    expect(picked).to_have_attribute("title", re.compile("^Code 7,"))
    points = np.array(plane.points)
    leftmost = int(points[:, 0].argmin())
    choose(page, studio, leftmost)
    page.mouse.move(0, 0)
    page.locator(".mm-map").focus()
    seen = [leftmost]
    for _ in range(3):
        page.keyboard.press("ArrowRight")
        seen.append(int(re.match(r"Code (\d+)", page.locator(".mm-tip").inner_text())[1]))
    assert all(points[a, 0] < points[b, 0] for a, b in zip(seen, seen[1:], strict=False))
    expect(card(page)).to_have_text(f"Code {leftmost}")  # the arrows only move
    page.keyboard.press("Enter")
    expect(card(page)).to_have_text(f"Code {seen[-1]}")


def test_dots_have_the_average_colour_of_their_swatches(studio: Studio):
    book = studio.codebook("cifar")
    found = colours(book)
    assert len(found) == book.codes
    for code in (0, 9, 15):
        mean = np.asarray(book.swatch(code).convert("RGB"), dtype=float).mean((0, 1))
        shown = [int(found[code][i : i + 2], 16) for i in (1, 3, 5)]
        assert np.abs(mean - shown).max() <= 1


def test_the_chosen_code_is_found_in_the_picture_and_the_other_is_the_commonest_or_typed_or_clicked_as_in_the_studio(
    page: Page, studio: Studio
):
    seen = studio.reconstruct("cifar", photographs()[0])
    times = Counter(id for row in seen.tokens for id in row)
    absent = next(code for code in range(16) if not times[code])
    choose(page, studio, absent)
    expect(places(page)).to_contain_text("None of the 16 tokens")
    common = int(places(page).get_by_label("The other code").input_value())
    assert times[common] == max(times.values())
    shows(page, "after", studio.replace("cifar", seen.tokens, common, absent).after)
    expect(places(page)).to_contain_text(f"{times[common]} tokens changed.")
    code, count = times.most_common()[0]
    choose(page, studio, code)
    expect(places(page)).to_contain_text(f"{count} of the 16 tokens of Example 1 ")
    bright = """canvas => { const side = canvas.width / 4, c = canvas.getContext('2d'); return [...Array(16).keys()]
        .filter(i => c.getImageData((i % 4 + .5) * side, (Math.floor(i / 4) + .5) * side, 1, 1).data[3] === 0); }"""
    flat = [id for row in seen.tokens for id in row]
    assert places(page).locator(".mm-marks").evaluate(bright) == [i for i, id in enumerate(flat) if id == code]
    other = int(places(page).get_by_label("The other code").input_value())
    uses = Counter(id for id in flat if id != code)
    assert uses[other] == max(uses.values()), "the commonest of the others"
    made = studio.replace("cifar", seen.tokens, code, other)
    for name in ("before", "after", "difference"):
        shows(page, name, getattr(made, name))
    other = (code + 3) % 16
    places(page).get_by_label("The other code").fill(str(other))
    page.keyboard.press("Enter")
    shows(page, "after", studio.replace("cifar", seen.tokens, code, other).after)
    places(page).get_by_label("The other code").fill("16")
    page.keyboard.press("Enter")
    expect(places(page)).to_contain_text("by is 16; it must be a whole number from 0 to 15")
    code = seen.tokens[0][0]
    other = (code + 6) % 16
    choose(page, studio, code)
    places(page).get_by_role("button", name="Choose it in the grid").click()
    choose_cell(page.get_by_role("grid", name="Codes"), studio.codebook("cifar").order.index(other))
    shows(page, "after", studio.replace("cifar", seen.tokens, code, other).after)
    expect(card(page)).to_have_text(f"Code {code}")
    choose(page, studio, other)  # the next one is chosen as ever


def test_a_token_of_the_picture_leads_to_its_code_and_an_edited_picture_is_followed(page: Page, studio: Studio):
    open_tab(page, "Reconstruct")
    expect(page.locator("#reconstruct .mm-status")).to_contain_text("4 × 4 tokens")
    page.get_by_role("button", name="Edit tokens").click()
    absent = next(i for i in range(16) if str(i) not in page.locator("#reconstruct-view .mm-token").all_inner_texts())
    choose_cell(page.get_by_role("grid", name="Tokens", exact=True), 15)
    page.get_by_label("Code", exact=True).fill(str(absent))
    page.keyboard.press("Enter")
    expect(page.locator("#reconstruct-view")).to_contain_text("1 of 16 tokens edited")
    expect(page.get_by_text(re.compile(r"took \d+ ms"))).to_be_visible()
    page.get_by_role("tab", name="Codebook").click()
    expect(places(page)).to_contain_text("Example 1, edited")
    choose_cell(page.get_by_role("grid", name="Tokens of the picture"), 15)
    expect(card(page)).to_have_text(f"Code {absent}")
    expect(places(page)).to_contain_text(f"1 of the 16 tokens of Example 1, edited, is code {absent}.")


@pytest.mark.parametrize("width", [390, 1280])
def test_4096_codes_are_on_the_map_and_a_click_finds_one(watched: Page, address: str, studio: Studio, width):
    watched.set_viewport_size({"width": width, "height": 844})
    watched.goto(address)
    open_pack(watched, "photos")
    expect(watched.locator(".mm-tile", has_text="Codes").first).to_contain_text("4096")
    expect(places(watched)).to_contain_text("64 tokens of Example 1")
    plane = watched.locator(".mm-map")
    plane.scroll_into_view_if_needed()
    assert plane.locator("canvas").first.evaluate("c => c.width") >= min(width, 600) * 0.8
    assert plane.locator("*").count() < 10
    box = plane.bounding_box()
    watched.mouse.click(box["x"] + box["width"] * 0.45, box["y"] + box["height"] * 0.55)
    x, y = middle(ring(watched))
    box = plane.bounding_box()
    assert abs(x - box["x"] - box["width"] * 0.45) < 15 and abs(y - box["y"] - box["height"] * 0.55) < 15
    assert watched.locator(":root").evaluate("page => page.scrollWidth - page.clientWidth") <= 0


def test_a_pack_that_comes_while_another_code_is_to_be_chosen_takes_none_of_it(page: Page, studio: Studio):
    choose(page, studio, 3)
    places(page).get_by_label("The other code").fill("15")
    page.keyboard.press("Enter")
    places(page).get_by_role("button", name="Choose it in the grid").click()
    open_pack(page, "photos")
    expect(places(page)).to_contain_text("64 tokens of Example 1")
    expect(places(page).get_by_role("button", name="Choose it in the grid")).to_have_attribute("aria-pressed", "false")
    tokens = [id for row in studio.reconstruct("photos", photographs()[0], size=32).tokens for id in row]
    assert int(places(page).get_by_label("The other code").input_value()) in tokens  # not what was wished of cifar
    expect(page.get_by_role("grid", name="Codes").locator("[aria-selected=true]")).to_have_count(1)


class SlowBooks(Studio):
    """A studio that takes its time over the codebooks that the page does not open with."""

    def code_map(self, pack: str):
        time.sleep({"cifar": 0.5, "photos": 1.5}.get(pack, 0))
        return super().code_map(pack)


def test_a_code_wanted_by_another_tab_is_shown_though_another_packs_codes_come_first(watched: Page, kinds: Path):
    with launched(SlowBooks([kinds], device="cpu")) as url:
        watched.goto(url)
        watched.wait_for_function("window.mmdemo?.store.get('code')?.pack === 'mnist'")
        with watched.expect_request(lambda request: json.loads(request.post_data or "{}").get("data") == ["cifar"]):
            choose_pack(watched, "cifar")
        watched.evaluate("window.mmdemo.store.set('wanted', { pack: 'photos', code: 77 })")
        watched.wait_for_function("window.mmdemo.store.get('code').pack === 'cifar'")
        expect(card(watched)).to_have_text("Code 77")
        open_pack(watched, "mnist")
        open_pack(watched, "photos")
        expect(card(watched)).not_to_have_text("Code 77")  # it was wanted once
