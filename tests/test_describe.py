"""A picture in words: the search, the verb, its endpoint and its command."""

import json
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
from browsing import launched
from conftest import RECORDS, array, flow_schedule, same, tiny_dit
from gradio_client import Client, handle_file
from PIL import Image
from running import is_one_sentence, one_line

from mmdemo import data, describing, loading, packs
from mmdemo.__main__ import main
from mmdemo.captions import Lexicon
from mmdemo.errors import MmdemoError, PackError
from mmdemo.images import to_images
from mmdemo.results import Description, Run
from mmdemo.studio import Studio
from mmdemo.training import export
from mmdemo.training.lexicon import learn
from mmdemo.words import Words


@pytest.fixture(scope="module")
def reader(reading_weights: Path) -> Studio:
    return Studio([reading_weights], device="cpu")


@pytest.fixture(scope="module")
def told(reader: Studio, drawing: Path) -> Description:
    return reader.describe("words", drawing).result()


@pytest.fixture(scope="module")
def pack(reader: Studio) -> packs.Pack:
    return reader.pack("words")


@pytest.fixture(scope="module")
def pipeline(pack: packs.Pack):
    return loading.load(pack, "cpu")


def shapes(count: int) -> list[Image.Image]:
    return to_images(data.load("shapes", "test", image_size=16, channels=1).pixels[:count])


def test_every_attribute_has_a_value_and_the_shares_of_all_its_values_sum_to_one(told, pack):
    lexicon = packs.read_words(pack).lexicon
    assert set(told.attributes) == set(RECORDS[0])
    for name, by_value in told.attributes.items():
        assert set(by_value) == set(lexicon.values[name])
        assert sum(by_value.values()) == pytest.approx(1)
        assert all(0 <= share <= 1 for share in by_value.values())
    assert told.text == lexicon.prompt(told.best)


def test_the_same_picture_has_the_same_description_and_another_one_another(reader, told, drawing):
    again = reader.describe("words", drawing).result()
    assert again.json() | {"seconds": 0} == told.json() | {"seconds": 0}
    assert same(again.pictures, told.pictures)
    others = [reader.describe("words", one).attributes for one in shapes(3)]
    assert len({json.dumps(one) for one in (told.attributes, *others)}) == 4


def test_the_words_found_explain_the_picture_best_of_all_that_could_be_said(pipeline, pack):
    """Held against every other caption there is, under the same noises."""
    lexicon = packs.read_words(pack).lexicon
    for picture in shapes(4):
        evidence = describing.Evidence(pipeline, describing.latents_of(pipeline, picture), describing.NOISES)
        found, _ = Run(describing.search(evidence, lexicon)).result()
        captions = [
            describing.wording(lexicon, {(None, "colour"): colour, (None, "shape"): shape})
            for colour in lexicon.values["colour"]
            for shape in lexicon.values["shape"]
        ]
        lost = evidence.lost(captions, describing.NOISES.many).sum((2, 3)).mean(1)
        assert describing.wording(lexicon, found) == captions[int(lost.argmin())]


def test_evidence_is_the_same_whatever_was_asked_before(pipeline):
    x0 = describing.latents_of(pipeline, shapes(1)[0])
    one, other = (describing.Evidence(pipeline, x0, describing.NOISES) for _ in range(2))
    one.lost(["a red circle"], 2)
    some = one.lost(["a blue square", "a red circle"], 8)
    whole = other.lost(["a red circle", "a blue square"], 8)
    assert some.shape == (2, 8, *x0.shape[2:])
    assert some.flip(0).allclose(whole, rtol=1e-3)
    assert not whole[0].allclose(whole[1], rtol=1e-3)


def test_a_map_is_as_large_as_the_picture_and_warm_where_the_word_tells(told):
    assert told.words and all(word in told.text for word in told.words)
    for picture in told.pictures:
        assert picture.size == (16, 16) and picture.mode == "RGB"
        assert (array(picture).max(2) - array(picture).min(2)).max() > 50  # colour, on what is otherwise grey


def test_it_can_be_watched(reader, drawing):
    run = reader.describe("words", drawing)
    seen = [(one.index, one.total) for one in run]
    assert seen == [(0, 4), (1, 4), (2, 4), (3, 4)] and run.text


def test_a_picture_that_the_codec_gives_back_far_worse_than_usual_is_said_to_be_unlike_the_packs_own(
    reading_weights, drawing, told, tmp_path
):
    assert "notice" not in told.json()  # the pack was not measured
    shutil.copytree(reading_weights / "words", tmp_path / "words")
    studio = Studio([tmp_path], device="cpu")
    psnr = studio.reconstruct("words", drawing).psnr
    (tmp_path / "words" / "metrics.json").write_text("{}")
    assert "notice" not in studio.describe("words", drawing).result().json()  # nor was it this time
    for usual, doubted in ((psnr + describing.UNLIKE - 0.1, False), (psnr + describing.UNLIKE + 0.1, True)):
        (tmp_path / "words" / "metrics.json").write_text(json.dumps({"psnr": usual}))
        record = studio.describe("words", drawing).result().json()
        assert ("notice" in record) == doubted
    assert f"{psnr:.1f} dB" in record["notice"] and is_one_sentence(record["notice"])


def test_accuracy_is_the_share_of_pictures_read_right(pipeline, pack):
    pictures = data.load("shapes", "test", image_size=16, channels=1).pixels[:3]
    found = [Run(describing.describe(pipeline, pack, one)).best for one in to_images(pictures)]
    wrong = [one | {"colour": "none of them"} for one in found]
    lines = []
    assert describing.accuracy(pipeline, pack, pictures, found, lines.append) == {"colour": 1, "shape": 1}
    assert describing.accuracy(pipeline, pack, pictures, wrong) == {"colour": 0, "shape": 1}
    assert len(lines) == 3


# ------------------------------------------------------------------------------------------------------------- scenes

COLOURS = ("red", "blue", "green", "grey")


@pytest.fixture(scope="module")
def scenes(reading_weights: Path, tmp_path_factory) -> Studio:
    """A pack of scenes: one shape, or one on the left and one on the right, each with a colour, and some with a dot."""
    captions, records = [], []
    for i in range(400):
        ground, dots = ("white", "black")[i % 2], [i // 3 % 2, i // 5 % 2]
        drawn = [COLOURS[i // 7 % 4], COLOURS[i % 4 ^ i // 11 % 4]]
        places = ["middle"] if i % 3 == 0 else ["left", "right"]
        tags = [", ".join([f"{colour} shape", *["dot"] * dot]) for colour, dot in zip(drawn, dots, strict=True)]
        said = tags[:1] if len(places) == 1 else [f"{place}: {one}" for place, one in zip(places, tags, strict=True)]
        captions.append(["; ".join([*said, f"{ground} ground"])])
        parts = [
            {"place": place, "colour": colour, "dot": ("none", "dot")[dot]}
            for place, colour, dot in zip(places, drawn, dots, strict=False)
        ]
        records.append({"ground": ground, "shapes": parts})
    folder = tmp_path_factory.mktemp("scenes")
    shutil.copytree(reading_weights / "tiny-codec", folder / "scenes")
    words = Words.learn(captions, learn(captions, records))
    transformer = tiny_dit(num_classes=0, vocab_size=words.size)
    export.save_transformer(folder / "scenes", transformer, flow_schedule(), {"minutes": 0.0}, words, captions[0])
    return Studio([folder], device="cpu")


def test_of_a_scene_every_part_is_described_at_its_place(scenes):
    lexicon = packs.read_words(scenes.pack("scenes")).lexicon
    assert lexicon.parts == "shapes" and set(lexicon.values) == {"ground", "colour", "dot"}
    for picture in shapes(2):
        told = scenes.describe("scenes", picture).result()
        places = {name.split()[0] for name in told.attributes} - {"ground"}
        assert places in ({"middle"}, {"left", "right"})
        assert set(told.attributes) == {"ground", *(f"{place} {one}" for place in places for one in ("colour", "dot"))}
        assert all(sum(by_value.values()) == pytest.approx(1) for by_value in told.attributes.values())
        assert all(place in told.text for place in places - {"middle"})


def test_accuracy_in_scenes_counts_a_part_that_was_not_found_as_wrong(scenes):
    pack = scenes.pack("scenes")
    pipeline = loading.load(pack, "cpu")
    pictures = data.load("shapes", "test", image_size=16, channels=1).pixels[:1]
    best = Run(describing.describe(pipeline, pack, to_images(pictures)[0])).best
    places = list(dict.fromkeys(name.split()[0] for name in best if name != "ground"))
    parts = [{"place": one, "colour": best[f"{one} colour"], "dot": best[f"{one} dot"]} for one in places]
    absent = {"place": "nowhere", "colour": "red", "dot": "none"}
    record = {"ground": best["ground"], "shapes": [*parts, absent]}
    share = len(places) / (len(places) + 1)
    assert describing.accuracy(pipeline, pack, pictures, [record]) == {"ground": 1, "colour": share, "dot": share}


@pytest.mark.parametrize("parts", [None, "left", [{"colour": "red"}], ["left"], [{"place": ["left"]}], 3])
def test_accuracy_leaves_out_a_picture_whose_record_does_not_place_its_parts(scenes, parts):
    pack = scenes.pack("scenes")
    pictures = data.load("shapes", "test", image_size=16, channels=1).pixels[:1]
    record = {"ground": "white", "shapes": parts}
    assert describing.accuracy(loading.load(pack, "cpu"), pack, pictures, [record]) == {}


def test_a_column_named_like_a_place_is_kept_apart_from_the_part_there():
    values = {"colour": ("red",), "left": ("rainy",)}
    lexicon = Lexicon({"colour": {"red": ("red",)}, "left": {"rainy": ("rain",)}}, {"left": ("left",)}, values)
    assert describing.wording(lexicon, {("left", "colour"): "red", (None, "left"): "rainy"}) == "left: red; rain"


def with_lexicon(scenes: Studio, folder: Path, **changes) -> packs.Pack:
    shutil.copytree(scenes.pack("scenes").path, folder / "scenes")
    words = packs.read_words(scenes.pack("scenes"))
    replace(words, lexicon=replace(words.lexicon, **changes)).save(folder / "scenes" / "tokenizer")
    return packs.read(folder / "scenes")


def test_where_parts_have_nothing_that_is_named_the_whole_is_described(scenes, tmp_path):
    lexicon = packs.read_words(scenes.pack("scenes")).lexicon
    ground = {
        name: {"ground": some["ground"]} for name, some in (("phrases", lexicon.phrases), ("values", lexicon.values))
    }
    pack = with_lexicon(scenes, tmp_path, tags=(), **ground)
    assert set(Run(describing.describe(loading.load(pack, "cpu"), pack, shapes(1)[0])).attributes) == {"ground"}


def test_a_pack_whose_captions_name_nothing_says_so_and_is_not_measured(scenes, tmp_path):
    pack = with_lexicon(scenes, tmp_path, tags=(), phrases={"ground": {}}, values={"ground": ("white", "black")})
    pipeline = loading.load(pack, "cpu")
    with pytest.raises(PackError, match="'scenes' cannot describe: ") as error:
        Run(describing.describe(pipeline, pack, shapes(1)[0])).result()
    assert is_one_sentence(str(error.value))
    pictures = data.load("shapes", "test", image_size=16, channels=1).pixels[:1]
    assert describing.accuracy(pipeline, pack, pictures, [{"ground": "white"}]) == {}


# ---------------------------------------------------------------------------------------------- what cannot be done


@pytest.mark.parametrize("name", ["tiny", "tiny-codec"])
def test_a_pack_without_words_says_so(reader, drawing, name):
    with pytest.raises(PackError) as error:
        reader.describe(name, drawing)
    assert str(error.value).startswith(f"'{name}' reads no words, so it cannot describe; ")
    assert is_one_sentence(str(error.value))


def test_a_bad_argument_is_told_in_one_sentence_before_the_work(reader, drawing):
    for arguments in (("nope", drawing), ("words", "nope.png"), ("words", drawing, "perhaps"), ("words", None)):
        with pytest.raises(MmdemoError) as error:
            reader.describe(*arguments)
        assert is_one_sentence(str(error.value))


# ------------------------------------------------------------------------------------------- the command, the endpoint


@pytest.fixture
def command(reading_weights, capsys):
    def describe(*arguments) -> tuple[int, str, str]:
        code = main(["describe", "--pack", "words", *map(str, arguments), "--weights", str(reading_weights)])
        return code, *capsys.readouterr()

    return describe


def timeless(record: dict) -> dict:
    return record | {"seconds": 0}


def test_the_command_prints_a_line_an_image(command, told, drawing, tmp_path):
    shapes(1)[0].save(tmp_path / "other.png")
    code, out, error = command(drawing, tmp_path / "other.png")
    assert code == 0 and error == ""
    lines = out.splitlines()
    assert lines[0] == f"triangle.png: {told.text}" and lines[1].startswith("other.png: ") and len(lines) == 2


def test_the_command_prints_json_of_one_image_or_a_list_of_several(command, told, drawing, tmp_path):
    code, out, error = command(drawing, "--json")
    assert (code, error) == (0, "") and timeless(json.loads(out)) == timeless(told.json())
    shapes(1)[0].save(tmp_path / "other.png")
    code, out, error = command(drawing, tmp_path / "other.png", "--json")
    several = json.loads(out)
    assert (code, error, len(several)) == (0, "", 2) and timeless(several[0]) == timeless(told.json())


def test_the_command_refuses_before_it_describes_anything(command, drawing):
    code, out, error = command(drawing, "nope.png")
    assert code == 1 and out == "" and "nope.png" in one_line(error)


def test_the_endpoint_answers_with_the_numbers_and_a_map_for_every_word(reader, told, drawing):
    with launched(reader) as url:
        numbers, maps = Client(url, verbose=False).predict("words", handle_file(drawing), api_name="/describe")
    assert timeless(numbers) == timeless(told.json())
    assert [one["caption"] for one in maps] == told.words and same(maps, told.pictures)
