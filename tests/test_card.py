"""The model card: what it says of the numbers, and that what it shows is there."""

import json
import re
import shutil
from pathlib import Path

import pytest
import yaml
from PIL import Image

from mmdemo import card, packs
from mmdemo.datasets import NAMED

CODEC = {
    "dataset": "shapes", "test_images": 1000, "psnr": 27.123, "psnr_pooled": 26.5, "ssim": 0.91234, "detail": 0.876,
    "bits_per_pixel": 0.5432, "codes": 16, "codes_used": 15, "perplexity": 12.0, "minutes": 1.5,
}  # fmt: skip
JPEG = {
    "jpeg_quality": 11, "jpeg_subsampling": "4:2:0", "jpeg_bits_per_pixel": 0.5511, "jpeg_psnr": 24.321,
    "jpeg_ssim": 0.8123, "jpeg_file_quality": 1, "jpeg_file_subsampling": "4:4:4", "jpeg_file_bits_per_pixel": 2.3456,
    "jpeg_file_psnr": 19.876, "jpeg_file_ssim": 0.5432,
}  # fmt: skip
JUDGED = {
    "accuracy_test": 0.99, "accuracy_reconstructed": 0.98, "frechet_train_test": 2.0,
    "frechet_reconstructed_test": 3.0, "features": 128,
}  # fmt: skip
GENERATED = {
    "num_inference_steps": 20, "guidance_scale": 1.5, "sampler": "euler", "generated": 100, "accuracy_generated": 0.9,
    "accuracy_generated_of": 100, "frechet_generated_test": 8.0, "frechet_ratio": 4.0,
}  # fmt: skip
CLASSIFIED = {
    "classified_right": 0.912, "classified_right_of": 10, "classified_seconds": 0.123, "accuracy_tokens": 0.678,
    "classified_minutes": 0.5,
}  # fmt: skip
READ = {
    "read_test": {"hair": 0.999, "hat": 0.998}, "read_reconstructed": {"hair": 0.997, "hat": 0.996},
    "frechet_train_test": 2.0, "frechet_reconstructed_test": 3.0, "features": 512,
}  # fmt: skip
DRAWN = {
    "num_inference_steps": 8, "guidance_scale": 1.5, "sampler": "dpm++", "generated": 2000,
    "captions": ["a hat & <b>hair</b>", "红帽子\n# no"], "frechet_generated_test": 8.0, "frechet_ratio": 4.0,
    "named_right_test": 0.9876, "named_right_test_of": 700, "named_right_test_by_attribute": {"hat": 0.987},
    "named_right_test_by_script": {"latin": 0.986, "han": 0.985}, "swaps_test": 0.0123, "swaps_test_of": 80,
    "named_right_novel": 0.9765, "named_right_novel_of": 300, "named_right_novel_by_attribute": {"hair": 0.976},
    "named_right_novel_by_script": {"latin": 0.975}, "variety": 0.91, "variety_of": 77, "copies": 0.051,
}  # fmt: skip


@pytest.fixture
def pack(tmp_path, tiny_weights) -> Path:
    """A codec whose training.json is whole."""
    folder = shutil.copytree(tiny_weights / "tiny-codec", tmp_path / "tiny-codec")
    training = {"dataset": "shapes", "steps": 10, "batch_size": 8, "minutes": 0.1, "machine": "2 CPU cores"}
    (folder / "training.json").write_text(json.dumps({"vqvae": training, "dit": training}))
    return folder


def written(pack: Path, numbers: dict, *pictures: str) -> str:
    card.write(pack, numbers, {file: Image.new("RGB", (20, 10), "red") for file in pictures})
    return (pack / "README.md").read_text(encoding="utf-8")


def test_every_picture_on_the_card_is_in_the_pack_and_the_other_way_round(pack):
    for pictures in ((), ("comparison.png",), ("comparison.png", "samples.png")):
        text = written(pack, CODEC | JPEG, *pictures)
        assert re.findall(r"!\[[^]]+\]\(([^)]+)\)", text) == [*pictures, "codebook/swatches.png"]
        assert (pack / "codebook" / "swatches.png").is_file()
        for file in pictures:
            with Image.open(pack / file) as picture:
                assert picture.format == "PNG" and picture.size == (20, 10)


def test_a_colour_packs_card_sets_its_tokens_beside_jpeg(pack):
    text = written(pack, CODEC | JPEG, "comparison.png")
    rows = {line.split("|")[1].strip(): line for line in text.splitlines() if line.count("|") == 5}
    tokens, scan, file = (next(rows[name] for name in rows if word in name) for word in ("tokens", "scan", "file"))
    assert all(said in tokens for said in ("0.543", "27.12 dB", "0.9123"))
    assert all(said in scan for said in ("0.551", "24.32 dB", "0.8123", "quality 11", "4:2:0"))
    assert all(said in file for said in ("2.346", "19.88 dB", "0.5432", "quality 1,", "4:4:4"))


def test_a_grey_packs_card_has_bits_and_detail_and_no_jpeg(pack):
    text = written(pack, CODEC, "comparison.png")
    assert "| 0.543 |" in text and "| 0.876 |" in text and "JPEG" not in text


def test_a_packs_own_reading_of_classes_stands_beside_the_classifiers_and_what_tokens_give_away(pack):
    assert "### Classes" not in written(pack, CODEC | JUDGED | GENERATED)
    text = written(pack, CODEC | JUDGED | GENERATED | CLASSIFIED)
    for said in ("(`classify`), of 10, 0.12 s each | 91.20% |", "read pictures | 99.00% |", "where | 67.80% |"):
        assert said in text, said
    assert "evaluate --pack tiny-codec --classify 10`, in 0.5 minutes" in text


def test_masks_found_by_words_stand_beside_those_found_by_colour(pack):
    found = {"hat": {"of": 41, "evidence": 0.834, "named": 0.555, "learned": 0.66},
             "glasses": {"of": 9, "evidence": 0.4, "learned": 0.93}}  # fmt: skip
    text = written(pack, CODEC | READ | DRAWN | {"segments": found})
    assert "| hat, 41 | 0.83 | 0.56 | 0.66 |" in text and "| glasses, 9 | 0.40 |  | 0.93 |" in text
    assert "--segments DIR" in text and "\n\n\n" not in text
    assert "Masks" not in written(pack, CODEC | READ | DRAWN)


def test_a_card_explains_only_what_was_measured(pack):
    assert not re.search("classifier|Fréchet", written(pack, CODEC | JPEG))
    judged = written(pack, CODEC | JUDGED)
    assert "classifier" in judged and "128 numbers" in judged and "ratio" not in judged
    assert "Fréchet ratio is" in written(pack, CODEC | JUDGED | GENERATED)
    drawn = written(pack, CODEC | READ | DRAWN)
    assert "It can be under 1" in drawn and "split `novel`" in drawn and "cannot be compared" in drawn
    old = {name: value for name, value in DRAWN.items() if "novel" not in name}
    assert "novel" not in written(pack, CODEC | READ | old)


def test_a_card_begins_as_the_hub_wants_it_and_ends_with_a_persons_notes(pack):
    (pack / "notes.md").write_text("## Mine\n", encoding="utf-8")
    classes = CODEC | JUDGED | GENERATED
    for numbers in (
        CODEC,
        CODEC | JPEG,
        classes,
        classes | CLASSIFIED,
        classes | CLASSIFIED | JPEG,
        CODEC | JPEG | READ | DRAWN,
    ):
        text = written(pack, numbers, "comparison.png", "samples.png")
        empty, front, body = text.split("---\n", 2)
        assert not empty and yaml.safe_load(front)["library_name"] == "diffusers"
        assert body.startswith("# tiny-codec\n") and body.endswith("\n\n## Mine\n")
        assert "\n\n\n" not in body.split("## Measured")[1], "an empty line too many"
        assert json.loads((pack / "metrics.json").read_text()) == numbers


CARDS = {
    "codec": ("tiny-codec", CODEC | JPEG, "image-feature-extraction", {"psnr": 27.123, "ssim": 0.9123}),
    "classes": ("tiny", CODEC | JUDGED | GENERATED, "unconditional-image-generation",
                {"psnr": 27.123, "ssim": 0.9123, "accuracy": 0.9, "frechet_ratio": 4.0}),
    "words": ("words", CODEC | JPEG | READ | DRAWN, "text-to-image",
              {"psnr": 27.123, "ssim": 0.9123, "accuracy": 0.9876, "frechet_ratio": 4.0}),
}  # fmt: skip


@pytest.mark.parametrize(("name", "numbers", "task", "measured"), CARDS.values(), ids=CARDS)
@pytest.mark.parametrize(("dataset", "on_hub"), [("mnist", ["ylecun/mnist"]), ("shapes", None), ("pets: mine/", None)])
def test_the_hubs_own_reader_finds_the_task_the_data_and_the_numbers(
    tmp_path, reading_weights, name, numbers, task, measured, dataset, on_hub
):
    from huggingface_hub import ModelCard

    pack = shutil.copytree(reading_weights / name, tmp_path / "yes")  # which YAML takes for something else
    training = {"dataset": dataset, "steps": 10, "batch_size": 8, "minutes": 0.1, "machine": "2 CPU cores"}
    (pack / "training.json").write_text(json.dumps({"vqvae": training}))
    written(pack, numbers, "samples.png")
    read = ModelCard.load(pack / "README.md")
    data = read.data
    front = data.to_dict()
    assert [front[key] for key in ("library_name", "license", "pipeline_tag")] == ["diffusers", "apache-2.0", task]
    assert data.datasets == on_hub and data.model_name == "yes" and {"vq-vae", "mmdemo"} <= set(data.tags)
    assert {one.metric_type: one.metric_value for one in data.eval_results} == measured
    assert {one.task_type for one in data.eval_results} == {task}
    assert {one.dataset_name for one in data.eval_results} == {dataset.rstrip("/")}
    assert read.text.startswith("# yes\n")


def test_a_table_stands_apart_from_the_text_around_it(pack):
    """Without an empty line or a heading before it, Markdown shows it as text."""
    lines = written(pack, CODEC | JPEG | JUDGED | GENERATED, "comparison.png", "samples.png").splitlines()
    starts = [i for i, line in enumerate(lines) if line.startswith("|") and not lines[i - 1].startswith("|")]
    assert len(starts) == 2
    assert all(lines[i - 1] == "" or lines[i - 1].startswith("#") for i in starts)


def test_the_card_of_a_grid_names_its_levels_and_the_command_that_makes_it(pack):
    training = json.loads((pack / "training.json").read_text())
    training["vqvae"] |= {"quantizer": "fsq", "levels": [8, 5, 5, 5], "num_codes": 1000, "latent_channels": 4}
    (pack / "training.json").write_text(json.dumps(training))
    text = written(pack, CODEC)
    assert "rounded to 8 · 5 · 5 · 5 levels" in text
    (command,) = re.findall("^python -m mmdemo train vqvae .*$", text, re.MULTILINE)
    assert command.endswith("--quantizer fsq --levels 8 5 5 5 --steps 10 --batch-size 8")


@pytest.mark.parametrize("name", NAMED)
def test_the_card_says_under_what_licence_a_named_data_set_is(pack, name):
    training = json.loads((pack / "training.json").read_text())
    training["vqvae"]["dataset"] = name
    (pack / "training.json").write_text(json.dumps(training))
    assert f"{NAMED[name].licence}. The weights" in written(pack, CODEC)


def test_the_card_says_what_a_folder_of_pictures_held(pack, reading_weights):
    """As many pictures as had their codes counted, and captions where the pack reads."""
    reading = shutil.copytree(reading_weights / "words", pack.parent / "words")
    training = (pack / "training.json").read_text().replace('"shapes"', '"mine/"')
    for folder in (pack, reading):
        (folder / "training.json").write_text(training)
        book = json.loads((folder / "codebook" / "codebook.json").read_text())
        places = (packs.read(folder).image_size // packs.read(folder).stride) ** 2
        book["counts"] = [7 * places] + [0] * (len(book["counts"]) - 1)
        (folder / "codebook" / "codebook.json").write_text(json.dumps(book))
    assert "\n`mine`, a folder of pictures, 7 of them to train on. The weights" in written(pack, CODEC)
    assert "\n`mine`, a folder of pictures with captions, 7 of them to train on. The weights" in written(reading, CODEC)


def test_a_card_has_every_training_that_went_on_from_the_packs_own_weights(pack):
    training = json.loads((pack / "training.json").read_text())
    first = training["dit"] | {"start_from": "other", "steps": 30, "minutes": 3.5}
    training["dit"] |= {"start_from": "tiny-codec", "earlier": [first]}
    (pack / "training.json").write_text(json.dumps(training))
    text = written(pack, CODEC)
    assert re.findall("^python -m mmdemo train dit --pack tiny-codec (.*)$", text, re.MULTILINE) == [
        "--start-from other --steps 30 --batch-size 8", "--start-from tiny-codec --steps 10 --batch-size 8 --overwrite"
    ]  # fmt: skip
    assert text.index("30 steps of 8 in 3.5 minutes") < text.index("--start-from tiny-codec")


def test_a_card_of_captioned_pictures_has_a_row_for_each_attribute_and_script(pack):
    text = written(pack, CODEC | READ | DRAWN, "comparison.png", "samples.png")
    rows = {line.split("|")[1].strip(): line for line in text.splitlines() if line.startswith("|")}
    assert "| 99.80% | 99.60% | 98.70% |  |" in rows["hat"] and "| 99.90% | 99.70% |  | 97.60% |" in rows["hair"]
    assert (
        "|  |  | 98.60% | 97.50% |" in rows["captions in Latin script"] and "98.50%" in rows["captions in Han script"]
    )
    for of, share in (("700 values", "98.76%"), ("300 values", "97.65%"), ("80 that differ", "1.23%"), ("77", "0.91")):
        assert any(of in name and share in row for name, row in rows.items())
    assert "5.1%" in rows["copies"] and "512 features" in text and "classifier" not in text
    assert "\n1. a hat &amp; &lt;b&gt;hair&lt;/b&gt;\n2. 红帽子 # no\n" in text and "a row for each caption" in text


def test_a_card_explains_only_what_was_measured_of_captioned_pictures(pack):
    text = written(pack, CODEC | READ)
    assert "small reader" in text and not re.search("As asked|Swapped|Variety|Copies|ratio", text)
    assert "Swapped" not in written(pack, CODEC | READ | {k: v for k, v in DRAWN.items() if "swaps" not in k})
