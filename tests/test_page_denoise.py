"""The Denoise tab in a real browser: a run scrubbed, pointed at and saved; a picture taken into noise and back."""

import base64
import io
import re
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
from browsing import (
    Locator,
    Page,
    SlowStudio,
    answered,
    choose_cell,
    choose_pack,
    expect,
    forget,
    open_advanced,
    open_tab,
    opened_uri,
)
from PIL import Image, ImageDraw

from mmdemo.studio import Studio
from mmdemo.ui.browser import sparingly
from mmdemo.ui.film import film as film_of

STUDIO = SlowStudio


@pytest.fixture
def film(shared: Page) -> Locator:
    """A finished run of the class circle with seed 3, at its last step."""
    page = shared
    open_tab(page, "Denoise")
    page.get_by_role("tab", name="From noise").click()
    tab = page.locator("#denoise")
    tab.get_by_label("Randomize").uncheck()
    tab.get_by_label("Seed", exact=True).fill("3")
    status = tab.locator(".mm-status")
    forget(status)
    page.get_by_role("button", name="Denoise", exact=True).click()
    expect(status).to_contain_text(re.compile("circle, seed 3, .* denoised in"))
    expect(page.get_by_role("button", name="Denoise", exact=True)).to_be_enabled()  # after all else was shown
    return page.locator("#denoise-view")


def at_step(film: Locator, number: int, total: int = 6) -> None:
    expect(film.locator(".mm-readout")).to_contain_text(f"step {number} of {total}")


def decoded(film: Locator, name: str) -> np.ndarray:
    uri = film.get_by_alt_text(name, exact=True).get_attribute("src")
    return np.asarray(opened_uri(uri))


def requests_of(page: Page) -> list[str]:
    """What the page asks the server from now on."""
    asked = []
    page.on("request", lambda one: asked.append(one.url) if one.url.startswith("http") else None)
    return asked


def test_every_step_shows_what_python_saw_with_the_label_without_and_guided_and_marks_the_flips(
    film: Locator, studio: Studio
):
    frames = list(studio.denoise("tiny", "circle", 3))
    film.get_by_label("Step", exact=True).focus()
    film.page.keyboard.press("Home")
    for i in (0, 1):
        at_step(film, i + 1)
        for name, picture in (
            ("The noisy picture", frames[i].x_t),
            ("The guess of the finished picture", frames[i].x0),
            ("The guess with guidance", frames[i].x0),
            ("The guess by the label alone", frames[i].x0_label),
            ("The guess without a label", frames[i].x0_null),
        ):
            assert np.array_equal(decoded(film, name), np.asarray(picture)), name
        assert not np.array_equal(np.asarray(frames[i].x0_label), np.asarray(frames[i].x0_null))
        film.page.keyboard.press("ArrowRight")
    film.page.keyboard.press("End")
    for i in (5, 4, 3):
        at_step(film, i + 1)
        shown = [int(text) for text in film.locator(".mm-token").all_inner_texts()]
        assert shown == [id for row in frames[i].tokens for id in row]
        styles = film.locator(".mm-flip").evaluate_all("all => all.map(one => [one.style.cssText, one.offsetWidth])")
        places = {tuple(int(n) for n in re.findall(r"--[xy]: (\d+)", style)) for style, _ in styles}
        assert places == {(x, y) for y, x in frames[i].flips} and all(width > 20 for _, width in styles)
        expect(film.locator(".mm-curve", has_text="Flips").locator("b")).to_have_text(f"{len(frames[i].flips)} of 16")
        film.get_by_label("Step", exact=True).focus()
        film.page.keyboard.press("ArrowLeft")
    assert any(frame.flips for frame in frames[3:])


def test_a_run_is_pointed_at_played_and_saved_as_gif_video_and_png_without_the_server(film: Locator):
    asked = requests_of(film.page)
    plot = film.locator(".mm-curve svg").nth(2)
    plot.scroll_into_view_if_needed()
    box = plot.bounding_box()
    middle = box["y"] + box["height"] / 2
    film.page.mouse.move(box["x"] + box["width"] * 1.5 / 6, middle)
    at_step(film, 2)
    film.page.mouse.move(2, 2)
    at_step(film, 6)  # it was but a look
    film.page.mouse.click(box["x"] + box["width"] * 2.5 / 6, middle)
    film.page.mouse.move(2, 2)
    at_step(film, 3)
    for key, number in (("ArrowRight", 4), ("ArrowLeft", 3), ("End", 6), ("ArrowRight", 6), ("Home", 1)):
        film.page.keyboard.press(key)  # the focus is where one pressed
        at_step(film, number)
    film.locator(".mm-strip button").nth(4).click()
    at_step(film, 5)
    film.get_by_role("button", name="Play").click()
    at_step(film, 6)
    assert [url for url in asked if "heartbeat" not in url] == []
    saved = {}
    for name in ("GIF", "Video", "PNG strip"):
        with film.page.expect_download() as download:
            film.get_by_role("button", name=name).click()
        saved[name] = Path(download.value.path()).read_bytes()
        assert download.value.suggested_filename.startswith("tiny-circle-seed-3.")
        expect(film.get_by_role("button", name=name)).to_be_enabled()
    assert [url for url in asked if "heartbeat" not in url and not url.startswith("blob:")] == []

    gif = Image.open(io.BytesIO(saved["GIF"]))
    assert gif.format == "GIF" and gif.n_frames == 6 and gif.info["loop"] == 0
    gif.seek(5)
    assert gif.info["duration"] == 1500
    side = gif.height - 40
    last = gif.convert("L").crop((side + 16, 8, 2 * side + 16, side + 8)).resize((16, 16), Image.Resampling.NEAREST)
    assert np.array_equal(np.asarray(last), decoded(film, "The guess of the finished picture"))

    video = saved["Video"]
    assert video[4:8] == b"ftyp" or video[:4] == b"\x1a\x45\xdf\xa3"  # MP4 or WebM
    assert len(video) > 2000

    strip = Image.open(io.BytesIO(saved["PNG strip"]))
    side = (strip.height - 24) // 2
    assert strip.format == "PNG" and strip.width == 6 * (side + 8) + 8
    keeps_colours_close(film.page)


def keeps_colours_close(page: Page) -> None:
    """A GIF does, however many there are."""
    noise = np.random.default_rng(0).integers(0, 256, (32, 32, 3), dtype=np.uint8)
    file = io.BytesIO()
    Image.fromarray(noise).save(file, "PNG")
    uri = "data:image/png;base64," + base64.b64encode(file.getvalue()).decode()
    made = page.evaluate(
        """async (uri) => {
          const blob = await window.mmdemo.exports.gif([1, 2].map((words) => ({ uris: [uri], name: "", words })), 50);
          const reader = new FileReader();
          reader.readAsDataURL(blob);
          return new Promise((done) => { reader.onload = () => done(reader.result); }); }""",
        uri,
    )
    gif = opened_uri(made)
    assert gif.n_frames == 2
    seen = np.asarray(gif.convert("RGB").crop((8, 8, 264, 264)).resize((32, 32), Image.Resampling.NEAREST))
    assert np.abs(seen.astype(int) - noise).mean() < 16  # 1024 random colours through 256


def test_a_code_that_comes_late_is_not_shown_under_another_packs_film(page: Page, studio: Studio):
    open_tab(page, "Denoise")
    held = []
    with page.expect_request("**/component_server/**"):
        page.route("**/component_server/**", lambda route: held.append(route))  # what the scripts ask of Python
        choose_cell(page.locator("#denoise-view").get_by_role("grid", name="Tokens"), 0)
    choose_pack(page, "tiny-v")
    (default, *_) = studio.pack("tiny-v").samplers
    expect(page.locator("#denoise .mm-status").first).to_contain_text(default)
    expect(page.locator("#denoise .mm-status").first).to_contain_text("denoised in")
    expect(page.locator("#denoise-view .mm-readout")).to_contain_text("of 6")
    with answered(page, [route.request for route in held]):
        assert held
        for route in held:
            route.continue_()
        page.unroute("**/component_server/**")
    expect(page.locator("#denoise-view .mm-card")).to_have_count(0)


def test_a_film_is_saved_under_its_own_name_though_another_has_begun_and_its_tokens_lead_to_their_codes(film: Locator):
    film.page.locator("#denoise").get_by_label("Seed", exact=True).fill("4")
    with film.page.expect_download() as download:
        film.get_by_role("button", name="Video").click()
        film.page.get_by_role("button", name="Denoise", exact=True).click()
        expect(film.page.locator("#denoise .mm-status")).to_contain_text(re.compile("seed 4, .* denoised in"))
    assert download.value.suggested_filename.startswith("tiny-circle-seed-3.")
    film.get_by_role("grid", name="Tokens").click(position={"x": 10, "y": 10})
    code = film.locator(".mm-token").first.inner_text()
    expect(film.locator(".mm-card h3")).to_have_text(f"Code {code}")
    film.get_by_role("button", name="Open in Codebook").click()
    expect(film.page.locator("#codebook-view .mm-card h3")).to_have_text(f"Code {code}")


def test_guidance_between_two_noise_levels_is_shaded_and_what_python_draws_and_no_seed_but_a_whole_one_is_taken(
    page: Page, studio: Studio
):
    open_tab(page, "Denoise")
    tab, film = page.locator("#denoise"), page.locator("#denoise-view")
    expect(film.locator(".mm-shade[d]").first).to_have_attribute("d", "")  # off by default
    open_advanced(tab)
    tab.get_by_label("number input for Guide from noise level").fill("0.7")
    tab.get_by_label("number input for Guide down to noise level").fill("0.4")
    tab.get_by_label("number input for Guidance").fill("4")
    tab.get_by_label("Randomize").uncheck()
    page.get_by_role("button", name="Denoise", exact=True).click()
    status = tab.locator(".mm-status")
    expect(status).to_contain_text(re.compile("guidance 4, guided at noise levels 0.4 to 0.7: denoised in"))
    frames = list(studio.denoise("tiny", "circle", 0, guidance=4, interval=(0.4, 0.7)))
    shaded = film.locator(".mm-shade[d]").first.get_attribute("d").count("M")
    assert 0 < shaded == sum(frame.guided for frame in frames) < len(frames)
    last = decoded(film, "The guess of the finished picture")
    assert np.array_equal(last, np.asarray(frames[-1].x0))
    tab.get_by_label("number input for Guide down to noise level").fill("0.9")
    page.get_by_role("button", name="Denoise", exact=True).click()
    expect(page.get_by_test_id("toast-body")).to_contain_text("interval is (0.9, 0.7)")
    tab.get_by_label("number input for Guide down to noise level").fill("0.4")
    tab.get_by_label("Seed", exact=True).fill("1.7")
    page.get_by_role("button", name="Denoise", exact=True).click()
    said = page.get_by_test_id("toast-body").filter(has_text="seed is 1.7; it must be a whole number")
    expect(said).to_be_visible()
    expect(tab.get_by_label("Seed", exact=True)).to_have_value("1.7")


def test_a_film_is_sent_in_few_messages_and_the_last_one_is_whole(studio: Studio):
    frames, sent = [], []
    for new in sparingly(studio.denoise("tiny", "circle", 3, 100)):
        frames += new
        sent += [shot.index for shot in film_of([new[-1]]).frames]
    assert sent[0] == 0 and sent == sorted(set(sent)) and len(sent) < 99  # the newest, now and then
    assert [shot.index for shot in film_of(frames).frames] == list(range(100))


@dataclass(frozen=True)
class Step:
    index: int
    total: int


def test_showing_a_run_takes_a_tenth_of_its_time_and_leaves_out_what_is_too_much():
    def run(total: int) -> Iterator[Step]:
        for index in range(total):
            time.sleep(0.004)
            yield Step(index, total)

    started, shown, looked = time.perf_counter(), [], 0.0
    for new in sparingly(run(100)):
        began = time.perf_counter()
        time.sleep(0.006)  # more than a step takes
        shown.append([step.index for step in new])
        looked += time.perf_counter() - began
    assert shown[0] == [0] and sum(shown, []) == list(range(100)), "the first at once, the last always, none lost"
    assert 3 < len(shown) < 30
    assert looked - 0.03 < 0.1 * (time.perf_counter() - started)  # but for the first and the last one


COUNT_PICTURES = """() => { window.shown = 0; new MutationObserver((all) => { window.shown += all.length; })
    .observe(document.querySelector('#denoise-view [alt="The noisy picture"]'), { attributeFilter: ['src'] }); }"""
KEEP_BUSY = "ms => { const end = performance.now() + ms; while (performance.now() < end); }"


def test_a_browser_that_lags_draws_few_frames_and_still_keeps_all(page: Page):
    open_tab(page, "Denoise")
    tab, film = page.locator("#denoise"), page.locator("#denoise-view")
    open_advanced(tab)
    tab.get_by_label("number input for Steps").fill("100")
    tab.get_by_label("number input for Steps").blur()
    page.evaluate(COUNT_PICTURES)
    page.get_by_role("button", name="Denoise", exact=True).click()
    page.wait_for_function("window.shown > 0")
    page.evaluate(KEEP_BUSY, 3000)
    at_step(film, 100, 100)
    assert page.evaluate("window.shown") < 60
    film.get_by_label("Step", exact=True).focus()
    for number in range(100, 80, -1):
        at_step(film, number, 100)
        page.keyboard.press("ArrowLeft")


def test_a_refused_file_leaves_its_box_again(page: Page, tmp_path: Path):
    (tmp_path / "letter.png").write_text("no picture")
    for tab, place, box in (("Reconstruct", "Reconstruct", "#upload"), ("Denoise", "Edit a picture", "#edit-upload")):
        open_tab(page, tab)
        page.get_by_role("tab", name=place).click()
        page.locator(f"{box} input").set_input_files(tmp_path / "letter.png")
        expect(page.get_by_test_id("toast-body")).to_contain_text("cannot be read as a picture")
        expect(page.locator(box)).to_contain_text("Drop File Here")
        expect(page.locator(box)).not_to_contain_text("letter")
        page.get_by_test_id("toast-close").click()
        expect(page.get_by_test_id("toast-body")).to_have_count(0)
    expect(page.locator("#edit .mm-status")).to_contain_text("and then Edit")  # of the picture that is there still


@pytest.fixture
def edit(shared: Page) -> Locator:
    shared.get_by_role("tab", name="Denoise", exact=True).click()
    shared.get_by_role("tab", name="Edit a picture").click()
    tab = shared.locator("#edit")
    expect(tab.locator("#noised-view .mm-strip img").first).to_be_visible()
    return tab


def test_an_edit_is_there_at_once_stays_when_a_seed_is_refused_and_fits_a_phone_and_a_desk(
    edit: Locator,
):
    expect(edit.locator(".mm-status")).to_contain_text("Turned into triangle, strength 0.8, seed 3")
    original = decoded(edit, "The picture to edit")
    assert not np.array_equal(original, decoded(edit, "The guess of the finished picture"))
    expect(edit.locator(".mm-formula")).to_contain_text("+ s ε")
    said = edit.locator(".mm-status").inner_text()
    edit.get_by_label("Randomize").uncheck()
    toast = edit.page.get_by_test_id("toast-body")
    for seed in ("1e30", "99999999999", "-1"):
        edit.get_by_label("Seed", exact=True).fill(seed)
        edit.get_by_role("button", name="Edit", exact=True).click()
        expect(toast).to_contain_text("must be a whole number from 0 to 2147483647")
        expect(edit.get_by_role("button", name="Edit", exact=True)).to_be_enabled()
        expect(edit.locator(".mm-status")).to_have_text(said)
        expect(edit.locator("#edit-view .mm-strip img").first).to_be_visible()
        edit.page.get_by_test_id("toast-close").click()
        expect(toast).to_have_count(0)
    for width in (390, 1280):
        edit.page.set_viewport_size({"width": width, "height": 844})
        for half in ("From noise", "Edit a picture"):
            edit.page.get_by_role("tab", name=half).click()
            assert edit.page.locator(":root").evaluate("page => page.scrollWidth - page.clientWidth") <= 0


def test_noise_is_scrubbed_strength_marks_the_way_back_and_a_drawing_and_an_example_are_taken_and_marked(
    edit: Locator, studio: Studio
):
    from mmdemo.ui.pictures import stand_in

    edit.get_by_label("Seed", exact=True).fill("3")
    frames = list(studio.noise("tiny", stand_in(), 3))
    asked = requests_of(edit.page)
    slider = edit.get_by_label("Amount of noise")
    slider.focus()
    for key, i in (("Home", 0), ("ArrowRight", 1), ("End", 5)):
        edit.page.keyboard.press(key)
        expect(edit.locator(".mm-formula")).to_contain_text(f"= {frames[i].a:.2f} x0 + {frames[i].s:.2f} ε")
        assert np.array_equal(decoded(edit, "The picture under noise"), np.asarray(frames[i].image))
    assert [url for url in asked if "heartbeat" not in url] == []
    edit.get_by_label("number input for Strength").fill("0.35")  # under more noise every picture looks alike
    readout = edit.locator("#noised-view .mm-readout")
    expect(readout).to_contain_text("strength 0.35: the way back begins here, 2 of 6 steps into noise")
    expect(readout).to_contain_text(f"timestep {frames[1].timestep:.0f}")
    expect(edit.locator("#noised-view .mm-unused")).to_have_count(4)
    pad = edit.locator(".mm-pad")
    pad.scroll_into_view_if_needed()
    box, before = pad.bounding_box(), decoded(edit, "The picture under noise")
    edit.page.mouse.move(box["x"] + 60, box["y"] + 40)
    edit.page.mouse.down()
    edit.page.mouse.move(box["x"] + 60, box["y"] + 200, steps=5)
    edit.page.mouse.up()
    picker = edit.locator("#edit-picker .mm-picker")
    expect(picker).to_have_attribute("data-shown", "drawing")
    assert not np.array_equal(before, decoded(edit, "The picture under noise"))
    edit.get_by_label("Example 1", exact=True).click()
    expect(picker).to_have_attribute("data-shown", "example")
    expect(edit.get_by_label("Example 1", exact=True)).to_have_attribute("aria-pressed", "true")


def square(path: Path) -> Path:
    picture = Image.new("L", (64, 64), 0)
    ImageDraw.Draw(picture).rectangle([20, 20, 43, 43], fill=255)
    picture.save(path)
    return path


def test_ones_own_picture_is_noised_at_once_and_edited_as_python_does(edit: Locator, studio: Studio, tmp_path: Path):
    file = square(tmp_path / "square.png")
    edit.locator("#edit-upload input[type=file]").set_input_files(file)
    expect(edit.locator(".mm-status")).to_contain_text("then Edit")
    expect(edit.locator("#edit-view .mm-stage")).to_be_hidden()  # that was the edit of another picture
    expect(edit.locator("#edit-picker .mm-picker")).to_have_attribute("data-shown", "file")
    edit.get_by_role("combobox", name="Turn it into").click()
    edit.page.get_by_role("option", name="square").click()
    edit.get_by_label("number input for Strength").fill("0.5")
    edit.get_by_label("Randomize").uncheck()
    edit.get_by_label("Seed", exact=True).fill("7")
    edit.get_by_role("button", name="Edit", exact=True).click()
    expect(edit.locator(".mm-status")).to_contain_text("Turned into square, strength 0.5, seed 7")
    ours = studio.edit("tiny", file, "square", 0.5, 7)
    at_step(edit.locator("#edit-view"), 3, 3)
    assert np.array_equal(decoded(edit, "The guess of the finished picture"), np.asarray(ours.image))
    assert np.array_equal(decoded(edit, "The picture to edit"), np.asarray(ours.original))
    with edit.page.expect_download() as download:
        edit.get_by_role("button", name="PNG strip").click()
    strip = Image.open(download.value.path())
    assert strip.width == strip.height  # three steps, and of each the original, the noisy picture and the guess


def test_a_run_that_was_stopped_is_stepped_through_though_some_steps_never_came(page: Page, studio: SlowStudio):
    open_tab(page, "Denoise")
    tab, film = page.locator("#denoise"), page.locator("#denoise-view")
    open_advanced(tab)
    tab.get_by_label("number input for Steps").fill("100")
    with studio.taking(0.1):
        page.get_by_role("button", name="Denoise", exact=True).click()
        readout = film.locator(".mm-readout")
        expect(readout).to_contain_text(re.compile(r"step [4-9]\d of 100"))
        tab.get_by_role("button", name="Stop").click()
        expect(tab.locator(".mm-status")).to_have_text("Stopped.")
    slider = film.get_by_label("Step", exact=True)
    slider.focus()
    page.keyboard.press("Home")
    at_step(film, 1, 100)
    seen = [1]
    for _ in range(5):
        page.keyboard.press("ArrowRight")
        seen.append(int(re.search(r"step (\d+) of", readout.inner_text())[1]))
    assert seen == sorted(set(seen))  # every press goes on
    film.get_by_role("button", name="Play").click()
    expect(film.get_by_role("button", name="Play")).to_be_visible(timeout=10_000)


def test_a_replay_takes_the_place_of_a_run_and_can_itself_be_stopped(page: Page, studio: SlowStudio):
    open_tab(page, "Sample")
    open_tab(page, "Denoise")
    tab = page.locator("#denoise")
    status, stop = tab.locator(".mm-status").first, tab.get_by_role("button", name="Stop").first
    with studio.taking(1.5):
        page.get_by_role("button", name="Denoise", exact=True).click()
        expect(status).to_contain_text(re.compile("Step [12] of 6"))
        page.get_by_role("tab", name="Sample").click()
        page.locator(".mm-picture").nth(1).click()  # square, seed 1
        assert studio.stopped.wait(5)  # the first one has ended
        expect(status).to_contain_text(re.compile("Step [3-5] of 6"))
        expect(stop).to_be_enabled()
        stop.click()
        expect(status).to_have_text("Stopped.")
        expect(page.get_by_role("button", name="Denoise", exact=True)).to_be_enabled()


def test_another_picture_ends_the_edit_of_the_last_one(edit: Locator, studio: SlowStudio):
    with studio.taking(1):
        edit.get_by_role("button", name="Edit", exact=True).click()
        expect(edit.locator(".mm-status")).to_contain_text(re.compile(r"Step \d of"))
        edit.get_by_label("Example 1").click()
        expect(edit.locator(".mm-status")).to_contain_text("Choose what to turn it into")
        expect(edit.get_by_role("button", name="Edit", exact=True)).to_be_enabled()
        expect(edit.get_by_role("button", name="Stop")).to_be_disabled()
        assert studio.stopped.wait(3)
        edit.page.wait_for_timeout(500)
        expect(edit.locator(".mm-status")).to_contain_text("Choose what to turn it into")  # nothing arrives late
