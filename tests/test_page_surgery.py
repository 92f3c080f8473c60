"""Token surgery in the Reconstruct tab, in a real browser: what is shown is always what the studio decodes."""

import json
import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
from browsing import Locator, Page, answered, choose_cell, choose_pack, expect, open_pack, open_tab, opened_uri
from PIL import Image

from mmdemo.studio import Studio
from mmdemo.ui.codebook import percent
from mmdemo.ui.pictures import photographs


@pytest.fixture(scope="module")
def studio(varied: Studio) -> Studio:
    return varied


@pytest.fixture
def page(shared: Page) -> Page:
    """Reconstruct on `cifar`, 4 × 4 tokens of 16 codes, with those of the first example being edited: none is yet."""
    open_pack(shared, "cifar")
    open_tab(shared, "Reconstruct")
    expect(shared.locator("#reconstruct .mm-status")).to_contain_text("16 × 16 pixels became 4 × 4 tokens")
    edit = shared.get_by_role("button", name="Edit tokens")
    before = edit.element_handle()
    shared.get_by_label("Example 1", exact=True).click()
    shared.wait_for_function("before => !before.isConnected", arg=before)
    if not panel(shared).is_visible():
        edit.click()
    expect(panel(shared)).to_contain_text("No token edited yet")
    return shared


def panel(page: Page) -> Locator:
    return page.get_by_role("region", name="Edit tokens")


def tokens(page: Page) -> Locator:
    return page.get_by_role("grid", name="Tokens", exact=True)


def ids(grid: Locator, columns: int = 4) -> list[list[int]]:
    shown = [int(id) for id in grid.locator(".mm-token").all_inner_texts()]
    return [shown[i : i + columns] for i in range(0, len(shown), columns)]


def pixels(image: Locator) -> np.ndarray:
    return np.asarray(opened_uri(image.get_attribute("src")))


def is_decoded(page: Page, studio: Studio, expected: list[list[int]], name: str = "Reconstruction") -> None:
    """Waits until every picture of that name is the one that the studio decodes these ids to."""
    wanted = np.asarray(studio.decode("cifar", expected))
    for _ in range(50):
        found = page.locator("#reconstruct-view").get_by_alt_text(name, exact=True).all()
        if found and all(np.array_equal(pixels(one), wanted) for one in found):
            return
        page.wait_for_timeout(100)
    raise AssertionError("the picture is not that of the ids")


def drag(page: Page, grid: Locator, start: int, end: int, columns: int = 4) -> None:
    grid.scroll_into_view_if_needed()
    box = grid.bounding_box()
    side = box["width"] / columns
    place = [(box["x"] + (i % columns + 0.5) * side, box["y"] + (i // columns + 0.5) * side) for i in (start, end)]
    page.mouse.move(*place[0])
    page.mouse.down()
    page.mouse.move(*place[1])  # in one leap, as a quick hand does
    page.mouse.up()


def other_than(code: int) -> int:
    return (code + 5) % 16


def test_a_chosen_token_takes_a_code_by_number_or_a_near_one_by_a_click_and_the_picture_follows(
    page: Page, studio: Studio
):
    before = ids(tokens(page))
    choose_cell(tokens(page), 6)
    expect(page.locator("#reconstruct-view .mm-card h3")).to_have_text(f"Code {before[1][2]}")
    code = other_than(before[1][2])
    page.get_by_label("Code", exact=True).fill(str(code))
    page.get_by_role("button", name="Put it at 1 place").click()
    after = [list(row) for row in before]
    after[1][2] = code
    is_decoded(page, studio, after)
    assert ids(tokens(page)) == after
    expect(panel(page)).to_contain_text("1 of 16 tokens edited")
    expect(panel(page)).to_contain_text(re.compile(r"took \d+ ms"))
    expect(tokens(page).locator("[aria-selected=true]")).to_have_attribute("title", f"Token {code}, row 2, column 3")
    expect(page.locator("#reconstruct-view .mm-tile").first).to_be_hidden()  # the numbers are of another picture
    expected = ids(tokens(page))
    choose_cell(tokens(page), 0)
    expect(page.locator("#reconstruct-view .mm-card h3")).to_have_text(f"Code {expected[0][0]}")
    near = studio.code("cifar", expected[0][0]).nearest[1]["code"]
    page.locator("#reconstruct-view .mm-nearest button").nth(1).click()
    expected[0][0] = near
    is_decoded(page, studio, expected)
    expect(page.locator("#reconstruct-view .mm-card h3")).to_have_text(f"Code {near}")


def test_a_drag_paints_every_place_on_its_way_each_is_marked_and_undo_redo_reset_go_back_and_forth(
    page: Page, studio: Studio
):
    page.get_by_label("paints with").check()
    code = other_than(ids(tokens(page))[3][0])
    page.get_by_label("Code", exact=True).fill(str(code))
    page.keyboard.press("Enter")
    choose_cell(tokens(page), 12)
    expect(panel(page)).to_contain_text("1 of 16 tokens edited")
    corner = """(canvas) => { const side = canvas.width / 4, c = canvas.getContext('2d'); return [...Array(16).keys()]
        .filter(i => c.getImageData((i % 4 + 1) * side - 4, Math.floor(i / 4) * side + 4, 1, 1).data[2] > 200); }"""
    assert tokens(page).locator(".mm-marks").evaluate(corner) == [12]
    page.get_by_role("button", name="Undo").click()
    expect(panel(page)).to_contain_text("No token edited yet")
    before = ids(tokens(page))
    page.get_by_label("Code", exact=True).fill("9")
    page.get_by_role("button", name="Paint with it").click()
    assert ids(tokens(page)) == before  # the brush alone changes nothing
    drag(page, tokens(page), 4, 7)
    row = [*before[:1], [9] * 4, *before[2:]]
    is_decoded(page, studio, row)
    assert ids(tokens(page)) == row
    drag(page, tokens(page), 8, 11)
    two = [*before[:1], [9] * 4, [9] * 4, *before[3:]]
    is_decoded(page, studio, two)
    page.keyboard.press("Control+z")  # a stroke is one step
    is_decoded(page, studio, row)
    page.get_by_role("button", name="Undo").click()
    is_decoded(page, studio, before)
    expect(page.get_by_role("button", name="Undo")).to_be_disabled()
    page.keyboard.press("Control+y")
    page.get_by_role("button", name="Redo").click()
    is_decoded(page, studio, two)
    expect(page.get_by_role("button", name="Redo")).to_be_disabled()
    page.get_by_role("button", name="Reset").click()
    is_decoded(page, studio, before)
    expect(panel(page)).to_contain_text("No token edited yet")
    page.get_by_role("button", name="Undo").click()  # even that can be undone
    is_decoded(page, studio, two)


def test_a_drag_selects_no_text_but_numbers_in_their_middle_and_the_keyboard_alone_changes_several(
    page: Page, studio: Studio
):
    drag(page, tokens(page), 0, 15)
    assert page.evaluate("getSelection().toString()") == ""
    grid = tokens(page).bounding_box()
    for i in (0, 6, 15):
        box = tokens(page).locator(".mm-token").nth(i).bounding_box()
        assert abs(box["x"] + box["width"] / 2 - grid["x"] - (i % 4 + 0.5) * grid["width"] / 4) < 2
        assert abs(box["y"] + box["height"] / 2 - grid["y"] - (i // 4 + 0.5) * grid["height"] / 4) < 2
    expected = ids(tokens(page))
    choose_cell(tokens(page), 0)
    page.mouse.move(0, 0)  # a pointer over the grid would have a say as well
    tokens(page).focus()
    page.keyboard.press("Shift+ArrowRight")
    page.keyboard.press("Shift+ArrowDown")
    expect(page.get_by_role("button", name="Put it at 3 places")).to_be_visible()
    page.get_by_label("Code", exact=True).fill("3")
    page.keyboard.press("Enter")
    expected[0][0] = expected[0][1] = expected[1][1] = 3
    is_decoded(page, studio, expected)
    assert ids(tokens(page)) == expected
    tokens(page).focus()
    page.keyboard.press("ArrowDown")
    page.keyboard.press("Enter")  # a new selection of one
    expect(page.get_by_role("button", name="Put it at 1 place")).to_be_visible()


def test_a_code_of_the_codebook_is_used_and_leads_back_to_the_picture(page: Page, studio: Studio):
    before = ids(tokens(page))
    page.get_by_role("tab", name="Codebook").click()
    code = studio.codebook("cifar").order[10]
    choose_cell(page.get_by_role("grid", name="Codes"), 10)
    expect(page.locator("#codebook-view .mm-card h3")).to_have_text(f"Code {code}")
    page.locator("#codebook-view").get_by_role("button", name="Use this code").click()
    expect(page.get_by_role("tab", name="Reconstruct")).to_have_attribute("aria-selected", "true")
    expect(page.get_by_label("paints with")).to_be_checked()
    expect(page.get_by_label("Code", exact=True)).to_have_value(str(code))
    drag(page, tokens(page), 0, 3)
    is_decoded(page, studio, [[code] * 4, *before[1:]])
    page.get_by_label("selects").check()
    choose_cell(tokens(page), 5)
    page.get_by_role("button", name=f"Use this code of the Codebook: {code}").click()
    is_decoded(page, studio, [[code] * 4, [before[1][0], code, *before[1][2:]], *before[2:]])


def test_use_this_code_brings_the_pack_it_is_of(watched: Page, address: str):
    watched.goto(address)
    expect(watched.locator("#codebook-view .mm-card h3")).to_be_visible()
    watched.locator("#codebook-view").get_by_role("button", name="Use this code").click()
    expect(watched.locator("#reconstruct .mm-status")).to_contain_text("16 × 16 pixels")
    expect(panel(watched)).to_be_visible()
    code = watched.locator("#reconstruct-view .mm-card h3").inner_text()
    expect(panel(watched)).to_contain_text(f"paints with {code.lower()}")


def test_a_code_that_is_none_is_refused_in_place_and_nothing_is_lost(page: Page, studio: Studio):
    before = ids(tokens(page))
    choose_cell(tokens(page), 2)
    code = other_than(before[0][2])
    page.get_by_label("Code", exact=True).fill(str(code))
    page.keyboard.press("Enter")
    edited = [[*before[0][:2], code, before[0][3]], *before[1:]]
    is_decoded(page, studio, edited)
    page.get_by_label("Code", exact=True).fill("16")
    page.keyboard.press("Enter")
    expect(page.get_by_role("alert")).to_contain_text("code is 16; it must be a whole number from 0 to 15")
    is_decoded(page, studio, edited)
    assert ids(tokens(page)) == edited


def test_ids_are_copied_and_pasted_as_json(page: Page, studio: Studio):
    page.context.grant_permissions(["clipboard-read", "clipboard-write"])
    before = ids(tokens(page))
    page.get_by_role("button", name="Copy ids").click()
    expect(panel(page)).to_contain_text("in the clipboard")
    assert json.loads(page.evaluate("navigator.clipboard.readText()")) == before
    turned = [row[::-1] for row in before[::-1]]
    page.evaluate("text => navigator.clipboard.writeText(text)", json.dumps(turned))
    page.get_by_role("button", name="Paste ids").click()
    is_decoded(page, studio, turned)
    page.get_by_role("button", name="Undo").click()
    is_decoded(page, studio, before)


def test_without_a_clipboard_a_text_field_takes_its_place_and_keeps_what_is_wrong(page: Page, studio: Studio):
    page.evaluate("Object.defineProperty(navigator, 'clipboard', { value: undefined, configurable: true })")
    before = ids(tokens(page))
    page.get_by_role("button", name="Copy ids").click()
    field = page.get_by_label("Ids as JSON")
    assert json.loads(field.input_value()) == before
    page.get_by_role("button", name="Paste ids").click()
    expect(field).to_be_focused()
    trouble = page.get_by_role("alert")
    for wrong, sentence in (
        ("[[1, 2], [3]]", "rows of different lengths"),
        ("[[99, 1, 1, 1]]", "whole number from 0 to 15"),
        ("no json <b>", "tokens is 'no json <b>'"),
        ("[[1, 2], [3, 4]]", "this picture has 4 × 4"),
    ):
        field.fill(wrong)
        page.get_by_role("button", name="Use these ids").click()
        expect(trouble).to_contain_text(sentence)
        expect(field).to_have_value(wrong)
        assert ids(tokens(page)) == before
    field.fill(json.dumps([[7] * 4] * 4))
    page.get_by_role("button", name="Use these ids").click()
    is_decoded(page, studio, [[7] * 4] * 4)
    expect(field).to_be_hidden()
    expect(trouble).to_be_hidden()
    page.evaluate("delete navigator.clipboard")  # and its own is seen again


def second(page: Page) -> Locator:
    return page.get_by_role("grid", name="Tokens of the second picture")


def test_tokens_change_sides_between_two_pictures_back_and_lead_to_codes_but_replace_none_chosen_since(
    page: Page, studio: Studio
):
    page.get_by_label("Second picture: example 2").click()
    expect(second(page)).to_be_visible()
    mine, theirs = ids(tokens(page)), ids(second(page))
    is_decoded(page, studio, theirs, "Second picture")
    assert mine[0] != theirs[0]
    drag(page, tokens(page), 0, 3)
    swapped = [theirs[0], *mine[1:]], [mine[0], *theirs[1:]]
    page.get_by_role("button", name="Swap tokens at 4 places").click()
    is_decoded(page, studio, swapped[0])
    is_decoded(page, studio, swapped[1], "Second picture")
    assert (ids(tokens(page)), ids(second(page))) == swapped
    page.get_by_role("button", name="Undo").click()
    is_decoded(page, studio, mine)
    is_decoded(page, studio, theirs, "Second picture")
    with answered(page):
        page.get_by_label("Second picture: example 3").click()
    assert ids(second(page)) != theirs
    choose_cell(second(page), 13)
    expect(page.locator("#reconstruct-view .mm-card h3")).to_have_text(f"Code {ids(second(page))[3][1]}")
    expect(page.get_by_role("button", name="Swap tokens at 1 place")).to_be_visible()
    with answered(page):
        page.get_by_label("Second picture: example 2").click()
    assert ids(second(page)) == theirs
    drag(page, tokens(page), 0, 3)
    with answered(page), held(page, "decode_tokens") as asked:
        page.get_by_role("button", name="Swap tokens at 4 places").click()
        arrived(page, asked, 2)
        page.get_by_label("Second picture: example 3").click()
        expect(page.get_by_label("Second picture: example 3")).to_have_attribute("aria-pressed", "true")
    shown, expected = page.get_by_alt_text("Second picture", exact=True), studio.decode("cifar", ids(second(page)))
    assert np.array_equal(pixels(shown), np.asarray(expected))


def test_the_brush_copies_what_a_second_file_has_there_and_of_two_chosen_quickly_the_last_one_stays(
    page: Page, studio: Studio, tmp_path: Path
):
    expect(page.get_by_label("copies from the second picture")).to_be_disabled()
    Image.new("RGB", (40, 30), "red").save(tmp_path / "red.png")
    page.get_by_label("A second picture's file").set_input_files(tmp_path / "red.png")
    expect(second(page)).to_be_visible()
    mine, theirs = ids(tokens(page)), ids(second(page))
    assert theirs == studio.reconstruct("cifar", tmp_path / "red.png").tokens
    page.get_by_label("copies from the second picture").check()
    drag(page, tokens(page), 5, 7)
    is_decoded(page, studio, [mine[0], [mine[1][0], *theirs[1][1:]], *mine[2:]])
    assert ids(second(page)) == theirs
    (tmp_path / "words.png").write_text("This is no picture.")
    page.get_by_label("A second picture's file").set_input_files(tmp_path / "words.png")
    expect(page.get_by_role("alert")).to_contain_text("cannot be read as a picture")
    assert ids(second(page)) == theirs
    Image.effect_noise((3000, 3000), 80).convert("RGB").save(tmp_path / "large.png")
    page.get_by_label("A second picture's file").set_input_files(tmp_path / "large.png")
    page.get_by_label("Second picture: example 2").click()
    example = page.locator("[data-index='1'][aria-pressed='true']").and_(page.get_by_label("Second picture: example 2"))
    expect(example).to_be_visible()
    page.wait_for_timeout(1500)
    expect(example).to_be_visible()
    shown = ids(second(page))
    with answered(page):
        page.get_by_label("Second picture: example 1").click()
        page.get_by_label("Second picture: example 2").click()
    assert ids(second(page)) == shown


def test_a_hurried_hand_asks_for_few_pictures_and_edits_stay_when_editing_ends_and_go_with_the_picture(
    page: Page, studio: Studio
):
    asked = []
    page.on("request", lambda request: asked.append(request) if "component_server" in request.url else None)
    page.get_by_label("paints with").check()
    page.get_by_label("Code", exact=True).fill("1")
    page.keyboard.press("Enter")
    tokens(page).scroll_into_view_if_needed()
    box = tokens(page).bounding_box()
    side = box["width"] / 4
    page.mouse.move(box["x"] + side / 2, box["y"] + side / 2)
    page.mouse.down()
    for i in range(96):  # back and forth over all places
        page.mouse.move(box["x"] + (i % 4 + 0.5) * side, box["y"] + (i // 4 % 4 + 0.5) * side)
    page.mouse.up()
    is_decoded(page, studio, [[1] * 4] * 4)
    decoded = [request for request in asked if "decode_tokens" in (request.post_data or "")]
    assert 1 <= len(decoded) <= 16
    page.get_by_label("Code", exact=True).fill("2")
    page.keyboard.press("Enter")
    drag(page, tokens(page), 0, 15)
    edited = ids(tokens(page))
    page.get_by_role("button", name="Edit tokens").click()
    expect(panel(page)).to_be_hidden()
    is_decoded(page, studio, edited)
    choose_cell(tokens(page), 3)  # now only looks
    expect(page.locator("#reconstruct-view .mm-card h3")).to_have_text(f"Code {edited[0][3]}")
    assert ids(tokens(page)) == edited
    page.get_by_label("Example 2", exact=True).click()
    expect(page.locator("#reconstruct .mm-status")).to_contain_text("Example 2")
    expect(page.locator("#reconstruct-view .mm-tile").first).to_be_visible()


def test_4096_codes_and_many_tokens_are_edited_on_a_phone(watched: Page, address: str):
    watched.set_viewport_size({"width": 390, "height": 844})
    watched.goto(address)
    open_pack(watched, "photos")
    open_tab(watched, "Reconstruct")
    watched.get_by_label("64", exact=True).check()
    expect(watched.locator("#reconstruct .mm-status")).to_contain_text("64 × 64 pixels became 16 × 16 tokens")
    watched.get_by_role("button", name="Edit tokens").click()
    watched.get_by_label("paints with").check()
    watched.get_by_label("Code", exact=True).fill("4095")
    watched.keyboard.press("Enter")
    drag(watched, tokens(watched), 0, 255, columns=16)  # the diagonal
    expect(panel(watched)).to_contain_text("16 of 256 tokens edited")
    watched.get_by_label("Second picture: example 2").click()
    expect(second(watched)).to_be_visible()
    for theme in ("light", "dark"):
        watched.evaluate("dark => document.body.classList.toggle('dark', dark)", theme == "dark")  # as gradio does
        assert watched.locator(":root").evaluate("page => page.scrollWidth - page.clientWidth") <= 0
    name = tokens(watched).locator("[aria-selected=true]")
    expect(name).to_have_attribute("title", "Token 4095, row 16, column 16")


def examples_of(page: Page, tab: str) -> list[str]:
    return page.locator(f"{tab} .mm-picker .mm-thumbs img").evaluate_all("all => all.map(one => one.src)")


def second_examples(page: Page) -> list[str]:
    region = page.get_by_role("region", name="A second picture")
    return region.locator(".mm-thumbs img").evaluate_all("all => all.map(one => one.src)")


def test_second_pictures_are_those_of_the_picker_until_the_next_packs_picture_has_come(
    watched: Page, address: str, studio: Studio, monkeypatch: pytest.MonkeyPatch
):
    watched.goto(address)
    choose_pack(watched, "photos")
    open_tab(watched, "Reconstruct")
    expect(watched.locator("#reconstruct .mm-status")).to_contain_text("32 × 32 pixels")
    watched.get_by_role("button", name="Edit tokens").click()
    expect(panel(watched)).to_be_visible()
    expect(watched.locator("#picker .mm-thumbs img")).to_have_count(len(photographs()))
    offered = examples_of(watched, "#reconstruct")
    assert second_examples(watched) == offered
    watched.get_by_label("Second picture: example 3").click()
    expect(second(watched)).to_be_visible()
    watched.get_by_label("Example 2", exact=True).click()
    expect(watched.locator("#reconstruct .mm-status")).to_contain_text("Example 2")
    assert second_examples(watched) == offered
    came, held, load, is_loaded = threading.Event(), [], studio.load, studio.is_loaded
    monkeypatch.setattr(studio, "is_loaded", lambda pack: came.is_set() and is_loaded(pack))
    monkeypatch.setattr(studio, "load", lambda pack: (held.append(pack), came.wait(60), load(pack)))
    choose_pack(watched, "mnist")
    expect(watched.locator("#picker .mm-thumbs img")).to_have_count(1)
    assert second_examples(watched) == offered and "mnist" in held
    came.set()
    expect(watched.locator("#reconstruct .mm-status")).to_contain_text("16 × 16 pixels")
    assert second_examples(watched) == examples_of(watched, "#reconstruct") != offered


@contextmanager
def held(page: Page, function: str) -> Iterator[list]:
    """The page's questions to a function of Python, held back until the end, unless they are answered before."""
    asked, done = [], []

    def hold(route) -> None:
        if route.request.post_data_json["fn_name"] == function and not done:
            asked.append(route)
        else:
            route.continue_()

    page.route("**/component_server/**", hold)
    yield asked
    done.append(True)
    for route in asked:
        route.continue_()
    page.unroute("**/component_server/**")


def arrived(page: Page, asked: list, count: int = 1) -> None:
    for _ in range(100):
        if len(asked) >= count:
            return
        page.wait_for_timeout(50)
    raise AssertionError(f"{len(asked)} questions instead of {count}")


def lose(asked: list) -> None:
    """An answer that is none: as when the server fails, which a browser would also complain of by itself."""
    asked.pop(0).fulfill(status=200, body="lost")


def test_what_lies_between_is_shown_though_it_failed_before_and_a_lost_question_does_not_hold_up_the_next(
    page: Page, studio: Studio
):
    original = opened_uri(page.get_by_alt_text("Original").get_attribute("src"))
    mine = ids(tokens(page))
    page.get_by_label("Second picture: example 2").click()
    expect(second(page)).to_be_visible()
    button = page.get_by_role("button", name="Show what lies between")
    with held(page, "between") as asked:
        button.click()
        arrived(page, asked)
        expect(button).to_be_disabled()
        lose(asked)
        expect(page.get_by_role("alert")).to_contain_text("The server did not answer")
        expect(button).to_be_enabled()
    button.click()
    expect(page.get_by_role("alert")).to_be_hidden()
    strips = page.locator(".mm-strip-of")
    expect(strips).to_have_count(2)
    made = studio.interpolate("cifar", original, photographs()[1])
    for strip, expected in ((strips.nth(0), made.latent), (strips.nth(1), made.tokens)):
        shown = [pixels(one) for one in strip.locator("img").all()]
        assert len(shown) == 7
        assert all(np.array_equal(a, np.asarray(b)) for a, b in zip(shown, expected, strict=True))
    assert np.array_equal(shown[0], np.asarray(studio.decode("cifar", mine)))
    expected = ids(tokens(page))
    with held(page, "decode_tokens") as asked:
        for place in (0, 1):
            choose_cell(tokens(page), place)
            code = other_than(expected[0][place])
            page.get_by_label("Code", exact=True).fill(str(code))
            page.keyboard.press("Enter")
            expected[0][place] = code
        arrived(page, asked)
        lose(asked)
        expect(page.get_by_role("alert")).to_contain_text("The server did not answer")
    is_decoded(page, studio, expected)
    assert ids(tokens(page)) == expected


def test_a_codes_card_that_comes_late_is_not_shown_under_another_packs_picture(page: Page, studio: Studio):
    code = studio.reconstruct("mnist", studio.examples("mnist")[0]).tokens[2][2]  # which its picture opens on
    with answered(page), held(page, "describe_code") as asked:
        page.get_by_label("Code", exact=True).fill(str(code))
        page.keyboard.press("Enter")
        arrived(page, asked)
        choose_pack(page, "mnist")
        expect(page.locator("#reconstruct-view .mm-tokens [aria-selected=true]")).to_have_attribute(
            "title", f"Token {code}, row 3, column 3"
        )
        arrived(page, asked, 2)
        asked.reverse()  # the first question is answered last
    expect(page.locator("#reconstruct-view .mm-card h3")).to_have_text(f"Code {code}")
    expect(page.locator("#reconstruct-view .mm-share")).to_have_text(percent(studio.code("mnist", code).share))
