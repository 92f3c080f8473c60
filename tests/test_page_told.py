"""What a pack says of a picture's class, on the page in a real browser: asked in Reconstruct and in Sample."""

import re

import numpy as np
import pytest
from browsing import Page, SlowStudio, choose_pack, expect, open_tab, opened_uri
from conftest import TINY_CLASSES, same

from mmdemo.ui.telling import MOST, _likeliest

STUDIO = SlowStudio


@pytest.fixture
def page(watched: Page, address: str) -> Page:
    watched.goto(address)
    choose_pack(watched, "tiny")
    return watched


def shares(told) -> list[str]:
    return [f"{name}{round(100 * round(share, 4))} %" for name, share in told.probabilities.items()]


def test_in_reconstruct_a_picture_is_named_with_its_evidence_until_another_is_chosen(page: Page, studio, tmp_path):
    open_tab(page, "Reconstruct")
    view, ask = page.locator("#description-view"), page.get_by_role("button", name="What is it?")
    with studio.taking(0.5):
        ask.click()
        expect(view.locator(".mm-busy")).to_have_text("Looking at the picture…")
        expect(view.locator("dd")).to_have_count(3)  # bars that fill
    expect(view.locator(".mm-described")).to_be_visible()
    original = opened_uri(page.get_by_alt_text("Original").get_attribute("src"))
    told = studio.classify("tiny", original, "no").result()
    expect(view.locator(".mm-described")).to_have_text(told.label)
    expect(view.locator("dd")).to_have_text(shares(told))
    caption = f"Where “{told.label}” explains more than “{told.other}” does"
    assert same(opened_uri(view.get_by_alt_text(caption).get_attribute("src")), told.map)
    expect(view.locator(".mm-help").first).to_contain_text("sure even of pictures that it does not know")
    page.get_by_label("yes", exact=True).check()
    expect(view.locator(".mm-described")).to_have_count(0)
    choose_pack(page, "tiny-codec")
    expect(ask).to_be_hidden()


def test_in_sample_a_chosen_picture_is_asked_about_or_watched(page: Page, studio):
    open_tab(page, "Sample")
    view, pictures = page.locator("#told-view"), page.locator(".mm-picture")
    question = page.locator("#sample").get_by_role("button", name="What is it?", exact=True)
    question.click()
    drawn = studio.sample("tiny", "all", 10, 0).images
    expect(view.locator("dd")).to_have_text(shares(studio.classify("tiny", drawn[0], "no").result()))
    pictures.nth(4).click()
    told = studio.classify("tiny", drawn[4], "no").result()
    expect(view.locator("dd")).to_have_text(shares(told))
    expect(view.locator(".mm-described")).to_have_text(told.label)
    assert page.locator("[data-asked]").evaluate_all(
        "all => all.map(one => [...one.parentNode.children].indexOf(one))"
    ) == [4]
    expect(pictures.nth(4)).to_have_attribute("aria-label", re.compile("what is it"))
    question.click()
    pictures.nth(1).click()
    expect(page.locator("#denoise .mm-status").first).to_contain_text(
        re.compile(f"{TINY_CLASSES[1]}, seed 1, .* denoised in")
    )
    open_tab(page, "Sample")
    page.locator("#sample").get_by_role("button", name="Draw", exact=True).click()
    expect(view.locator(".mm-described")).to_have_count(0)


def test_of_many_classes_the_likeliest_are_shown_in_the_packs_order():
    rng = np.random.default_rng(0)
    given = {f"kind {i}": share for i, share in enumerate(rng.dirichlet(np.ones(40)))}
    shown = _likeliest(given)
    names = [name for name, _ in shown]
    assert len(names) == MOST and names == [name for name in given if name in names]
    assert min(given[name] for name in names) >= max(share for name, share in given.items() if name not in names)
