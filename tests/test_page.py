"""The page in a real browser, used as a person would use it, on the tiny pack."""

import io
import json
import re
import threading
from pathlib import Path

import numpy as np
import pytest
from browsing import (
    TABS,
    Page,
    SlowStudio,
    choose_cell,
    choose_pack,
    expect,
    launched,
    open_advanced,
    open_tab,
    opened_uri,
)
from PIL import Image, ImageDraw

from mmdemo.studio import Studio

STUDIO = SlowStudio


def canvases(page: Page) -> list[np.ndarray]:
    """The pictures of the Sample tab as bytes, (height, width) each."""
    read = "all => all.map(c => [...c.getContext('2d').getImageData(0, 0, c.width, c.height).data])"
    pictures = page.locator(".mm-picture canvas").evaluate_all(read)
    return [np.array(values, dtype=np.uint8).reshape(16, 16, 4)[..., 0] for values in pictures]


def test_codebook_draws_swatches_where_their_buttons_are_shows_a_code_at_once_and_any_other_on_choosing(
    page: Page, studio: Studio
):
    book = studio.codebook("tiny")
    codes = page.get_by_role("grid", name="Codes")
    card = page.locator("#codebook-view .mm-card")
    expect(card).to_contain_text(re.compile(r"Code \d+"))
    expect(page.locator(".mm-tile", has_text="Perplexity")).to_contain_text(f"{book.perplexity:.1f}")
    expect(page.locator(".mm-swatches canvas")).to_be_visible()
    middle = "c => [...c.getContext('2d').getImageData(c.width / 8, c.height * 7 / 8, 1, 1).data]"  # column 0, last row
    last_row = book.swatches.convert("L").crop((0, 3 * book.swatch_size, book.swatch_size, 4 * book.swatch_size))
    inside = np.asarray(last_row)[book.swatch_size // 2 - 1 :, book.swatch_size // 2 - 1 :][:2, :2]
    assert page.locator(".mm-swatches canvas").evaluate(middle)[0] in inside
    choose_cell(codes, 5)
    expect(card).to_contain_text(f"Code {book.order[5]}")
    page.keyboard.press("ArrowRight")
    expect(card).to_contain_text(f"Code {book.order[5]}")  # the arrows only move
    page.keyboard.press("Enter")
    expect(card).to_contain_text(f"Code {book.order[6]}")
    expect(codes.locator("[aria-selected=true]")).to_have_attribute("title", re.compile(f"^Code {book.order[6]},"))
    nearest = studio.code("tiny", book.order[6]).nearest[0]["code"]
    card.locator(".mm-nearest button").first.click()
    expect(card).to_contain_text(f"Code {nearest}")
    most_used = int(np.argmax(book.counts))
    page.locator(".mm-bars").click(position={"x": 3, "y": 100})
    expect(card).to_contain_text(f"Code {most_used}")
    expect(card.locator(".mm-patches img").first).to_be_visible()


def test_reconstruct_shows_an_example_the_divider_uncovers_it_and_its_tokens_lead_to_codes(page: Page):
    open_tab(page, "Reconstruct")
    tokens = page.locator("#reconstruct-view .mm-token")
    expect(tokens).to_have_count(16)
    expect(page.locator(".mm-tile", has_text="PSNR")).to_contain_text("dB")
    divider = page.get_by_label("Divider between original and reconstruction")
    divider.focus()
    page.keyboard.press("End")
    clip = page.locator(".mm-after").evaluate("image => getComputedStyle(image).clipPath")
    assert "100%" in clip
    assert page.locator(".mm-after").evaluate("image => getComputedStyle(image).imageRendering") == "pixelated"
    choose_cell(page.get_by_role("grid", name="Tokens"), 6)
    code = tokens.nth(6).inner_text()
    expect(page.locator("#reconstruct-view .mm-card h3")).to_have_text(f"Code {code}")
    page.get_by_role("button", name="Open in Codebook").click()
    expect(page.get_by_role("tab", name="Codebook")).to_have_attribute("aria-selected", "true")
    expect(page.locator("#codebook-view .mm-card h3")).to_have_text(f"Code {code}")


def test_a_drawing_is_shown_after_the_stroke_and_a_file_is_kept_when_invert_changes_and_when_the_next_is_bad(
    page: Page, tmp_path: Path
):
    open_tab(page, "Reconstruct")
    original = page.get_by_alt_text("Original")
    before = original.get_attribute("src")
    pad = page.locator(".mm-pad").bounding_box()
    page.mouse.move(pad["x"] + 60, pad["y"] + 40)
    page.mouse.down()
    page.mouse.move(pad["x"] + 60, pad["y"] + 200, steps=5)
    page.mouse.up()
    expect(original).not_to_have_attribute("src", before)
    expect(page.locator("#reconstruct")).to_contain_text("The picture was inverted.")
    pixels = seen(page)
    assert pixels[:, 3:5].mean() > 3 * pixels[:, 10:].mean()  # bright where the pen was, dark elsewhere
    before = original.get_attribute("src")
    picture = Image.new("L", (64, 64), 255)
    ImageDraw.Draw(picture).rectangle([20, 20, 43, 43], fill=0)
    picture.save(tmp_path / "square.png")
    upload = page.locator("#upload input[type=file]")
    upload.set_input_files(tmp_path / "square.png")
    expect(original).not_to_have_attribute("src", before)
    bright = seen(page)
    assert bright[8, 8] > 200 and bright[0, 0] < 50
    shown = original.get_attribute("src")
    page.get_by_label("no", exact=True).check()
    expect(original).not_to_have_attribute("src", shown)
    dark = seen(page)
    assert dark[8, 8] < 50 and dark[0, 0] > 200
    kept = original.get_attribute("src")
    (tmp_path / "words.png").write_text("This is no picture.")
    page.get_by_label("Remove this file").or_(page.get_by_label("Clear")).first.click()
    upload.set_input_files(tmp_path / "words.png")
    toast = page.get_by_test_id("toast-body")
    expect(toast).to_contain_text("image")
    expect(toast).not_to_contain_text("Traceback")
    expect(original).to_have_attribute("src", kept)


def seen(page: Page) -> np.ndarray:
    """What the model saw: the original's own pixels."""
    uri = page.get_by_alt_text("Original").get_attribute("src")
    return np.asarray(opened_uri(uri))


def test_sample_draws_what_python_draws_tells_how_and_the_random_seed_and_leads_to_the_film(page: Page, studio: Studio):
    open_tab(page, "Sample")
    expect(page.locator(".mm-picture")).to_have_count(10)  # there before any click
    page.locator(".mm-picture").nth(1).click()
    expect(page.get_by_role("tab", name="Denoise")).to_have_attribute("aria-selected", "true")
    expect(page.locator("#denoise .mm-status")).to_contain_text(re.compile("square, seed 1, .* denoised in"))
    open_tab(page, "Sample")
    page.locator("#sample").get_by_label("Class").click()
    page.get_by_role("option", name="square").click()
    page.locator("#sample").get_by_label("number input for How many").fill("3")
    page.locator("#sample").get_by_label("Randomize").uncheck()
    page.locator("#sample").get_by_label("Seed", exact=True).fill("5")
    page.get_by_role("button", name="Draw", exact=True).click()
    expect(page.locator("#sample .mm-status")).to_contain_text(re.compile("Seed 5, .* drawn in"))
    expect(page.locator(".mm-picture:enabled")).to_have_count(3)
    ours = studio.sample("tiny", "square", 3, 5).images
    assert all(np.array_equal(a, np.asarray(b)) for a, b in zip(canvases(page), ours, strict=True))
    with page.expect_download() as download:
        page.get_by_role("link", name="Download PNG").click()
    grid = Image.open(download.value.path())
    assert json.loads(grid.text["mmdemo"])["seed"] == 5
    assert download.value.suggested_filename == "tiny-seed-5.png"
    page.locator("#sample").get_by_label("Randomize").check()
    page.get_by_role("button", name="Draw", exact=True).click()
    box = page.locator("#sample").get_by_label("Seed", exact=True)
    expect(box).not_to_have_value("5")
    seed = box.input_value()
    expect(page.locator("#sample .mm-status")).to_contain_text(f"Seed {seed},")


def test_stop_works_at_once_the_first_time(page: Page, studio: SlowStudio):
    open_tab(page, "Sample")
    sample = page.locator("#sample")
    open_advanced(sample)
    steps = sample.get_by_label("number input for Steps")
    expect(steps).to_have_value("6")  # the pack's own default
    steps.fill("100")
    sample.get_by_label("number input for How many").fill("12")
    draw = page.get_by_role("button", name="Draw", exact=True)
    with studio.taking(0.1):
        draw.click()
        status = sample.locator(".mm-status")
        expect(status).to_contain_text(re.compile(r"Step \d+ of 100"))
        expect(page.locator(".mm-picture")).to_have_count(12)  # seen while being denoised
        sample.get_by_role("button", name="Stop").click()
        expect(status).to_have_text("Stopped.", timeout=3000)
        expect(draw).to_be_enabled()
        assert studio.stopped.wait(3)
        page.wait_for_timeout(500)
        expect(status).to_have_text("Stopped.")  # nothing arrives late
        expect(page.locator(".mm-picture")).to_have_count(12)


def test_denoise_streams_then_scrubs_and_plays_without_the_server(page: Page, studio: Studio):
    open_tab(page, "Denoise")
    denoise = page.locator("#denoise")
    noisy, guess = (
        denoise.get_by_alt_text("The noisy picture"),
        denoise.get_by_alt_text("The guess of the finished picture"),
    )
    assert noisy.get_attribute("src") != guess.get_attribute("src")  # there before any click, and in the middle
    denoise.get_by_label("Randomize").uncheck()
    denoise.get_by_label("Seed", exact=True).fill("3")
    page.get_by_role("button", name="Denoise", exact=True).click()
    expect(denoise.locator(".mm-status")).to_contain_text(re.compile("circle, seed 3, .* denoised in"))
    frames = list(studio.denoise("tiny", "circle", 3))
    expect(denoise.locator(".mm-readout")).to_contain_text(f"step {len(frames)} of {len(frames)}")
    asked = []
    page.on("request", lambda request: asked.append(request.url) if request.url.startswith("http") else None)
    slider = denoise.get_by_label("Step", exact=True)
    slider.focus()
    page.keyboard.press("Home")
    expect(denoise.locator(".mm-readout")).to_contain_text(f"timestep {frames[0].timestep:.0f}")
    expect(denoise.locator(".mm-readout")).to_contain_text(f"noise {frames[0].noise_level:.0%}".replace("%", " %"))
    page.keyboard.press("ArrowRight")
    expect(denoise.locator(".mm-readout")).to_contain_text(f"timestep {frames[1].timestep:.0f}")
    shown = denoise.locator(".mm-token").all_inner_texts()
    assert [int(id) for id in shown] == [id for row in frames[1].tokens for id in row]
    denoise.get_by_role("button", name="Play").click()
    expect(denoise.locator(".mm-readout")).to_contain_text(f"step {len(frames)} of {len(frames)}")
    assert [url for url in asked if "heartbeat" not in url] == []


def test_a_damaged_pack_cannot_be_chosen_and_one_without_transformer_says_so_where_it_matters(page: Page):
    expect(page.locator("#notice")).to_contain_text(re.compile("broken cannot be opened: .*vae"))
    choices = page.get_by_role("group", name="Pack").get_by_role("radio")
    expect(choices).to_have_count(3)
    assert "broken" not in choices.evaluate_all("all => all.map(one => one.value)")
    open_tab(page, "Denoise")
    choose_pack(page, "tiny-codec")
    expect(page.locator("#denoise .mm-status")).to_contain_text("has no transformer")
    expect(page.get_by_role("button", name="Denoise", exact=True)).to_be_hidden()
    page.get_by_role("tab", name="Sample").click()
    expect(page.locator("#sample .mm-status")).to_contain_text("choose tiny")
    expect(page.locator("#sample .mm-side")).to_be_hidden()
    open_tab(page, "Reconstruct")
    choose_pack(page, "tiny-v")
    open_tab(page, "Denoise")
    expect(page.get_by_role("button", name="Denoise", exact=True)).to_be_enabled()


def test_choosing_packs_quickly_shows_the_last_one_and_then_is_quiet(page: Page, studio: Studio):
    asked = []
    open_tab(page, "Denoise")
    for name in ("tiny-v", "tiny-codec", "tiny", "tiny-v"):
        choose_pack(page, name)
    default = {pack.name: pack.samplers for pack in studio.packs()}["tiny-v"][0]
    expect(page.locator("#denoise .mm-status")).to_contain_text(default)
    open_tab(page, "Sample")
    expect(page.locator("#sample .mm-status")).to_contain_text(re.compile("Seed 0, .* drawn in"))
    page.on("request", lambda request: asked.append(request.url) if "/queue/join" in request.url else None)
    for _ in range(10):  # two that answer each other would go on for ever
        asked.clear()
        page.wait_for_timeout(1500)
        if not asked:
            break
    assert asked == []


@pytest.mark.parametrize(("theme", "widths"), [("light", (390, 1280)), ("dark", (1280, 390))])
def test_every_tab_fits_a_phone_and_a_desk_in_light_and_dark(watched: Page, address: str, theme: str, widths):
    """Whether it is opened so or becomes so, as when a window is resized or a phone turned."""
    for width in widths:
        watched.set_viewport_size({"width": width, "height": 844})
        if width == widths[0]:
            watched.goto(f"{address}?__theme={theme}")
        for tab in TABS:
            open_tab(watched, tab)
            watched.evaluate("window.scrollTo(0, 0)")
            root = watched.locator(":root")
            assert root.evaluate("page => page.scrollWidth - page.clientWidth") <= 0, f"{tab} scrolls sideways"
            picture = Image.open(io.BytesIO(watched.screenshot())).convert("L")
            assert (picture.getpixel((2, 2)) < 64) == (theme == "dark")
            darkest, brightest = picture.crop(box_of(watched, "#title h1")).getextrema()
            assert brightest - darkest > 128, f"the title of {tab} is hard to read"


def box_of(page: Page, selector: str) -> tuple[float, float, float, float]:
    box = page.locator(selector).bounding_box()
    return box["x"], box["y"], box["x"] + box["width"], box["y"] + box["height"]


class WaitingStudio(Studio):
    """A studio whose models take until `released` to load."""

    def __init__(self, *args, **options):
        super().__init__(*args, **options)
        self.released = threading.Event()

    def load(self, pack: str) -> None:
        self.released.wait(60)
        super().load(pack)


def test_the_page_answers_before_the_models_are_loaded_and_a_click_waits(watched: Page, tiny_weights: Path):
    studio = WaitingStudio([tiny_weights], device="cpu")
    with launched(studio) as address:
        watched.goto(address)
        expect(watched.locator("#codebook-view .mm-card")).to_be_visible()  # needs no model
        watched.get_by_role("tab", name="Sample").click()
        status = watched.locator("#sample .mm-status")
        expect(status).to_have_text("Loading the models…")
        draw = watched.get_by_role("button", name="Draw", exact=True)
        draw.click()
        expect(draw).to_be_disabled()
        expect(status).to_have_text("Loading the models…")
        studio.released.set()
        expect(status).to_contain_text("drawn in")
        expect(watched.locator(".mm-picture:enabled")).to_have_count(10)
