"""What the page's scripts share, in a real browser: the store between tabs, and questions that go unanswered."""

import pytest
from browsing import Locator, Page, expect, open_advanced, open_tab, opened_uri

from mmdemo.studio import Studio


@pytest.fixture
def page(watched: Page, address: str) -> Page:
    watched.goto(address)
    expect(watched.locator("#codebook-view .mm-card")).to_be_visible()  # the scripts are there
    return watched


def test_the_store_refuses_unknown_names_and_tells_its_listeners_and_an_unanswered_question_says_so(page: Page):
    for call in ("get('colour')", "set('colour', 1)", "on('colour', () => {})", "take('colour')"):
        refused = page.evaluate(
            f"() => {{ try {{ window.mmdemo.store.{call} }} catch (error) {{ return error.message }} }}"
        )
        assert refused == "The store has no field colour"
    heard = page.evaluate(
        """() => {
          const { store, el } = window.mmdemo, heard = [], node = el('div');
          document.body.append(node);
          store.set('strength', 0.25);
          store.on('strength', (value) => heard.push(['first', value]), node);
          store.set('strength', 0.5);
          store.set('strength', 0.5);
          node.remove();
          store.on('strength', (value) => heard.push(['second', value]));
          store.set('strength', 0.75);
          return heard; }"""
    )
    assert heard == [["first", 0.25], ["first", 0.5], ["second", 0.5], ["second", 0.75]]
    shown = page.evaluate(
        """async () => {
          const shown = [], lost = { 1: Promise.reject(new Error('lost')), 2: Promise.resolve(undefined) };
          const ask = window.mmdemo.latest((x) => lost[x] ?? { x }, (answer, x) => shown.push([x, answer]));
          await Promise.all([ask(1), ask(3), ask(4)]);
          await Promise.all([ask(2), ask(5)]);
          return shown; }"""
    )
    silence = {"error": "The server did not answer. Try again."}
    assert shown == [[1, silence], [4, {"x": 4}], [2, silence], [5, {"x": 5}]]


def test_an_error_of_ours_is_seen_as_what_it_is_and_holds_up_no_question(window, address: str):
    page = window.new_page()  # no `watched` one, which lets no error pass
    page.goto(address)
    expect(page.locator("#codebook-view .mm-card")).to_be_visible()
    errors = []
    page.on("pageerror", lambda error: errors.append(str(error)))
    shown = page.evaluate(
        """async () => {
          const shown = [];
          const ask = window.mmdemo.latest(async (x) => ({ x }), (answer, x) => {
            shown.push(answer);
            if (x === 1) throw new Error('of ours');
          });
          await Promise.all([ask(1), ask(2)]);
          return shown; }"""
    )
    assert shown == [{"x": 1}, {"x": 2}]
    page.wait_for_timeout(200)
    page.close()
    assert len(errors) == 1 and "of ours" in errors[0]


def test_the_guess_of_a_class_to_avoid_is_named_so_and_is_what_python_draws(page: Page, studio: Studio):
    open_tab(page, "Denoise")
    denoise = page.locator("#denoise")
    caption = denoise.locator(".mm-guesses figcaption").first
    expect(caption).to_have_text("without a label")
    open_advanced(denoise)
    denoise.get_by_role("combobox", name="Negative").click()
    page.get_by_role("option", name="square").click()
    denoise.get_by_label("Randomize").uncheck()
    page.get_by_role("button", name="Denoise", exact=True).click()
    expect(denoise.locator(".mm-status")).to_contain_text("away from square: denoised in")
    expect(caption).to_have_text("by square, to avoid")
    drawn = studio.denoise("tiny", "circle", 0, negative="square").result()
    uri = page.get_by_alt_text("The guess of the finished picture", exact=True).get_attribute("src")
    assert opened_uri(uri).tobytes() == drawn.x0.tobytes()


def test_what_to_edit_and_the_button_are_where_a_hand_looks_for_them(page: Page):
    page.set_viewport_size({"width": 1280, "height": 844})
    open_tab(page, "Denoise")
    page.get_by_role("tab", name="Edit a picture").click()
    edit = page.locator("#edit")
    expect(edit.locator("#edit-view .mm-strip img").first).to_be_visible()
    label = edit.get_by_role("combobox", name="Turn it into")
    button = edit.get_by_role("button", name="Edit", exact=True)

    def top(one: Locator) -> float:
        return one.bounding_box()["y"]

    # Where there is room beside the picture, the button is in the first screen.
    assert top(label) < top(button) < 844 and top(edit.locator("#edit-picker")) < top(edit.locator("#edit-upload"))
    page.set_viewport_size({"width": 390, "height": 844})
    assert top(edit.locator(".mm-status")) < top(edit.locator("#edit-picker")) < top(label) < top(button)
    edit.get_by_role("button", name="Open a file").click()  # one way of choosing at a time
    assert top(edit.locator("#edit-picker")) < top(edit.locator("#edit-upload")) < top(label)
