"""Pictures to train on: what the command and the studio make of them, and that a training reads it."""

import io
import json
import re
import shlex
import shutil
import signal
import subprocess
import sys
import time
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import TINY_CLASSES, alike, array, same
from PIL import Image
from running import ROOT, one_line, quietly

from mmdemo import arguments, data, imagefolder, images, synthesis
from mmdemo.__main__ import main
from mmdemo.arguments import MAX_SEED
from mmdemo.augmentation import augmented
from mmdemo.errors import ArgumentError, MmdemoError
from mmdemo.images import to_images
from mmdemo.reader import Attributes
from mmdemo.studio import Studio
from mmdemo.training import export

HOW = ["--pack", "tiny", "--seed", 5, "--steps", 3, "--guidance", 1.5, "--sampler", "euler"]


def files(folder: Path) -> dict[str, bytes]:
    return {str(file.relative_to(folder)): file.read_bytes() for file in folder.rglob("*") if file.is_file()}


def listed(folder: Path) -> list[dict]:
    return [json.loads(line) for line in (folder / "metadata.jsonl").read_text(encoding="utf-8").splitlines()]


@pytest.fixture(scope="module")
def made(tiny_weights, tmp_path_factory) -> Path:
    out = tmp_path_factory.mktemp("made") / "new" / "set"
    assert quietly("synthesize", *HOW, "--count", 7, "--augment", "--out", out, "--weights", tiny_weights) == 0
    return out


def test_the_command_writes_the_pixels_of_sample_by_class_and_a_row_for_each(made, studio):
    labels = [TINY_CLASSES[i % 3] for i in range(7)]
    names = [f"train/{label}/{label}-{5 + i}" for i, label in enumerate(labels)]
    every = [f"{name}{variant}.png" for name in names for variant in ("", "-augmented")]
    assert sorted(files(made)) == sorted([*every, "metadata.jsonl", "synthesis.json"])
    for name, image in zip(names, studio.sample("tiny", "all", 7, 5, 3, 1.5, "euler").images, strict=True):
        assert alike(Image.open(made / f"{name}.png"), image) and not same(made / f"{name}-augmented.png", image)
    rows = listed(made)
    assert [row["file_name"] for row in rows] == every
    assert [(row["label"], row["seed"]) for row in rows[::2]] == list(zip(labels, range(5, 12), strict=True))
    settings = {"pack": "tiny", "steps": 3, "guidance": 1.5, "sampler": "euler", "interval": [0, 1], "negative": None}
    assert [row["settings"] for row in rows[:2]] == [settings | {"augmented": one} for one in (False, True)]


def test_a_training_reads_the_folder(made, tmp_path):
    images = data.load(str(made), "train", image_size=16, channels=1)
    assert images.classes == tuple(sorted(TINY_CLASSES)) and len(images) == 13 and images.captions == ()  # 1 held out
    options = "--image-size 16 --channels 8 --num-codes 8 --steps 2 --batch-size 4 --warmup 1".split()
    where = ["--weights", tmp_path / "weights", "--runs", tmp_path / "runs"]
    assert quietly("train", "vqvae", "--pack", "own", "--dataset", made, *options, *where) == 0


def test_of_a_pack_that_reads_the_labels_are_captions_and_settings_are_no_attributes(reading_weights, tmp_path):
    texts = ["a red circle", "红色 圆/../x"]
    how = ["--pack", "words", "--label", *texts, "--count", 12, "--steps", 1, "--weights", reading_weights]
    assert quietly("synthesize", *how, "--out", tmp_path) == 0
    images = data.load(str(tmp_path), "train", image_size=16)
    assert [one for (one,) in images.captions] == [texts[i % 2] for i in range(12) if i % 10 != 9]
    assert Attributes.of(images.records, 16).own == {} and images.records[0]["settings"]["pack"] == "words"


@pytest.mark.parametrize("seed", [["--seed", "5"], []], ids=["a seed", "none"])
def test_stopped_and_begun_again_it_is_what_it_would_have_been(tiny_weights, tmp_path, monkeypatch, seed):
    monkeypatch.setattr(synthesis, "TOGETHER", 2)
    studio, where = Studio([tiny_weights], device="cpu"), ["--weights", tiny_weights, "--steps", "2", "--augment"]
    going = synthesis.write(
        studio, tmp_path / "a", "tiny", 7, augment=True, seed=int(seed[1]) if seed else None, steps=2
    )
    assert [next(going).step for _ in range(3)] == [0, 2, 4]
    going.close()
    assert len(listed(tmp_path / "a")) == 8
    (tmp_path / "a" / ".partial-1").write_bytes(b"of one that was killed")
    max((tmp_path / "a").rglob("*.png"), key=lambda file: file.stat().st_mtime_ns).write_bytes(b"")  # by a power cut
    assert quietly("synthesize", "--pack", "tiny", "--count", 7, "--out", tmp_path / "a", *where, *seed) == 0
    first = listed(tmp_path / "a")[0]["seed"]
    assert quietly("synthesize", "--pack", "tiny", "--count", 7, "--out", tmp_path / "b", *where, "--seed", first) == 0
    assert files(tmp_path / "a") == files(tmp_path / "b")
    before = files(tmp_path / "a")
    assert quietly("synthesize", "--pack", "tiny", "--count", 7, "--out", tmp_path / "a", *where) == 0
    assert files(tmp_path / "a") == before
    assert quietly("synthesize", "--pack", "tiny", "--count", 9, "--out", tmp_path / "a", *where) == 0
    assert len(listed(tmp_path / "a")) == 18 and before.items() - files(tmp_path / "a").items() == {
        ("metadata.jsonl", before["metadata.jsonl"])
    }


def test_large_pictures_are_drawn_in_smaller_parts_and_fewer_are_allowed_in_a_request(
    tiny_weights, tmp_path, monkeypatch
):
    monkeypatch.setattr(arguments, "MAX_SET_PIXELS", 3 * 16 * 16)
    studio = Studio([tiny_weights], device="cpu")
    with pytest.raises(MmdemoError, match="count is 4; it must be a whole number from 1 to 3$"):
        studio.synthesize("tiny", 4)
    assert [one.step for one in synthesis.write(studio, tmp_path, "tiny", 7, steps=1)] == [0, 3, 6, 7]


def test_killed_midway_it_leaves_nothing_half_written_and_goes_on(tiny_weights, tmp_path):
    out = tmp_path / "set"
    arguments = ["synthesize", *HOW, "--count", 3000, "--out", out, "--weights", tiny_weights]
    command = [sys.executable, "-m", "mmdemo", *map(str, arguments)]
    started = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    while len(list(out.glob("train/*/*.png"))) < 60:
        assert started.poll() is None, started.stderr.read()
        time.sleep(0.01)
    started.send_signal(signal.SIGKILL)
    started.communicate()
    there = sorted(out.glob("train/*/*"))
    assert 60 <= len(there) < 3000
    for file in there:
        assert file.suffix == ".png" and Image.open(file).getextrema()
    assert all((out / row["file_name"]).is_file() for row in listed(out))
    before = {file: file.stat().st_mtime_ns for file in there[:-1]}
    going = synthesis.write(
        Studio([tiny_weights], device="cpu"), out, "tiny", 3000, seed=5, steps=3, guidance=1.5, sampler="euler"
    )
    assert next(going).step == len(there) and next(going).step == len(there) + 50
    going.close()
    assert all(file.stat().st_mtime_ns == written for file, written in before.items()) and len(listed(out)) > len(there)


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_signal_ends_it_after_the_part_under_way_and_the_command_that_is_printed_goes_on(
    tiny_weights, tmp_path, monkeypatch, capsys, number, code
):
    asked, png = [number], images.png

    def png_when_asked(image: Image.Image) -> bytes:
        if asked:
            signal.raise_signal(asked.pop())
        return png(image)

    monkeypatch.setattr(synthesis, "TOGETHER", 2)
    monkeypatch.setattr(images, "png", png_when_asked)
    out = tmp_path / "a set"
    command = ["synthesize", *map(str, HOW), "--count", "5", "--out", str(out), "--weights", str(tiny_weights)]
    assert main(command) == code
    told = capsys.readouterr().err.splitlines()[-1]
    assert told == f"stopped; picture 2 is saved; go on: python -m mmdemo {shlex.join(command)}"
    assert len(listed(out)) == 2 and not list(out.glob(".*"))
    assert main(shlex.split(told.split("go on: ")[1])[3:]) == 0 and len(listed(out)) == 5


REFUSED = {
    "--steps 4": "steps 3, not 4",
    "--label circle": "label ['circle'",
    "--count 6": "count is 6 more",
    "--count 0": "count is 0 1000000",
    "--seed 6": "seed 5, not 6",
    f"--seed {MAX_SEED} --out new": f"seed count at most {MAX_SEED}",
    "--pack tiny-v --sampler ddim": "pack 'tiny', not 'tiny-v'",
    "--pack tiny-codec": "train dit --pack tiny-codec",
    "--label oval": "label 'oval' square",
    "--out file": "file folder",
    "--out strange": "strange something else",
    "--out broken": "broken synthesis.json",
    "--out deep": "deep synthesis.json",
}


@pytest.mark.parametrize(("options", "words"), REFUSED.items())
def test_what_does_not_fit_is_refused_in_one_line_and_the_folder_stays_as_it_was(
    made, tiny_weights, tmp_path, capsys, monkeypatch, options, words
):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "file").touch()
    for name, content in (
        ("strange/train/cat.png", ""),
        ("broken/synthesis.json", "{"),
        ("deep/synthesis.json", "[" * 100_000),
    ):
        (tmp_path / name).parent.mkdir(parents=True)
        (tmp_path / name).write_text(content)
    before, here = files(made), files(tmp_path)
    arguments = ["synthesize", *HOW, "--count", 7, "--augment", "--out", made, "--weights", tiny_weights]
    assert main([*map(str, arguments), *options.split()]) == 1
    told = capsys.readouterr()
    assert all(word in one_line(told.err) for word in words.split()) and told.out == ""
    assert files(made) == before and files(tmp_path) == here


def test_a_smaller_set_is_refused_where_pictures_are_missing_too(made, tiny_weights, tmp_path, capsys):
    shutil.copytree(made, out := tmp_path / "set")
    for file in out.glob("train/*/*-10*.png"):  # the sixth of seven, and its variant
        file.unlink()
    assert main([*map(str, ["synthesize", *HOW, "--count", 5, "--augment", "--out", out, "--weights", tiny_weights])])
    assert "count is 5, and there are more pictures" in one_line(capsys.readouterr().err) and len(listed(out)) == 14


def test_a_pack_that_changes_meanwhile_ends_it(tiny_weights, tmp_path, monkeypatch):
    monkeypatch.setattr(synthesis, "TOGETHER", 2)
    shutil.copytree(tiny_weights / "tiny", pack := tmp_path / "weights" / "tiny")
    going = synthesis.write(Studio([pack.parent], device="cpu"), tmp_path / "a", "tiny", 5, seed=5, steps=2)
    assert [next(going).step for _ in range(2)] == [0, 2]
    export.set_defaults(pack, guidance_scale=5.0)
    with pytest.raises(ArgumentError, match="was begun with guidance"):
        next(going)
    assert len(listed(tmp_path / "a")) == 2


def test_without_variants_it_does_not_go_on_with_them(made, tiny_weights, capsys):
    assert main([*map(str, ["synthesize", *HOW, "--count", 7, "--out", made, "--weights", tiny_weights])]) == 1
    assert "augment True, not False" in one_line(capsys.readouterr().err)


def test_the_zip_is_the_folder_and_the_same_set_is_the_same_file(made, studio):
    asked = {"count": 7, "augment": True, "seed": 5, "steps": 3, "guidance": 1.5, "sampler": "euler"}
    run = studio.synthesize("tiny", **asked)
    *_, last = run
    assert last.index + 1 == last.total
    content = run.result().zip_bytes()
    packed = zipfile.ZipFile(io.BytesIO(content))
    folder = {name: content for name, content in files(made).items() if name != "synthesis.json"}
    assert {name: packed.read(name) for name in packed.namelist()} == folder
    assert studio.synthesize("tiny", **asked).zip_bytes() == content
    told = run.result().json()
    assert told["count"] == 7 and told["labels"] == {"circle": 3, "square": 2, "triangle": 2} and told["augment"]


def test_an_empty_text_is_no_caption(reading_weights):
    with pytest.raises(MmdemoError, match="^label is an empty text"):
        Studio([reading_weights], device="cpu").synthesize("words", 2, ["a red circle", " "])


@pytest.mark.parametrize(
    "classes", [("..", "a"), ("a/b", "a:b"), ("A", "a"), ("", "x"), ("0-a", " ", "a"), ("x" * 99, "b")]
)
def test_each_class_has_a_folder_of_its_own_within_the_set(classes):
    places = [imagefolder.place(classes, label, 3) for label in classes]
    assert all(re.fullmatch(r"train/[^/.\\][^/\\]*/[^/\\]+-3\.png", one) for one in places)
    assert len({one.split("/")[1].casefold() for one in places}) == len(classes)


def test_a_variant_is_its_seeds_alone_and_moved_a_little():
    pixels = data.load("shapes", "test", image_size=32).pixels[:40]
    seeds = list(range(40))
    varied = augmented(pixels, seeds)
    assert varied.shape == pixels.shape and varied.dtype == torch.uint8
    assert torch.equal(augmented(pixels[5:6], [5]), varied[5:6]), "it depends on its neighbours"
    assert not torch.equal(augmented(pixels[5:6], [6]), varied[5:6])
    off = (varied.float() - pixels.float()).abs().mean((1, 2, 3))
    assert (off > 1).all() and off.mean() < 40
    corner = lambda image: array(image)[:3, :3].mean()  # noqa: E731
    assert all(abs(corner(a) - corner(b)) < 25 for a, b in zip(*map(to_images, (pixels, varied)), strict=True)), (
        "borders"
    )
    moved = np.array([[np.average(axis, weights=array(image.convert("L")) + 1) for axis in np.indices((32, 32))]
                      for image in to_images(varied)])  # fmt: skip
    assert moved.std(0).min() > 0.1
