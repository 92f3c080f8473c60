"""What captions say of attributes, learned from them: the shapes' own captions, and small scenes in two languages."""

import itertools
import json
import random

import pytest

from mmdemo import data
from mmdemo.captions import Lexicon, Named
from mmdemo.training.lexicon import learn


@pytest.fixture(scope="module")
def shapes() -> Lexicon:
    images = data.load("shapes", "train", image_size=16)
    return learn(images.captions, images.records)


def said_of(record: dict[str, str], caption: str) -> list[tuple[str, str]]:
    """What the generator can have meant: each value's own word, in English or Chinese, where the caption holds it."""
    words = caption.replace(",", "").split()
    return sorted((k, v) for k, v in record.items() if v in words or data.IN_CHINESE[v] in caption)


@pytest.mark.parametrize("split", ["train", "test", "novel"])
def test_all_that_captions_of_shapes_name_is_found_and_nothing_else(shapes, split):
    images = data.load("shapes", split, image_size=16)
    for record, captions in zip(images.records, images.captions, strict=True):
        for caption in captions:
            found = shapes.named(caption)
            assert sorted((one.attribute, one.value) for one in found) == said_of(record, caption), caption
            assert [one.start for one in found] == sorted(one.start for one in found)
            assert all(one.place is None for one in found)


def test_that_every_blue_ring_is_small_is_not_what_a_blue_ring_says(shapes):
    assert [one[1:3] for one in shapes.named("a blue ring")] == [("colour", "blue"), ("shape", "ring")]
    assert shapes.phrases["size"] == {"small": ("small", "小"), "large": ("large", "大")}


def test_a_lexicon_knows_every_value_and_its_language_best_first(shapes):
    assert {name: set(values) for name, values in shapes.values.items()} == {
        "shape": set(data.SHAPES), "colour": set(data.COLOURS), "size": set(data.SIZES), "ground": set(data.GROUNDS)
    }  # fmt: skip
    assert shapes.phrases["ground"]["navy"] == ("navy", "藏青色背景")
    assert shapes.parts is None and shapes.places == {} and shapes.shared == ()


def test_spans_are_those_of_the_caption_as_it_is_given(shapes):
    caption = "A  LARGE ｒｅｄ circle，on navy"
    spans = [(one.value, caption[one.start : one.end]) for one in shapes.named(caption)]
    assert spans == [("large", "LARGE"), ("red", "ｒｅｄ"), ("circle", "circle"), ("navy", "navy")]
    assert shapes.named("") == shapes.named("  ，!") == shapes.named("a dog that was reddish") == []


def test_a_prompt_names_what_it_was_asked_for(shapes):
    for values in itertools.product(*shapes.values.values()):
        for kept in range(1, 5):
            wanted = dict(list(zip(shapes.values, values, strict=True))[:kept])
            said = shapes.named(shapes.prompt(wanted))
            assert {one.attribute: one.value for one in said} == wanted and len(said) == kept
    assert shapes.prompt({"size": "large", "ground": "navy", "shape": "circle"}) == "large circle, navy ground"
    assert shapes.prompt({"colour": "red", "shape": "circle", "size": "large"}) == "large red circle"
    assert shapes.prompt({}) == ""


@pytest.mark.parametrize(
    ("wanted", "said"),
    [
        ({"weight": "heavy"}, "no attribute 'weight'"),
        ({"size": "huge"}, "never 'huge'"),
        ({"left": {"size": "large"}}, "no place 'left'"),
    ],
)
def test_a_prompt_for_what_is_unknown_is_refused_in_one_sentence(shapes, wanted, said):
    with pytest.raises(ValueError, match=said):
        shapes.prompt(wanted)


# ---------------------------------------------------------------------------------------------------- scenes with parts

COLOURS = {"red": "红", "grey": "灰", "green": "绿"}
MOODS = {"sad": "难过", "glad": "高兴"}


def described(part: dict[str, str], chance: random.Random) -> tuple[str, str]:
    """Some of a part in English tags and all of it in Chinese. Nobody says that there is no hat."""
    english = [part["mood"], f"{part['hair']} hair"] + ([f"{part['hat']} hat"] if part["hat"] != "none" else [])
    chinese = [MOODS[part["mood"]], f"{COLOURS[part['hair']]}发"]
    chinese += [f"{COLOURS[part['hat']]}帽"] if part["hat"] != "none" else []
    chance.shuffle(english)
    chance.shuffle(chinese)
    return ", ".join(english[: chance.randrange(4)]) or "a person", "，".join(chinese)


def scenes(count: int) -> tuple[list[list[str]], list[dict]]:
    """One or two people, told in either order. Who wears a hat has short hair; no green hair is ever sad."""
    chance = random.Random(0)
    captions, records = [], []
    for _ in range(count):
        people = []
        for place in chance.choice((["middle"], ["left", "right"], ["left", "right"])):
            person = {
                "place": place,
                "x": 4,
                "hair": chance.choice([*COLOURS]),
                "hat": chance.choice([*COLOURS, "none", "none"]),
            }
            person["mood"] = "glad" if person["hair"] == "green" else chance.choice([*MOODS])
            person["length"] = "short" if person["hat"] != "none" else chance.choice(["short", "long"])
            people.append(person)
        wall = chance.choice(["white", "blue"])
        english, chinese = [], []
        for person in chance.sample(people, len(people)):
            tags, long = described(person, chance)
            if len(people) == 2:
                tags = chance.choice((f"{person['place']}: {tags}", f"on the {person['place']} {tags}"))
                long = f"{'左边' if person['place'] == 'left' else '右边'}：{long}"
            english.append(tags)
            chinese.append(long)
        captions.append(["; ".join([*english, f"{wall} wall"]), "；".join(chinese)])
        records.append({"wall": wall, "id": str(len(records)), "size": 3, "people": people})
    return captions, records


@pytest.fixture(scope="module")
def people() -> Lexicon:
    return learn(*scenes(3000))


def test_of_scenes_the_parts_the_places_and_what_is_shared_are_learned(people):
    assert people.parts == "people" and people.shared == ("wall",)
    assert people.places == {"left": ("left", "左边"), "right": ("right", "右边"), "middle": ()}
    assert set(people.values) == {"wall", "hair", "hat", "mood", "length"}, "no place, no number, no name of a row"
    assert people.values["hat"][0] == "none" and set(people.phrases["hat"]) == set(COLOURS)
    assert people.phrases["hair"]["red"] == ("red hair", "红发")


def test_what_always_comes_along_is_not_what_a_phrase_says(people):
    assert people.phrases["length"] == {}, "a hat does not say that hair is short"
    assert people.phrases["mood"] == {"glad": ("glad", "高兴"), "sad": ("sad", "难过")}, "nor does green hair say glad"


def test_a_value_is_of_the_part_whose_place_was_said_last(people):
    assert people.named("right: a person; left: red hair, green hat; white wall") == [
        Named("left", "hair", "red", 23, 31),
        Named("left", "hat", "green", 33, 42),
        Named(None, "wall", "white", 44, 49),
    ]
    said = [one[:3] for one in people.named("右边：难过，灰发；左边：红帽")]
    assert said == [("right", "mood", "sad"), ("right", "hair", "grey"), ("left", "hat", "red")]
    assert [one[:3] for one in people.named("red hat, sad")] == [(None, "hat", "red"), (None, "mood", "sad")]


def test_whatever_scenes_name_is_true_of_the_part_it_is_said_of(people):
    captions, records = scenes(3300)
    named = 0
    for told, record in zip(captions[3000:], records[3000:], strict=True):
        where = {part["place"]: part for part in record["people"]} | {
            None: record["people"][0] | {"wall": record["wall"]}
        }
        for one in (one for caption in told for one in people.named(caption)):
            named += 1
            assert where[one.place][one.attribute] == one.value
            assert one.place is not None or one.attribute == "wall" or len(record["people"]) == 1
        chinese = [(one.place, one.attribute) for one in people.named(told[1])]
        assert len(chinese) == sum(2 + (part["hat"] != "none") for part in record["people"])
    assert named > 2000


def test_a_prompt_for_a_scene_is_tagged_as_its_captions_are(people):
    left, right = {"hair": "red", "mood": "sad", "hat": "none", "length": "long"}, {"hat": "green"}
    prompt = people.prompt({"left": left, "right": right, "wall": "blue"})
    assert prompt == "left: red hair, sad; right: green hat; blue wall"
    assert people.prompt({"middle": left, "wall": "blue"}) == "red hair, sad; blue wall"


def test_without_captions_nothing_is_named():
    empty = learn([], [])
    assert empty.named("red") == [] and empty.values == {}
    assert learn([["a cat"]] * 5, [{"kind": "cat"}] * 5).phrases == {"kind": {}}, "what is so of all is said of none"
    with pytest.raises(ValueError, match="one for each"):
        learn([["a cat"]], [])


# -------------------------------------------------------------------------------------------------------------- storing


def test_a_lexicon_is_stored_and_read_again(shapes, people):
    for lexicon in (shapes, people):
        again = Lexicon.from_json(lexicon.to_json())
        assert again == lexicon and again.named("left: red hair") == lexicon.named("left: red hair")


@pytest.mark.parametrize(
    "change",
    [
        {"phrases": []},
        {"phrases": {"hair": ["red"]}},
        {"phrases": {"hair": {"red": "red hair"}}},
        {"phrases": {"hair": {"mauve": ["mauve hair"]}}},
        {"phrases": {"shoes": {"red": ["red shoes"]}}},
        {"phrases": {"hair": {"red": [1]}}},
        {"phrases": {"hair": {"red": [""]}}},
        {"phrases": {"hair": {"red": ["\ud800"]}}},
        {"tags": ["red\nhair"]},
        {"phrases": {"hair": {"red": ["x" * 10_000]}}},
        {"values": {"hair": "red"}},
        {"values": {"hair": ["red", None]}},
        {"values": {"hair": [str(i) for i in range(50_000)]}},
        {"places": ["left"]},
        {"places": {"left": {}}},
        {"tags": {}},
        {"tags": [["red"]]},
        {"shared": ["shoes"]},
        {"shared": None},
        {"parts": 3},
        {"more": 1},
    ],
)
def test_a_strangers_lexicon_is_refused_in_one_sentence(people, change):
    for text in (json.dumps(json.loads(people.to_json()) | change), json.dumps(change)):
        with pytest.raises(ValueError, match="^a lexicon") as error:
            Lexicon.from_json(text)
        assert "\n" not in str(error.value)


@pytest.mark.parametrize("text", ["", "{", "[]", "null", "[" * 100_000, "1" * 10_000, '"' + "x" * 2_000_000 + '"'])
def test_what_is_no_lexicon_is_refused_in_one_sentence(text):
    with pytest.raises(ValueError, match="^a lexicon"):
        Lexicon.from_json(text)
