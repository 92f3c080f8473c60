"""The page with a pack that reads, in a real browser: what is asked for in words, and what each word does."""

import json
import re
import shutil
import threading
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from browsing import Locator, Page, choose_pack, expect, launched, open_tab, opened_uri
from PIL import Image

from mmdemo.results import Description, Reading, Run
from mmdemo.sampling import MAX_WORDS
from mmdemo.studio import Studio
from mmdemo.ui.labelled import LINE, TITLE, font_for, wrapped

HOSTILE = '<img src=x onerror="document.title=1"> مرحبا \u202e/../con: red circle'
WEIGHTS = "reading_weights"


@pytest.fixture
def page(watched: Page, address: str) -> Page:
    watched.goto(address)
    choose_pack(watched, "words")
    return watched


def prompt(tab: Locator, name: str = "Prompt") -> Locator:
    return tab.get_by_role("textbox", name=re.compile(f"^{name}"))


def keep_seed(tab: Locator, seed: int) -> None:
    tab.get_by_label("Randomize").uncheck()
    tab.get_by_label("Seed", exact=True).fill(str(seed))


def test_sample_draws_its_examples_and_then_what_is_typed_a_line_each(page: Page, studio: Studio):
    open_tab(page, "Sample")
    sample, pictures = page.locator("#sample"), page.locator(".mm-picture")
    expect(pictures.nth(9)).to_have_text("a red circle")  # of three in turn
    top = "all => all.slice(0, 3).map(one => one.getBoundingClientRect().y)"
    assert len(set(pictures.locator("canvas").evaluate_all(top))) == 1  # however long the captions are
    expect(sample.get_by_role("combobox", name="Class")).to_be_hidden()
    keep_seed(sample, 5)
    prompt(sample).fill("a blue square")
    prompt(sample).press("Shift+Enter")
    prompt(sample).press_sequentially("蓝色 圆 zebra")
    prompt(sample).press("Enter")
    said = re.compile(r"Seed 5, .* drawn in [\d.]+ s\.\s“zebra” was never seen")
    expect(sample.locator(".mm-status")).to_contain_text(said)
    expect(sample.locator(".mm-status")).to_contain_text("…")  # of the notice, not of something that goes on
    expect(sample.locator(".mm-busy")).to_have_count(0)
    expect(pictures.nth(1)).to_have_text("蓝色 圆 zebra")
    ours = studio.sample("words", ["a blue square", "蓝色 圆 zebra"], 10, 5)
    read = "all => all.map(c => [...c.getContext('2d').getImageData(0, 0, 16, 16).data])"
    drawn = [np.array(one).reshape(16, 16, 4)[..., 0] for one in pictures.locator("canvas").evaluate_all(read)]
    assert all(np.array_equal(a, np.asarray(b)) for a, b in zip(drawn, ours.images, strict=True))
    once = sample.locator(".mm-of")
    expect(once).to_be_hidden()
    pictures.nth(1).click()
    denoise = page.locator("#denoise")
    expect(denoise.locator(".mm-status").first).to_contain_text(re.compile("“蓝色 圆 zebra”, seed 6, .* denoised in"))
    expect(prompt(denoise)).to_have_value("蓝色 圆 zebra")
    open_tab(page, "Sample")
    prompt(sample).fill("a blue circle")
    prompt(sample).press("Enter")
    expect(once).to_have_text("a blue circle")  # what all have is said once
    expect(pictures.locator("span")).to_have_text([""] * 10)


def test_of_a_pack_that_reads_no_help_speaks_of_classes_and_with_long_prompts_every_tab_fits(page: Page):
    for name, button in (("Sample", "Draw"), ("Denoise", "Denoise"), ("Compare", "Compare")):
        page.get_by_role("tab", name=name, exact=True).click()
        tab = page.locator(f"#{name.lower()}")
        expect(tab.get_by_role("button", name=button, exact=True)).to_be_enabled()
        expect(prompt(tab).first).to_be_visible()
        tab.get_by_role("button", name="Advanced").locator("visible=true").click()
        expect(tab.get_by_text("How strongly to follow").locator("visible=true")).to_contain_text("prompt")
    for width in (390, 1280):
        page.set_viewport_size({"width": width, "height": 844})
        for tab, half in (
            ("Sample", ""),
            ("Denoise", "From noise"),
            ("Denoise", "Edit a picture"),
            ("Compare", "Strip"),
        ):
            page.get_by_role("tab", name=tab, exact=True).click()
            if half:
                page.get_by_role("tab", name=half, exact=True).click()
            box = page.locator("textarea:visible").first
            box.fill("a very long prompt without end, " * 12 + "x" * 200)
            assert page.locator(":root").evaluate("page => page.scrollWidth - page.clientWidth") <= 0, tab


def test_an_example_is_taken_by_a_click_and_a_list_of_classes_takes_the_box_s_place(page: Page):
    open_tab(page, "Denoise")
    tab = page.locator("#denoise")
    expect(prompt(tab)).to_have_value("a red circle")
    tab.get_by_role("button", name="a small red triangle").click()
    expect(prompt(tab)).to_have_value("a small red triangle")
    prompt(tab).press("Enter")
    expect(tab.locator(".mm-status").first).to_contain_text("“a small red triangle”, seed")
    choose_pack(page, "tiny")
    expect(tab.get_by_role("combobox", name="Class")).to_have_value("circle")
    expect(prompt(tab)).to_be_hidden()
    expect(tab.locator(".mm-chip")).to_have_count(0)
    expect(tab.locator(".mm-status").first).to_contain_text("circle, seed 0")
    expect(tab.locator(".mm-pulls")).to_be_hidden()


def test_words_are_weighed_once_the_picture_is_there_at_most_so_many_and_lead_to_where_they_pull(
    page: Page, studio: Studio
):
    open_tab(page, "Denoise")
    tab, film = page.locator("#denoise"), page.locator("#denoise-view")
    keep_seed(tab, 3)
    prompt(tab).fill("🙂 a zebra circle")
    page.get_by_role("button", name="Denoise", exact=True).click()
    pulls = film.locator(".mm-pulls")
    expect(pulls.locator(".mm-prompt")).to_have_text("🙂 a zebra circle")
    expect(pulls.get_by_role("status")).to_contain_text("Choose a word to see where it pulls")
    words = pulls.locator(".mm-prompt button")
    expect(words).to_have_text(["a", "circle"])  # those that were read
    expect(pulls.locator("g path")).to_have_count(2)
    by_step = [frame.pulls for frame in studio.denoise("words", "🙂 a zebra circle", 3)]
    most = max(np.max(pull.map) for pulls in by_step for pull in pulls)

    def shows(n: int, step: int) -> None:
        pull = by_step[step][n]
        expect(words.nth(n)).to_have_attribute("aria-pressed", "true")
        told = f"“{pull.word}” at step {step + 1}: mean change of the prediction {pull.mean:.3f}."
        told += " One scale for all words and steps."
        expect(pulls.locator("figcaption").first).to_have_text(told)
        x = float(pulls.locator(".mm-dot").get_attribute("d")[1:].split()[0])
        assert abs(x - (step + 0.5) * 100 / len(by_step)) < 0.01
        alphas = pulls.locator("canvas").evaluate(
            "c => [...c.getContext('2d').getImageData(0, 0, c.width, c.height).data].filter((_, i) => i % 4 === 3)"
        )
        assert np.abs(np.array(alphas) / 230 - np.ravel(pull.map) / most).max() < 0.02

    strongest = [max(range(6), key=lambda step: by_step[step][n].mean) for n in range(2)]
    shows(*max(enumerate(strongest), key=lambda one: by_step[one[1]][one[0]].mean))  # once all are weighed
    assert "Only" not in pulls.get_by_role("status").inner_text()
    readout = film.locator(".mm-readout")
    expect(readout).to_contain_text("step 6 of 6")  # the film itself stays where it was
    for n in range(2):
        words.nth(n).click()
        shows(n, strongest[n])
        film.get_by_label("Step", exact=True).focus()
        for key, step in (("Home", 0), ("End", 5)):  # and where the film goes, it goes too
            page.keyboard.press(key)
            shows(n, step)
    prompt(page.locator("#denoise")).fill("red circle " * MAX_WORDS)
    page.get_by_role("button", name="Denoise", exact=True).click()
    expect(pulls.get_by_role("status")).to_contain_text(f"Only the first {MAX_WORDS} words and commas are weighed.")
    expect(pulls.locator(".mm-prompt button")).to_have_count(MAX_WORDS)


def test_a_stranger_s_text_is_shown_as_text_and_makes_a_file_name_that_any_system_takes(page: Page):
    open_tab(page, "Denoise")
    tab, title = page.locator("#denoise"), page.title()
    prompt(tab).fill(HOSTILE + " and so on" * 30)
    page.get_by_role("button", name="Denoise", exact=True).click()
    status = tab.locator(".mm-status").first
    expect(status).to_contain_text('“<img src=x onerror="document.title=1">')
    expect(status).to_contain_text("denoised in")
    expect(page.locator("#denoise-view .mm-prompt")).to_contain_text('<img src=x onerror="document.title=1"> مرحبا')
    assert "\u202e" not in status.inner_text() and len(status.inner_text()) < 600
    with page.expect_download() as download:
        tab.get_by_role("button", name="PNG strip").click()
    assert re.fullmatch(r"words-img-src-x-[\w-]{1,60}-seed-\d+\.png", download.value.suggested_filename)
    with page.expect_download() as download:
        tab.get_by_role("button", name="GIF").click()
    assert Image.open(download.value.path()).n_frames == 6
    assert page.title() == title


def test_a_grid_of_prompts_and_a_strip_are_there_and_can_be_typed_and_a_legend_explains_long_ones(
    page: Page, studio: Studio
):
    page.get_by_role("tab", name="Compare", exact=True).click()
    grid = page.locator("#grid")
    expect(grid.locator("th[scope=row]")).to_have_text(list(studio.pack("words").prompts))
    expect(grid.locator(".mm-axis")).to_have_text(["Guidance", "Prompt"])
    long = "a red square, " * 9 + "on black"
    prompt(grid, "Prompt: values").fill(f"{long}\na red circle")
    prompt(grid, "Prompt: values").press("Enter")
    heading = grid.locator("th[scope=rowgroup] span")  # over its pictures, and not cut off
    expect(heading).to_have_text([long, "a red circle"])
    assert heading.first.evaluate("one => one.scrollHeight <= one.clientHeight && one.scrollWidth <= one.clientWidth")
    expect(grid.locator(".mm-status")).to_contain_text("pictures in")
    prompt(grid, "Prompt: values").fill("a red square\n三角")
    grid.get_by_label("Guidance: values").fill("1, 3")
    keep_seed(grid, 2)
    prompt(grid, "Prompt: values").press("Enter")
    expect(grid.locator("th[scope=row]")).to_have_text(["a red square", "三角"])
    expect(grid.locator(".mm-status")).to_contain_text("4 pictures in")
    shown = grid.locator("td img").evaluate_all("all => all.map(one => one.src)")
    ours = [studio.sample("words", text, 1, 2, None, guidance).images[0]
            for text in ("a red square", "三角") for guidance in (1, 3)]  # fmt: skip
    assert all(np.array_equal(opened_uri(a), np.asarray(b)) for a, b in zip(shown, ours, strict=True))

    page.get_by_role("tab", name="Strip", exact=True).click()
    strip = page.locator("#strip")
    expect(prompt(strip, "From prompt")).to_have_value("a red circle")
    expect(prompt(strip, "To prompt")).to_have_value("a small red triangle")
    keep_seed(strip, 2)
    prompt(strip, "To prompt").fill("red " * 2500)
    prompt(strip, "To prompt").press("Enter")
    toast = page.get_by_test_id("toast-body")
    expect(toast).to_contain_text("“To prompt” has 10000 characters; it must have at most 1000")
    prompt(strip, "To prompt").fill("a blue circle")
    prompt(strip, "To prompt").press("Enter")
    expect(strip.locator(".mm-status")).to_contain_text("From “a red circle” to “a blue circle”, seed 2")
    with page.expect_download() as download:
        strip.get_by_role("link", name="Download PNG").click()
    assert json.loads(Image.open(download.value.path()).text["mmdemo"])["other_label"] == "a blue circle"

    page.get_by_role("tab", name="Grid", exact=True).click()  # prompts with no room over a picture are numbers
    grid.get_by_label("Guidance: values").fill("0, 1, 2, 4")
    grid.get_by_role("combobox", name="Across").click()
    page.get_by_role("option", name="Prompt", exact=True).click()
    expect(grid.get_by_role("combobox", name="Down")).to_have_value("Guidance")  # they have changed places
    columns, legend = grid.locator("th[scope=col]"), grid.locator(".mm-legend li")

    def compared(texts: list[str]) -> Image.Image:
        """Draws them, and gives the PNG."""
        prompt(grid, "Prompt: values").fill("\n".join(texts))
        prompt(grid, "Prompt: values").press("Enter")
        expect(grid.get_by_role("button", name=f"Prompt {texts[0]}, ")).to_have_count(4)
        with page.expect_download() as download:
            grid.get_by_role("link", name="Download PNG").click()
        return Image.open(download.value.path())

    told = compared([long, "a red circle"])
    expect(columns).to_have_text(["1", "2"])
    expect(legend).to_have_text([f"1{long}", "2a red circle"])
    assert legend.first.evaluate("one => one.scrollHeight <= one.clientHeight && one.scrollWidth <= one.clientWidth")
    plain = compared(["a circle", "red"])
    expect(columns).to_have_text(["a circle", "red"])
    expect(legend).to_have_count(0)
    more = 1 + len(wrapped(f"1  {long}", font_for(long), TITLE))  # lines of the legend
    assert told.height - plain.height == LINE * more


def test_an_edit_is_asked_for_in_words_and_away_from_words(page: Page, studio: Studio):
    open_tab(page, "Denoise")
    page.get_by_role("tab", name="Edit a picture").click()
    edit = page.locator("#edit")
    expect(edit.locator(".mm-status").first).to_contain_text("Turned into “a small red triangle”, strength 0.7")
    expect(edit.get_by_label("number input for Strength")).to_have_value("0.7")
    prompt(edit, "Turn it into").fill("a blue square")
    edit.get_by_role("button", name="Advanced").click()
    page.wait_for_timeout(500)
    prompt(edit, "Negative prompt").fill("red")
    keep_seed(edit, 4)
    edit.get_by_role("button", name="Edit", exact=True).click()
    expect(edit.locator(".mm-status").first).to_contain_text(
        re.compile("Turned into “a blue square”, .*seed 4, .*away from red")
    )
    expect(edit.locator(".mm-guesses figcaption").first).to_have_text("by “red”, to avoid")


def test_an_edit_begins_with_the_example_s_own_caption(watched: Page, reading_weights: Path, tmp_path: Path):
    examples = shutil.copytree(reading_weights / "words", tmp_path / "words") / "examples"
    examples.mkdir()
    for name, text in (
        ("0.png", ["a red circle", "a blue circle"]),
        ("1.png", "a small red triangle"),
        ("2.png", None),
    ):
        Image.new("L", (16, 16), 60).save(examples / name)
        if text:
            with (examples / "metadata.jsonl").open("a") as file:
                print(json.dumps({"file_name": name, "text": text}), file=file)
    with launched(Studio([tmp_path], device="cpu")) as address:
        watched.goto(address)
        open_tab(watched, "Denoise")
        watched.get_by_role("tab", name="Edit a picture").click()
        edit = watched.locator("#edit")
        status, box = edit.locator(".mm-status").first, prompt(edit, "Turn it into")

        def take(example: int) -> None:
            thumb = edit.locator("#edit-picker").get_by_label(f"Example {example}", exact=True)
            thumb.click()
            expect(thumb).to_have_attribute("aria-pressed", "true")

        expect(status).to_contain_text("Turned into “a blue circle”")
        expect(box).to_have_value("a blue circle")
        for example, text in ((2, "a small red triangle"), (3, "a small red triangle"), (1, "a red circle")):
            take(example)
            expect(box).to_have_value(text)
        box.fill("a red ring")
        expect(edit.get_by_label("Randomize")).not_to_be_checked()  # under other noise, it would be another picture
        edit.get_by_role("button", name="Edit", exact=True).click()
        expect(status).to_contain_text("Turned into “a red ring”, strength 0.7, seed 3, ")
        take(2)
        expect(box).to_have_value("a small red triangle")


class DescribingStudio(Studio):
    """A studio that says the same of every picture, and gives none back while it is held."""

    free = threading.Event()

    def reconstruct(self, *given):
        self.free.wait(60)
        return super().reconstruct(*given)

    def describe(self, pack: str, image, invert: str = "auto") -> Run:
        def work():
            yield from (Reading(i, 2, "a circle") for i in range(2))
            maps = [(word, Image.new("RGB", (16, 16), word)) for word in ("red", "blue")]
            attributes = {"colour": {"green": 0.1, "red": 0.7, "blue": 0.15, "black": 0.05}}
            return Description("a red <b>circle</b>", attributes, maps, seconds=1.5, notice="A guess.")

        return Run(work())


@pytest.fixture
def learned(monkeypatch) -> None:
    """As if the captions had said what colours there are."""
    known = SimpleNamespace(lexicon=SimpleNamespace(phrases={"colour": {"red": "red"}}))
    monkeypatch.setattr("mmdemo.ui.telling.read_words", lambda pack: known)


def test_a_picture_is_described_until_another_is_chosen(watched: Page, reading_weights: Path, learned):
    studio = DescribingStudio([reading_weights], device="cpu")
    studio.free.set()
    with launched(studio) as address:
        watched.goto(address)
        open_tab(watched, "Reconstruct")
        view, ask = watched.locator("#description-view"), watched.get_by_role("button", name="Describe")
        choose_pack(watched, "words")
        ask.click()
        expect(view.locator(".mm-described")).to_have_text("a red <b>circle</b>")
        expect(view.locator(".mm-help").first).to_contain_text("sure even of pictures that it does not know")
        expect(view.locator(".mm-doubt")).to_have_text("A guess.")
        expect(view.locator("dd")).to_have_text(["red70 %", "blue15 %", "green10 %"])
        expect(view.get_by_alt_text("Where “red” comes from")).to_be_visible()
        view.get_by_role("button", name="blue").hover()
        uri = view.get_by_alt_text("Where “blue” comes from").get_attribute("src")
        assert opened_uri(uri).getpixel((3, 3)) == (0, 0, 255)
        studio.free.clear()
        watched.locator("#picker").get_by_label("Example 1", exact=True).click()
        expect(ask).to_be_disabled()  # it would describe the picture before
        studio.free.set()
        expect(view.locator(".mm-described")).to_have_count(0)
        ask.click()
        expect(view.locator(".mm-described")).to_have_text("a red <b>circle</b>")
