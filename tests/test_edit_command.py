"""The command `edit`, and `--interval` of the commands that sample."""

import json

import pytest
from conftest import same
from PIL import Image
from running import one_line

from mmdemo import measured, packs, provenance
from mmdemo.__main__ import main
from mmdemo.studio import Studio
from mmdemo.training import export


@pytest.fixture
def picture(tmp_path):
    Image.effect_noise((40, 40), 90).save(tmp_path / "picture.png")
    return tmp_path / "picture.png"


def test_edit_writes_the_pixels_that_python_gives_and_prints_how(tiny_weights, picture, tmp_path, capsys):
    out = tmp_path / "new" / "out.PNG"
    options = (
        "--label square --strength 0.7 --seed 5 --steps 6 --guidance 2 --sampler heun --invert no --interval 0.1 0.9"
    )
    arguments = ["edit", "--pack", "tiny", str(picture), *options.split(), "--weights", str(tiny_weights)]
    assert main([*arguments, "--out", str(out)]) == 0
    told = json.loads(capsys.readouterr().out)
    assert told.pop("out") == str(out)
    made = Studio(weights=[tiny_weights]).edit("tiny", picture, "square", 0.7, 5, 6, 2.0, "heun", "no", [0.1, 0.9])
    file = Image.open(out)
    assert file.format == "PNG" and file.size == (16, 16) and same(file, made.image)
    expected = json.loads(json.dumps(made.json()))
    assert told | {"seconds": 0} == expected | {"seconds": 0}
    assert json.loads(file.text["mmdemo"]) == told


def test_edit_without_more_uses_the_packs_defaults_and_says_which_seed(tiny_weights, picture, tmp_path, capsys):
    arguments = ["edit", "--pack", "tiny", str(picture), "--label", "circle", "--weights", str(tiny_weights)]
    for name in ("a", "b"):
        assert main([*arguments, "--out", str(tmp_path / f"{name}.png")]) == 0
    first, second = map(json.loads, capsys.readouterr().out.splitlines())
    assert first["seed"] != second["seed"] and first["strength"] == 0.8 and first["steps"] == 6
    again = Studio(weights=[tiny_weights]).edit("tiny", picture, "circle", seed=first["seed"])
    assert same(Image.open(tmp_path / "a.png"), again.image)


def test_edit_refuses_what_is_no_picture(tiny_weights, tmp_path, capsys):
    (tmp_path / "letter.png").write_text("Dear reader")
    for name in ("letter.png", "nowhere.png"):
        arguments = ["--label", "circle", "--out", str(tmp_path / "out.png"), "--weights", str(tiny_weights)]
        assert main(["edit", "--pack", "tiny", str(tmp_path / name), *arguments]) == 1
        assert name in one_line(capsys.readouterr().err)


def test_sample_guides_within_the_interval(tiny_weights, tmp_path, capsys):
    arguments = ["--pack", "tiny", "--label", "circle", "--seed", "5", "--steps", "6", "--guidance", "4"]
    where = ["--interval", "0.2", "0.5", "--out", str(tmp_path / "out"), "--weights", str(tiny_weights)]
    assert main(["sample", *arguments, *where]) == 0
    assert json.loads(capsys.readouterr().out)["interval"] == [0.2, 0.5]
    made = Studio(weights=[tiny_weights]).sample("tiny", "circle", 1, 5, 6, 4, interval=[0.2, 0.5])
    assert same(Image.open(tmp_path / "out" / "circle-5.png"), made.images[0])
    assert main(["sample", *arguments, *where, "--interval", "2", "3"]) == 1
    assert "interval" in one_line(capsys.readouterr().err)


def test_evaluate_measures_with_the_interval_writes_it_on_the_card_and_makes_it_the_packs_own(
    sampling, pictures, tmp_path, capsys
):
    export.set_defaults(sampling, guidance_scale=3.0)
    training = provenance.read_training(sampling)
    trained = {"steps": 0, "batch_size": 1, "minutes": 0.0, "machine": "none"}
    training = {"vqvae": training["vqvae"] | trained, "dit": training["dit"] | trained}
    (sampling / "training.json").write_text(json.dumps(training), encoding="utf-8")
    where = ["--weights", str(sampling.parent), "--runs", str(tmp_path / "runs"), "--data-dir", str(pictures)]
    measure = ["evaluate", "--pack", "sampling", "--samples", "100", "--steps", "4", "--json", *where]
    assert main([*measure, "--interval", "0.9", "0.1"]) == 1
    assert "interval" in one_line(capsys.readouterr().err) and not (tmp_path / "runs").exists()

    measured = []
    for more in ([], ["--interval", "0.2", "0.6", "--defaults"]):
        assert main([*measure, *more]) == 0
        measured.append(json.loads(capsys.readouterr().out))
        text = (sampling / "README.md").read_text(encoding="utf-8")
        assert ("--interval 0.2 0.6" in text) == ("at noise levels 0.2 to 0.6" in text) == bool(more)
    everywhere, narrowed = measured
    assert everywhere["guidance_interval"] == [0, 1] and narrowed["guidance_interval"] == [0.2, 0.6]
    assert everywhere["frechet_generated_test"] != narrowed["frechet_generated_test"]
    assert packs.read(sampling).defaults.interval == (0.2, 0.6)


def test_a_card_of_before_there_were_intervals_is_written_as_it_was(tiny_weights):
    numbers = {"generated": 5, "num_inference_steps": 2, "guidance_scale": 1.5, "sampler": "euler"}
    assert "--interval" not in measured._evaluation("tiny", numbers)
    assert measured._evaluation("tiny", numbers) == measured._evaluation(
        "tiny", numbers | {"guidance_interval": [0.0, 1.0]}
    )
