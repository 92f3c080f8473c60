"""What a pack can read: words, whether they were seen, and the ids that the transformer takes for them."""

import json

import pytest
from conftest import CAPTIONS, RECORDS

from mmdemo.errors import PackError
from mmdemo.words import PAD_ID, START_ID, Words


@pytest.fixture(scope="module")
def words() -> Words:
    return Words.learn(CAPTIONS * 40, RECORDS * 40)


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
    prompt = "a red astronaut circle with a zebra, astronaut 女"
    assert words.unknown(prompt) == ["astronaut", "with", "zebra", "女"]
    assert words.encode(prompt) == words.encode("a red circle a")
    notice = words.notice([prompt])
    assert notice.startswith("“astronaut”, “with”, “zebra”, “女” are not") and notice.count(".") == 0
    assert "colour" in notice and "triangle" in notice
    assert words.notice(["a red circle", ""]) == ""


@pytest.mark.parametrize("prompt", ["", "   ", "\x00\x1b[31m", "مرحبا بالعالم", "\u202egnp.exe", "🙂🙃", "red" * 300])
def test_any_text_can_be_read(words, prompt):
    assert words.encode(prompt)[0] == START_ID
    assert all(isinstance(word, str) for word in words.unknown(prompt))


def test_a_word_left_out_leaves_the_others(words):
    assert words.encode("a red circle", without=1) == words.encode("a circle")


def test_what_is_saved_reads_the_same(words, tmp_path):
    words.save(tmp_path / "tokenizer")
    again = Words.load(tmp_path / "tokenizer")
    for prompt in ("a red circle", "红色 zebra", ""):
        assert again.words(prompt) == words.words(prompt)
    assert again.lexicon == words.lexicon


@pytest.mark.parametrize("file", ["tokenizer.json", "words.json"])
@pytest.mark.parametrize("content", [None, b"", b"{}", b"[1]", b"\xff\xfe", b'{"words": 3, "lexicon": []}', b"{" * 9])
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
