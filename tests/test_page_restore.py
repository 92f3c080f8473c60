"""The Restore tab in a real browser: a picture erased, shrunk or noised, four candidates, and the steps of each."""

import re

import numpy as np
import pytest
from browsing import Locator, Page, SlowStudio, expect, forget, open_tab, opened_uri
from conftest import array
from PIL import Image

from mmdemo.images import fit_square
from mmdemo.ui.damage import BLUR, GAUSSIAN, NOTHING, SALT, spoilt
from mmdemo.ui.pictures import stand_in
from mmdemo.ui.restore import READY

STUDIO = SlowStudio


@pytest.fixture
def restore(shared: Page) -> Locator:
    open_tab(shared, "Restore")
    return shared.locator("#restore")


def picture(tab: Locator, i: int | None) -> np.ndarray:
    """A candidate, or with None the truth."""
    found = tab.get_by_alt_text("The truth") if i is None else tab.locator(".mm-candidate img").nth(i)
    return array(opened_uri(found.get_attribute("src")))


def start(tab: Locator) -> None:
    tab.get_by_role("button", name="Restore", exact=True).click()


def finish(tab: Locator) -> None:
    status = tab.locator(".mm-status")
    forget(status)
    start(tab)
    expect(status).to_contain_text("restored in")
    expect(tab.get_by_role("button", name="Restore", exact=True)).to_be_enabled()


def test_four_candidates_are_there_at_once_keep_what_was_seen_and_each_has_its_film(restore: Locator, studio):
    expect(restore.locator(".mm-status")).to_contain_text("Four candidates, seed 0")
    truth = array(fit_square(stand_in(), 16, 1))
    half = Image.new("L", (16, 16))
    half.paste(255, (0, 8, 16, 16))
    made = studio.restore(
        "tiny", Image.fromarray(truth.astype(np.uint8)), "inpaint", half, seed=0, count=4, invert="no"
    )
    for i, image in enumerate(made.images):
        assert (picture(restore, i) == array(image)).all()
        assert (picture(restore, i)[:8] == truth[:8]).all() and (picture(restore, i)[8:] != truth[8:]).any()
    psnr, ssim = made.likeness(Image.fromarray(truth.astype(np.uint8)))[1]
    read = studio.classify("tiny", made.images[1], invert="no").result().label
    told = f"seed 1: {psnr:.1f} dB, SSIM {ssim:.2f}, read as {read}"
    expect(restore.locator(".mm-candidate").nth(1)).to_contain_text(told)
    films = [restore.locator(f"#restore-film-{i}") for i in range(4)]
    for i in (2, 0):
        restore.locator(".mm-candidate").nth(i).click()
        assert [film.is_visible() for film in films] == [k == i for k in range(4)]
        guess = films[i].get_by_alt_text("The guess of the finished picture", exact=True).get_attribute("src")
        assert (array(opened_uri(guess)) == picture(restore, i)).all()
    for width in (1280, 390):
        restore.page.set_viewport_size({"width": width, "height": 844})
        assert restore.page.locator(":root").evaluate("page => page.scrollWidth - page.clientWidth") <= 0
    # On a phone one goes down from the picture to its damage and to the brush, and the button is where the hand is.
    parts = [
        restore.locator("#restore-picker"),
        restore.get_by_label("Erase", exact=True),
        restore.locator(".mm-brush"),
    ]
    tops = [part.bounding_box()["y"] for part in (*parts, films[0])]
    assert tops == sorted(tops)
    for part in (*parts, films[0]):
        part.scroll_into_view_if_needed()
        expect(restore.get_by_role("button", name="Restore", exact=True)).to_be_in_viewport(ratio=1)


def test_the_brush_erases_what_it_paints_and_nothing_erased_is_refused(restore: Locator):
    brush = restore.locator(".mm-brush")
    restore.get_by_label("Erase", exact=True).check()
    restore.get_by_role("button", name="Erase nothing").click()
    restore.get_by_label("Shrink").check()
    expect(brush).to_be_hidden()
    restore.get_by_label("Erase", exact=True).check()
    expect(brush).to_be_visible()  # so that something can be painted over
    expect(restore.page.get_by_test_id("toast-body")).to_have_count(0)
    start(restore)
    expect(restore.page.get_by_test_id("toast-body")).to_contain_text("nothing is painted over")
    brush.scroll_into_view_if_needed()
    box = brush.bounding_box()
    mouse = restore.page.mouse
    mouse.move(box["x"] - 5, box["y"] + 0.25 * box["height"])
    mouse.down()  # whoever erases from the edge begins outside
    mouse.move(box["x"] + 0.25 * box["width"], box["y"] + 0.25 * box["height"])
    mouse.move(box["x"] + 0.75 * box["width"], box["y"] + 0.25 * box["height"], steps=5)
    seen = "one => [...one.getContext('2d').getImageData(one.width / 2, one.height / 4, 1, 1).data]"
    assert brush.evaluate(seen) == [245, 158, 11, 255]
    mouse.up()
    assert brush.evaluate(seen) == [128, 128, 128, 255]  # nothing of the picture is left, nor of the paint
    restore.get_by_label("Brush").fill("48")
    brush.scroll_into_view_if_needed()
    box = brush.bounding_box()
    mouse.click(box["x"] + 0.5 * box["width"], box["y"] + 0.75 * box["height"])
    beside = "one => one.getContext('2d').getImageData(one.width / 2 + 20, one.height * 3 / 4, 1, 1).data[3]"
    assert brush.evaluate(beside) == 255  # a wide brush
    restore.get_by_role("button", name="Undo").click()
    assert brush.evaluate(beside) == 0 and brush.evaluate(seen) == [128, 128, 128, 255]
    expect(restore.locator(".mm-status")).to_have_text(READY)  # nothing is said any more of what was there before
    restore.page.wait_for_timeout(500)
    finish(restore)
    changed = (picture(restore, 0) != picture(restore, None)).any(axis=-1)
    changed = changed if changed.ndim == 2 else (picture(restore, 0) != picture(restore, None))
    assert changed[2:6].any() and not changed[7:].any(), "what was not painted over stays as it is"


def test_what_is_shrunk_or_noised_is_shown_and_restored_and_a_run_can_be_stopped(restore: Locator, studio: SlowStudio):
    given = restore.get_by_alt_text("What is left of the picture")
    before = given.get_attribute("src")
    restore.get_by_label("Shrink").check()
    expect(given).not_to_have_attribute("src", before)
    assert opened_uri(given.get_attribute("src")).size == (4, 4)
    expect(restore.get_by_role("button", name="Erase nothing")).to_be_hidden()
    finish(restore)
    restore.get_by_label("Add noise").check()
    expect(restore.locator(".mm-candidate:enabled")).to_have_count(0)
    forget(restore.locator(".mm-status"))
    restore.get_by_label(SALT).check()
    expect(restore.locator(".mm-status")).to_contain_text("Restore")  # it is shown, and a run would end before
    finish(restore)
    expect(restore.locator(".mm-status")).to_contain_text("Noise of")
    restore.get_by_label("number input for Amount").fill("5")
    restore.get_by_label("number input for Amount").press("Tab")
    expect(restore.page.get_by_test_id("toast-body").last).to_contain_text("maximum value 1")
    restore.get_by_label(NOTHING).check()
    expect(restore.get_by_alt_text("The truth")).to_be_hidden()
    expect(restore.get_by_label("number input for Amount")).to_be_hidden()  # nothing is added
    with studio.taking(1):
        start(restore)
        expect(restore.locator(".mm-status")).to_contain_text(re.compile(r"Step \d+ of"))
        restore.get_by_role("button", name="Stop").click()
        expect(restore.locator(".mm-status")).to_contain_text("Stopped")
        assert studio.stopped.wait(5)
    expect(restore.get_by_role("button", name="Restore", exact=True)).to_be_enabled()


def test_what_runs_ends_when_something_else_is_painted_over(restore: Locator, studio: SlowStudio):
    restore.get_by_label("Erase", exact=True).check()
    restore.get_by_role("button", name="Erase the lower half").click()
    studio.stopped.clear()
    with studio.taking(1):
        start(restore)
        expect(restore.locator(".mm-status")).to_contain_text(re.compile(r"Step \d+ of"))
        restore.get_by_role("button", name="Erase nothing").click()
        assert studio.stopped.wait(5)
    expect(restore.get_by_role("button", name="Restore", exact=True)).to_be_enabled()
    expect(restore.locator(".mm-candidate:enabled")).to_have_count(0)


def test_damage_is_as_much_as_was_asked_for_and_always_the_same():
    grey = Image.new("RGB", (64, 64), (128, 128, 128))
    noisy, salted = array(spoilt(grey, GAUSSIAN, 0.1)), array(spoilt(grey, SALT, 0.3))
    assert (noisy - 128).std() / 255 == pytest.approx(0.1, rel=0.1)
    assert np.isin(salted, (0, 255)).all(axis=-1).mean() == pytest.approx(0.3, abs=0.05)
    assert (noisy == array(spoilt(grey, GAUSSIAN, 0.1))).all()
    assert array(spoilt(Image.fromarray(noisy.astype(np.uint8)), BLUR, 0.5)).std() < noisy.std() / 2
