"""What a pack can read: words, whether they were seen, and the ids that the transformer takes for them."""

import json
import shutil
from dataclasses import replace

import pytest
import torch
from conftest import CAPTIONS, RECORDS, same
from running import is_one_sentence

from mmdemo import codec, data, loading, packs
from mmdemo.captions import Lexicon, is_han
from mmdemo.errors import ArgumentError, DataError, PackError
from mmdemo.pipeline import ClassPipeline
from mmdemo.training import export, lexicon
from mmdemo.words import PAD_ID, START_ID, Words

WEIGHTS = "reading_weights"


@pytest.fixture(scope="module")
def words() -> Words:
    return Words.learn(CAPTIONS * 40, lexicon.learn(CAPTIONS * 40, RECORDS * 40))


def test_every_word_of_the_captions_is_one_token_and_every_text_begins_with_the_start(words):
    assert words.encode("") == [START_ID]
    for caption in (one for some in CAPTIONS for one in some):
        read = words.words(caption)
        assert all(len(word.ids) == 1 for word in read) and words.unknown(caption) == []
        assert words.encode(caption) == [START_ID, *(word.ids[0] for word in read)]
        assert PAD_ID not in words.encode(caption) and max(words.encode(caption)) < words.size


def test_a_han_character_is_a_word_so_that_colours_and_things_combine_as_never_seen(words):
    assert [word.text for word in words.words("蓝色圆")] == ["蓝", "色", "圆"]
    assert words.unknown("蓝色圆") == []


@pytest.mark.parametrize("prompt", ["A RED circle", "ａ ｒｅｄ circle", "a\tred\u3000circle", "a red\ncircle"])
def test_case_width_and_spaces_make_no_difference(words, prompt):
    assert words.encode(prompt) == words.encode("a red circle")


def test_words_stand_where_they_stand_in_the_text(words):
    prompt = "A  red，Zebra 红色"
    assert [(word.text, prompt[word.start : word.end]) for word in words.words(prompt)] == [
        (word, word) for word in ("A", "red", "Zebra", "红", "色")
    ]


def test_words_never_seen_are_named_in_one_sentence_and_passed_over(words):
    prompt = "a red astronaut circle with a zebra, astronaut 宇航员"
    assert words.unknown(prompt) == ["astronaut", "zebra", "宇航员"]
    assert words.encode(prompt) == words.encode("a red circle a")
    assert words.notice(["a red circle", prompt]).startswith("“astronaut”, “zebra”, “宇航员” were never seen and")
    assert words.notice(["a red circle", "", "the circle of 的红色圆"]) == "", "some words say nothing of a picture"


@pytest.mark.parametrize(
    ("prompt", "told"),
    [
        ("a zebra", "“zebra” was never seen and is left out; this pack knows red circle, large, …"),
        ("红色的猫", "“猫” was never seen and is left out; this pack knows 大, 红色, 圆, …"),
        ("1 2 3 4", "“1”, “2”, “3”, … were never seen and are left out; this pack knows red circle, large, …"),
        ("no zebra", "“no”, “zebra” were never seen and are left out; this pack knows red circle, large, …"),
    ],
)  # fmt: skip
def test_what_there_is_instead_is_told_by_a_phrase_for_every_attribute_in_the_script_of_the_prompt(words, prompt, told):
    phrases = {
        "size": {"large": ("large", "大"), "small": ("small", "小")},
        "colour": {"red": ("red", "红色")},
        "shape": {"circle": ("circle", "圆")},
    }
    values = {name: tuple(by_value) for name, by_value in phrases.items()}
    made = Lexicon(phrases, {}, values, tags=("red circle", "large"))
    assert replace(words, lexicon=made).notice([prompt]) == told
    understood = "a circle" if any(map(is_han, prompt)) else "红色圆"  # whose script does not matter
    assert replace(words, lexicon=made).notice([understood, prompt]) == told


@pytest.mark.parametrize(
    ("prompt", "negating"),
    [("no red circle", "no"), ("a circle without a red square", "without"), ("没有圆", "没"), ("Not red", "Not")],
)
def test_that_what_should_be_absent_is_drawn_is_told(words, prompt, negating):
    absent = f"what follows “{negating}” is drawn: leave it out, and name it in the negative prompt"
    assert words.notice([prompt]) == f"“{negating}” was never seen and is left out; {absent}"


def test_where_captions_negate_nothing_is_told():
    words = Words.learn([["a circle", "no circle"]], lexicon.learn([], []))
    assert words.notice(["no circle"]) == "" and words.notice(["zebra"]).endswith("knows circle, no, …")


@pytest.mark.parametrize("prompt", ["", "   ", "\x00\x1b[31m", "مرحبا بالعالم", "\u202egnp.exe", "🙂🙃", "red" * 300])
def test_any_text_can_be_read(words, prompt):
    assert words.encode(prompt)[0] == START_ID
    assert all(isinstance(word, str) for word in words.unknown(prompt))


def test_of_a_text_that_is_too_long_its_beginning_is_read_and_one_sentence_says_so(words):
    long = "red " * (words.length - 1)
    assert len(words.encode(long)) == words.length and words.notice([long]) == ""
    assert words.encode(long + "circle") == words.encode(long)
    assert words.notice(["red", long + "circle"]) == "a text is longer than this pack reads: its first 63 words count"


def test_a_word_left_out_leaves_the_others(words):
    assert words.encode("a red circle", without=1) == words.encode("a circle")


def test_what_is_saved_reads_the_same(words, tmp_path):
    words.save(tmp_path / "tokenizer")
    again = Words.load(tmp_path / "tokenizer")
    for prompt in ("a red circle", "红色 zebra", ""):
        assert again.words(prompt) == words.words(prompt)
    assert again.lexicon == words.lexicon


@pytest.mark.parametrize("file", ["tokenizer.json", "words.json"])
@pytest.mark.parametrize(
    "content", [None, b"", b"{}", b"[1]", b"\xff\xfe", b'{"words": 3, "lexicon": []}', b'{"length": 1e9}', b"{" * 9]
)
def test_a_damaged_tokenizer_is_one_sentence(words, tmp_path, file, content):
    words.save(tmp_path)
    (tmp_path / file).unlink() if content is None else (tmp_path / file).write_bytes(content)
    with pytest.raises(PackError, match="tokenizer/") as caught:
        Words.load(tmp_path)
    assert "\n" not in str(caught.value)


def test_a_tokenizer_of_another_make_is_refused(words, tmp_path):
    words.save(tmp_path)
    stored = json.loads((tmp_path / "tokenizer.json").read_text(encoding="utf-8"))
    vocabulary = stored["model"]["vocab"]
    vocabulary["[PAD]"], vocabulary["[START]"] = vocabulary["[START]"], vocabulary["[PAD]"]
    (tmp_path / "tokenizer.json").write_text(json.dumps(stored), encoding="utf-8")
    with pytest.raises(PackError, match="does not begin with"):
        Words.load(tmp_path)


def changed(file, change) -> None:
    stored = json.loads(file.read_text(encoding="utf-8"))
    change(stored)
    file.write_text(json.dumps(stored), encoding="utf-8")


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda stored: stored.update(normalizer=None), "no normalizer"),
        (lambda stored: stored.update(pre_tokenizer=None), "no pre_tokenizer"),
        (lambda stored: stored["model"]["vocab"].update(far=9999), "the id 9999"),
    ],
)
def test_a_tokenizer_that_cannot_split_or_whose_ids_have_gaps_is_refused(words, tmp_path, change, said):
    words.save(tmp_path)
    changed(tmp_path / "tokenizer.json", change)
    with pytest.raises(PackError, match=said) as error:
        Words.load(tmp_path)
    assert is_one_sentence(str(error.value))


@pytest.mark.parametrize("stored", ["a red circle", {"red": 1}, ["red", 3], None])
def test_words_that_are_no_list_of_texts_are_refused(words, tmp_path, stored):
    words.save(tmp_path)
    changed(tmp_path / "words.json", lambda whole: whole.update(words=stored))
    with pytest.raises(PackError, match="no list of texts"):
        Words.load(tmp_path)


# ------------------------------------------------------------------------------------------------- asked of a pack


@pytest.mark.parametrize("prompt", ["", "\x00\x1b[31mred\x07", "مرحبا", "\u202egnp", "🙂", "a red circle\n\nblue"])
def test_any_prompt_draws_and_comes_back_on_one_line(studio, prompt):
    made = studio.sample("words", prompt, 1, 3, 2)
    (label,) = made.labels
    assert label.isprintable() and made.images[0].size == (16, 16)
    assert ("notice" in made.json()) == bool(prompt) or "red" in prompt


@pytest.mark.parametrize(
    ("prompt", "sentence"),
    [
        ("a" * 10_000, "label has 10000 characters; it must have at most 1000"),
        (7, "label is 7; it must be a text, or a list of them"),
        ([], r"label is \[\]; it must be a text, or a list of them"),
        (None, "label is None; it must be a text, or a list of them"),
    ],
)
def test_what_is_no_prompt_is_refused_in_one_sentence(studio, prompt, sentence):
    with pytest.raises(ArgumentError, match=f"^{sentence}$"):
        studio.sample("words", prompt)
    with pytest.raises(ArgumentError, match="negative is 7; it must be a text"):
        studio.sample("words", "", negative=7)


def test_all_are_the_packs_examples_in_turn_and_several_prompts_take_turns(studio):
    assert studio.sample("words", "all", 4, 3, 1).labels == [CAPTIONS[i % 3][0] for i in range(4)]
    assert studio.sample("words", ["red", "blue"], 3, 3, 1).labels == ["red", "blue", "red"]


def test_words_never_seen_change_nothing_but_the_notice(studio):
    plain, more = (studio.sample("words", text, 1, 3, 2) for text in ("a red circle", "a red zebra circle"))
    assert same(plain.images, more.images)
    assert "notice" not in plain.json() and "“zebra” was never seen" in more.json()["notice"]


def test_a_negative_prompt_is_what_stands_in_the_empty_ones_place(studio):
    asked = {"seed": 3, "steps": 2, "guidance": 4.0}
    plain, empty, away = (
        studio.sample("words", "a red circle", 1, **asked, negative=one).images for one in (None, "", "blue square")
    )
    assert same(plain, empty) and not same(plain, away)


def test_both_ends_of_a_strip_and_an_axis_may_be_prompts(studio):
    strip = studio.morph("words", "a red circle", "a blue square", seed=3, count=3, steps=2)
    assert len(strip.images) == 3 and strip.other_label == "a blue square" and not strip.notice
    for ends in (("a zebra", "a blue square"), ("a red circle", "a zebra")):
        assert studio.morph("words", *ends, seed=3, count=3, steps=1).notice.startswith("“zebra” was never seen")
    cells = studio.compare("words", "label", ["a red circle", "蓝"], "guidance", [1, 3], seed=3, steps=2).result()
    assert [cell.label for cell in cells] == ["a red circle", "蓝"] * 2


@pytest.mark.parametrize("name", ["tokenizer.json", "words.json"])
def test_a_pack_without_its_tokenizer_says_so(reading_weights, tmp_path, name):
    pack = shutil.copytree(reading_weights / "words", tmp_path / "words")
    (pack / "tokenizer" / name).unlink()
    assert packs.read(pack).problem == f"tokenizer/{name} is missing"


def test_a_pack_is_loaded_and_saved_with_its_words_by_diffusers_own_ways(reading_weights, tmp_path):
    pipeline = ClassPipeline.from_pretrained(reading_weights / "words")
    pipeline.save_pretrained(tmp_path / "again")
    again = ClassPipeline.from_pretrained(tmp_path / "again")
    drawn = [one(["a red circle"], [torch.Generator().manual_seed(1)], 2).images for one in (pipeline, again)]
    assert same(*drawn)


def test_a_sharper_decoder_leaves_a_pack_its_words(reading_weights, tmp_path):
    pack = shutil.copytree(reading_weights / "words", tmp_path / "words")
    vae = loading.load(packs.read(pack), "cpu").vae
    pixels = data.load("shapes", "test", image_size=16, channels=1).pixels[:50]
    export.save_decoder(pack, vae, codec.statistics(vae, pixels), {"minutes": 0.0})
    assert packs.read(pack).problem is None and packs.read_words(packs.read(pack)).unknown("red circle") == []


# --------------------------------------------------------------------------------------------- what cannot be stored


def learned(captions, records, folder) -> Words:
    """Words as a training learns and keeps them, opened again."""
    Words.learn(captions, lexicon.learn(captions, records)).save(folder / "tokenizer")
    return Words.load(folder / "tokenizer")


def test_a_word_too_long_to_be_stored_is_left_out(tmp_path):
    captions = [[f"a {'red' if i % 2 else 'x' * 900} circle"] for i in range(100)]
    records = [{"colour": "red" if i % 2 else "strange"} for i in range(100)]
    words = learned(captions, records, tmp_path)
    assert words.known == {"a", "red", "circle"} and words.lexicon.phrases["colour"]["red"] == ("red",)
    assert words.unknown("x" * 900) and max(map(len, words.tokenizer.get_vocab())) <= 200


@pytest.mark.parametrize("length", [3, 200])
def test_of_more_columns_than_can_be_stored_those_with_the_fewest_values_are_kept(tmp_path, length):
    records = [
        {"colour": ("red", "blue")[i % 2]} | {f"column {k}": f"{i} {k}".ljust(length, "x") for k in range(200)}
        for i in range(100)
    ]
    words = learned([[f"a {one['colour']} circle"] for one in records], records, tmp_path)
    assert words.lexicon.phrases["colour"] == {"red": ("red",), "blue": ("blue",)} and len(words.lexicon.values) > 5


def test_places_by_the_hundred_and_a_column_of_a_long_name_are_no_parts(tmp_path):
    many = [{"parts": [{"place": f"place {i}", "colour": "red"}]} for i in range(300)]
    long = [{"p" * 300: [{"place": "left", "colour": "red"}]} for _ in range(300)]
    for name, records in (("many", many), ("long", long)):
        (tmp_path / name).mkdir()
        assert learned([["a red circle"]] * 300, records, tmp_path / name).lexicon.parts is None


def test_captions_of_more_words_than_can_be_stored_are_refused_in_one_sentence(monkeypatch):
    monkeypatch.setattr("mmdemo.words.MAX_FILE", 400)
    with pytest.raises(DataError, match="different words, too many") as error:
        Words.learn(CAPTIONS, lexicon.learn(CAPTIONS, RECORDS))
    assert is_one_sentence(str(error.value))
