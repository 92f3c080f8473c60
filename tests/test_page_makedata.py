"""The Make data tab in a browser: what fills, what stops, and what is taken along."""

import shutil
from pathlib import Path

import pytest
from browsing import Page, SlowStudio, expect, open_advanced, open_pack, open_tab

from mmdemo.training import export

WEIGHTS, STUDIO = "weights", SlowStudio


@pytest.fixture(scope="module")
def weights(reading_weights: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Packs of which one takes more steps, and so draws fewer pictures at once."""
    folder = shutil.copytree(reading_weights, tmp_path_factory.mktemp("unlike") / "weights")
    export.set_defaults(folder / "words", num_inference_steps=10)
    return folder


@pytest.fixture
def tab(shared: Page):
    open_pack(shared, "tiny")
    open_tab(shared, "Make data")
    return shared.locator("#make-data")


def counts(tab) -> list[tuple[str, str]]:
    return list(
        zip(tab.locator("h4").all_inner_texts(), tab.locator(".mm-class > span").all_inner_texts(), strict=True)
    )


EMPTY = """() => { const one = document.querySelector("#make-data canvas");
    return !one.getContext("2d").getImageData(0, 0, one.width, one.height).data.some(Boolean) }"""


def drawn(tab) -> int:
    """How many pictures of the first class are to be seen, in a row of at most 16."""
    return tab.locator("canvas").first.evaluate(
        "one => { const [size, on] = [one.width / 16, one.getContext('2d')];"
        "return Array.from({ length: 34 }, (_, i) => on.getImageData(i % 16 * size, (i >> 4) * size, 1, 1).data[3])"
        ".filter(Boolean).length }"
    )


def saved(tab, file: Path) -> bytes:
    with tab.page.expect_download() as download:
        tab.get_by_role("button", name="Download zip").click()
    assert download.value.suggested_filename == file.name
    download.value.save_as(file)
    return file.read_bytes()


def test_a_set_is_there_at_once_the_next_fills_while_it_is_made_and_what_is_done_at_stop_can_be_taken_along(
    tab, studio, tmp_path
):
    expect(tab.locator(".mm-status")).to_contain_text("20 pictures, seed 0")
    assert counts(tab) == [("circle", "7"), ("square", "7"), ("triangle", "6")]
    tab.get_by_label("Augment").check()
    with studio.taking(0.3):
        tab.get_by_role("button", name="Make", exact=True).click()
        expect(tab.locator(".mm-class > span").first).to_have_text("0 of 34")
        assert drawn(tab) == 17, "guesses of what is on its way are seen"
        tab.get_by_role("button", name="Stop").click()
        expect(tab.locator(".mm-status")).to_have_text("Stopped.")
        tab.page.wait_for_function(EMPTY)  # guesses are no pictures
        tab.get_by_role("button", name="Make", exact=True).click()
        expect(tab.locator(".mm-class > span").first).to_have_text("17 of 34")
        expect(tab.get_by_role("button", name="Download zip")).to_have_count(0)
        tab.get_by_role("button", name="Stop").click()
        expect(tab.locator(".mm-status")).to_have_text("Stopped.")
        assert studio.stopped.wait(10)
    seed = int(tab.get_by_label("Seed", exact=True).input_value())
    done = studio.synthesize("tiny", 50, augment=True, seed=seed)
    assert saved(tab, tmp_path / f"tiny-{seed}.zip") == done.zip_bytes()
    assert counts(tab)[0] == ("circle", "17 of 34")
    expect(tab.get_by_role("button", name="Make", exact=True)).to_be_enabled()


def test_a_set_is_what_was_asked_for_and_its_zip_that_of_python(tab, studio, tmp_path):
    tab.get_by_label("Classes").click()
    tab.page.get_by_role("option", name="square").click()
    tab.get_by_label("Augment").check()
    tab.get_by_label("Randomize").uncheck()
    tab.get_by_label("Seed").fill("5")
    tab.get_by_role("button", name="Make", exact=True).click()
    expect(tab.locator(".mm-status")).to_contain_text("100 pictures, and a variant of each, seed 5")
    assert counts(tab) == [("circle", "25"), ("square", "50"), ("triangle", "25")]
    expect(tab.locator(".mm-class canvas")).to_have_count(6)
    labels = ["circle", "square", "triangle", "square"]
    assert saved(tab, tmp_path / "tiny-5.zip") == studio.synthesize("tiny", 100, labels, True, 5).zip_bytes()


def test_texts_stand_above_their_pictures_without_one_there_is_nothing_to_train_on_and_no_more_is_offered_than_allowed(
    tab,
):
    many = tab.get_by_label("number input for How many")
    expect(many).to_have_attribute("max", "1000")
    open_pack(tab.page, "words")
    expect(tab.locator("h4").first).to_have_text("a red circle")
    expect(tab.locator(".mm-long")).to_have_count(1)
    tab.get_by_role("textbox", name="Prompt").first.fill("")
    tab.get_by_role("button", name="Make", exact=True).click()
    expect(tab.page.get_by_test_id("toast-body")).to_contain_text("label is an empty text; a picture to train on needs")
    assert counts(tab)[0] == ("a red circle", "7")
    expect(many).to_have_attribute("max", "640")
    open_advanced(tab)
    tab.get_by_label("number input for Steps").fill("100")
    expect(many).to_have_attribute("max", "64")
    expect(many).to_have_value("64")
