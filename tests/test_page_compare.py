"""The Compare tab in a real browser: a grid over two settings, and a strip between two ends."""

import json
import re

import numpy as np
import pytest
from browsing import Locator, Page, SlowStudio, choose_pack, expect, open_advanced, opened_uri
from PIL import Image

from mmdemo.errors import ArgumentError
from mmdemo.images import enlarge
from mmdemo.studio import Studio
from mmdemo.ui.grid import read
from mmdemo.ui.labelled import LINES, SIDE, font_for, table, wrapped

STUDIO = SlowStudio


@pytest.fixture
def grid(shared: Page) -> Locator:
    return half_of(shared, "Grid")


@pytest.fixture
def strip(shared: Page) -> Locator:
    return half_of(shared, "Strip")


def half_of(page: Page, mode: str) -> Locator:
    page.get_by_role("tab", name="Compare", exact=True).click()
    page.get_by_role("tab", name=mode, exact=True).click()
    half = page.locator(f"#{mode.lower()}")
    expect(half.locator("img").first).to_be_visible()
    return half


def choose(box: Locator, name: str) -> None:
    box.click()
    option = box.page.get_by_role("option", name=name, exact=True)
    option.click()
    expect(option).to_have_count(0)  # the list closes after a moment


def take_axes(grid: Locator, x: str, y: str) -> None:
    for side, name in (("Across", x), ("Down", y)):
        choose(grid.get_by_role("combobox", name=side), name)
        expect(grid.get_by_role("combobox", name=side)).to_have_value(name)


def keep_seed(half: Locator, seed: int) -> None:
    half.get_by_label("Randomize").uncheck()
    half.get_by_label("Seed", exact=True).fill(str(seed))


def compare(grid: Locator) -> None:
    grid.get_by_role("button", name="Compare", exact=True).click()


def shown(pictures: Locator) -> list[np.ndarray]:
    """The pictures' own pixels."""
    uris = pictures.locator("img").evaluate_all("all => all.map(one => one.src)")
    return [np.asarray(opened_uri(uri)) for uri in uris]


def downloaded(half: Locator) -> Image.Image:
    with half.page.expect_download() as download:
        half.get_by_role("link", name="Download PNG").click()
    return Image.open(download.value.path())


def holds(page: Image.Image, picture: Image.Image) -> bool:
    """Whether the picture, enlarged, is somewhere on the page."""
    pixels, large = np.asarray(page), np.asarray(enlarge(picture.convert("RGB"), SIDE))
    windows = np.lib.stride_tricks.sliding_window_view(pixels[..., 0], large.shape[1], axis=1)
    places = np.argwhere((windows == large[0, :, 0]).all(-1))
    return any(np.array_equal(pixels[y : y + len(large), x : x + len(large)], large) for y, x in places)


def test_a_grid_is_there_before_any_click_with_headings_and_times_and_a_cell_can_be_watched(
    grid: Locator, studio: Studio
):
    assert grid.locator("th[scope=col]").all_inner_texts() == ["0", "1", "2", "4"]
    assert grid.locator("th[scope=row]").all_inner_texts() == ["circle", "square", "triangle"]
    assert grid.locator(".mm-axis").all_inner_texts() == ["Guidance", "Class"]
    expect(grid.locator(".mm-status")).to_contain_text(re.compile(r"^Seed 0, 6 steps of .*: 12 pictures in [\d.]+ s"))
    for text in grid.locator("td button span").all_inner_texts():
        assert re.fullmatch(r"\d+\.\d\d s", text)
    ours = [studio.sample("tiny", label, 1, 0, 6, guidance).images[0]
            for label in ("circle", "square", "triangle") for guidance in (0, 1, 2, 4)]  # fmt: skip
    assert all(np.array_equal(a, np.asarray(b)) for a, b in zip(shown(grid.locator("td")), ours, strict=True))
    grid.get_by_role("button", name=re.compile("^Class square, Guidance 4,")).click()
    page = grid.page
    expect(page.get_by_role("tab", name="Denoise")).to_have_attribute("aria-selected", "true")
    words = re.compile("square, seed 0, 6 steps of .*, guidance 4: denoised in")
    expect(page.locator("#denoise .mm-status").filter(has_text=words)).to_be_visible()


def test_every_cell_is_what_python_draws_with_its_settings_and_the_download_tells_them(grid: Locator, studio: Studio):
    samplers = next(pack for pack in studio.packs() if pack.name == "tiny").samplers
    take_axes(grid, "Seed", "Sampler")
    grid.get_by_label("Seed: values").fill("3,5")
    choose(grid.get_by_role("combobox", name="Class", exact=True), "square")
    open_advanced(grid)
    grid.get_by_label("number input for Steps").fill("4")
    compare(grid)
    expect(grid.locator("th[scope=col]")).to_have_text(["3", "5"])
    expect(grid.locator("th[scope=row]")).to_have_text(list(samplers))
    expect(grid.locator(".mm-status")).to_contain_text(re.compile(r"^Class square, 4 steps, .*pictures in"))
    ours = [studio.sample("tiny", "square", 1, seed, 4, None, sampler).images[0]
            for sampler in samplers for seed in (3, 5)]  # fmt: skip
    assert all(np.array_equal(a, np.asarray(b)) for a, b in zip(shown(grid.locator("td")), ours, strict=True))
    page = downloaded(grid)
    told = json.loads(page.text["mmdemo"])
    assert (told["x"], told["xs"], told["y"], told["ys"]) == ("seed", [3, 5], "sampler", list(samplers))
    assert (told["pack"], told["label"], told["steps"]) == ("tiny", "square", 4)
    assert "seed" not in told and "sampler" not in told  # no single one holds for all cells
    assert all(holds(page, picture) for picture in ours)


def test_wrong_values_get_one_sentence_and_lose_nothing_and_two_axes_change_places(
    grid: Locator,
):
    take_axes(grid, "Guidance", "Class")
    pictures = grid.locator("td img").evaluate_all("all => all.map(one => one.src)")
    box, toast = grid.get_by_label("Guidance: values"), grid.page.get_by_test_id("toast-body")
    for typed, sentence in (
        ("1, two", "Guidance is '1, two'; it must be numbers with commas between them, such as 0, 1, 2, 4"),
        ("", "Guidance has 0 values; an axis has from 1 to 8"),
        ("1, 99", "guidance is 99; it must be a number from 0 to 20"),
    ):
        box.fill(typed)
        compare(grid)
        expect(toast).to_contain_text(sentence)
        expect(box).to_have_value(typed)
        expect(grid.get_by_role("button", name="Compare", exact=True)).to_be_enabled()
        grid.page.get_by_test_id("toast-close").click()
        expect(toast).to_have_count(0)
    assert grid.locator("td img").evaluate_all("all => all.map(one => one.src)") == pictures
    box.fill("2 ; 3")
    compare(grid)
    expect(grid.locator("th[scope=col]")).to_have_text(["2", "3"])
    choose(grid.get_by_role("combobox", name="Across"), "Class")
    expect(grid.get_by_role("combobox", name="Down")).to_have_value("Guidance")
    compare(grid)
    expect(grid.locator("th[scope=col]")).to_have_text(["circle", "square", "triangle"])
    expect(grid.locator("th[scope=row]")).to_have_text(["2", "3"])
    expect(grid.get_by_role("combobox", name="Class", exact=True)).to_be_hidden()  # it is an axis
    choose(grid.get_by_role("combobox", name="Across"), "Steps")
    expect(grid.get_by_role("combobox", name="Class", exact=True)).to_be_visible()
    expect(grid.get_by_label("Steps: values")).to_be_visible()
    open_advanced(grid)
    expect(grid.get_by_label("number input for Steps")).to_be_disabled()
    expect(grid.get_by_label("number input for Guidance")).to_be_disabled()
    choose(grid.get_by_role("combobox", name="Down"), "Class")
    expect(grid.get_by_label("number input for Guidance")).to_be_enabled()


@pytest.mark.parametrize("typed", ["1, 1.5, 2, 4", "1 1.5 2 4", "1;1.50;2.0;4,", "  1,1.5,\n2,4", "1，1.5、2；4"])
def test_numbers_are_read_however_they_are_separated(typed: str):
    found = read("guidance", typed)
    assert found == [1, 1.5, 2, 4]
    assert [str(one) for one in found] == ["1", "1.5", "2", "4"]  # the headings


@pytest.mark.parametrize(
    ("axis", "wanted", "sentence"),
    [
        ("steps", "5, 5.0", "Steps has 5 twice; give every value once"),
        ("seed", "1 2 3 4 5 6 7 8 9", "Seed has 9 values; an axis has from 1 to 8"),
        ("seed", None, "Seed has 0 values; an axis has from 1 to 8"),
        ("label", [], "Class has 0 values; an axis has from 1 to 8"),
        ("steps", "5-9", "Steps is '5-9'; it must be numbers with commas between them, such as 2, 5, 10, 20"),
    ],
)
def test_what_no_axis_can_have_is_said_in_the_words_of_the_page(axis: str, wanted, sentence: str):
    with pytest.raises(ArgumentError, match=f"^{re.escape(sentence)}$"):
        read(axis, wanted)


def test_stop_keeps_the_cells_that_are_done_and_ends_the_work(grid: Locator, studio: SlowStudio):
    take_axes(grid, "Guidance", "Class")
    grid.get_by_label("Guidance: values").fill("0 1 2 3 4 5 6 7")
    with studio.taking(0.5):
        compare(grid)
        expect(grid.locator(".mm-status")).to_contain_text(re.compile(r"Picture ([3-9]|1[0-4]) of 24…"))
        expect(grid.locator("td .mm-empty").last).to_be_visible()
        grid.get_by_role("button", name="Stop").click()
        expect(grid.locator(".mm-status")).to_have_text("Stopped.", timeout=3000)
        expect(grid.get_by_role("button", name="Compare", exact=True)).to_be_enabled()
        assert studio.stopped.wait(3)
        grid.page.wait_for_timeout(800)
        expect(grid.locator(".mm-status")).to_have_text("Stopped.")  # nothing arrives late
        assert 2 <= grid.locator("td button").count() < 16


def test_a_strip_is_there_before_any_click_and_stays_when_one_of_equal_ends_is_refused(strip: Locator, studio: Studio):
    ours = studio.morph("tiny", "circle", "square", 0, None, 8).images
    assert all(np.array_equal(a, np.asarray(b)) for a, b in zip(shown(strip.locator("li")), ours, strict=True))
    assert strip.locator("li span").all_inner_texts()[::7] == ["0 %", "100 %"]
    before = strip.locator("li img").evaluate_all("all => all.map(one => one.src)")
    choose(strip.get_by_label("To class"), "circle")
    strip.get_by_role("button", name="Draw strip").click()
    expect(strip.page.get_by_test_id("toast-body")).to_contain_text("Both ends are the same")
    assert strip.locator("li img").evaluate_all("all => all.map(one => one.src)") == before


def test_a_strip_goes_from_one_class_and_seed_to_the_others(strip: Locator, studio: Studio):
    choose(strip.get_by_label("From class"), "triangle")
    choose(strip.get_by_label("To class"), "circle")
    strip.get_by_label("number input for How many").fill("5")
    keep_seed(strip, 4)
    strip.get_by_label("Same noise").uncheck()
    strip.get_by_label("To seed").fill("9")
    strip.get_by_role("button", name="Draw strip").click()
    expect(strip.locator(".mm-status")).to_contain_text("From triangle to circle, seed 4 to 9,")
    ours = studio.morph("tiny", "triangle", "circle", 4, 9, 5).images
    assert all(np.array_equal(a, np.asarray(b)) for a, b in zip(shown(strip.locator("li")), ours, strict=True))
    page = downloaded(strip)
    told = json.loads(page.text["mmdemo"])
    assert (told["label"], told["other_label"], told["seed"], told["other_seed"]) == ("triangle", "circle", 4, 9)
    assert all(holds(page, picture) for picture in ours)


def test_a_strip_is_watched_while_it_forms_and_stop_ends_the_work(strip: Locator, studio: SlowStudio):
    first = strip.locator("li img").evaluate_all("all => all.map(one => one.src)")
    open_advanced(strip)
    strip.get_by_label("number input for Steps").fill("50")
    with studio.taking(0.2):
        strip.get_by_role("button", name="Draw strip").click()
        expect(strip.locator(".mm-status")).to_contain_text(re.compile(r"Step ([3-9]|\d\d) of 50"))
        forming = strip.locator("li img").evaluate_all("all => all.map(one => one.src)")
        assert len(forming) == len(first) and forming != first
        strip.get_by_role("button", name="Stop").click()
        expect(strip.locator(".mm-status")).to_have_text("Stopped.", timeout=3000)
        assert studio.stopped.wait(3)
        expect(strip.get_by_role("button", name="Draw strip")).to_be_enabled()


def test_a_pack_without_transformer_says_so_in_both_halves(grid: Locator):
    page = grid.page
    choose_pack(page, "tiny-codec")
    for mode, button in (("Grid", "Compare"), ("Strip", "Draw strip")):
        page.get_by_role("tab", name=mode, exact=True).click()
        half = page.locator(f"#{mode.lower()}")
        expect(half.locator(".mm-status")).to_contain_text("has no transformer")
        expect(half.get_by_role("button", name=button, exact=True)).to_be_hidden()
        expect(half.locator("img")).to_have_count(0)
    choose_pack(page, "tiny-v")
    expect(page.locator("#strip li")).to_have_count(8)


def test_both_halves_fit_a_phone_and_a_desk(watched: Page, address: str):
    watched.set_viewport_size({"width": 390, "height": 844})
    watched.goto(address)
    half_of(watched, "Grid")
    for width in (390, 1280):
        watched.set_viewport_size({"width": width, "height": 844})
        for mode in ("Grid", "Strip"):
            watched.get_by_role("tab", name=mode, exact=True).click()
            expect(watched.locator(f"#{mode.lower()}").get_by_role("link", name="Download PNG")).to_be_visible()
            assert watched.locator(":root").evaluate("page => page.scrollWidth - page.clientWidth") <= 0


def test_words_too_long_for_the_table_are_cut_and_the_pictures_stay_whole():
    pictures = [[Image.new("L", (16, 16), 10 * row + column) for column in range(2)] for row in range(3)]
    page = table(pictures, ["a very long sampler's name " * 3, "b"], ["a class of many words " * 9, "c", "d"], "Title")
    assert all(holds(page, one) for row in pictures for one in row)
    assert page.width < 700 and page.height > table(pictures, ["a", "b"], ["a", "c", "d"], "Title").height
    more = table(pictures, ["a", "b"], ["a row of words", "c", "d"], "A title without end, " * 9)
    assert more.width < 760 and more.height > table(pictures, ["a", "b"], ["a", "c", "d"], "A title").height


def test_a_long_text_beside_a_picture_is_broken_between_words_and_cut_where_there_is_no_more_room():
    font = font_for("a")
    lines = wrapped("a smiling person with long grey hair and a black hat", font, 160)
    assert " ".join(lines) == "a smiling person with long grey hair and a black hat" and len(lines) == 3
    assert all(font.getlength(line) <= 160 for line in lines)
    lines = wrapped("x" * 400 + " and so on", font, 160)
    assert len(lines) == LINES and lines[-1].endswith("x...") and all(font.getlength(line) <= 160 for line in lines)
    assert wrapped("a\u202eb\n", font, 160) == ["ab"] and wrapped("", font, 160) == [""]
