"""The command line: what it writes, what it prints, and how it says no."""

import inspect
import io
import json
import re
import shlex
import shutil
import subprocess
import sys
from dataclasses import asdict

import numpy as np
import pytest
import yaml
from conftest import same
from PIL import Image
from running import ROOT, one_line, quietly, run
from test_images import png_claiming
from test_packs import DAMAGES

from mmdemo import __version__, classifier, data, packs, provenance
from mmdemo.__main__ import main, parser
from mmdemo.arguments import MAX_COUNT, MAX_PICTURES, MAX_SEED, MAX_STEPS
from mmdemo.samplers import FAST, NAMES
from mmdemo.sampling import BUDGET
from mmdemo.studio import VERBS, Studio
from mmdemo.training.config import DiTConfig, VQVAEConfig

CODEC = "--dataset shapes --image-size 16 --channels 16 --num-codes 32 --steps 60 --batch-size 32 --warmup 5 --seed 3"
TRANSFORMER = "--patch-size 1 --hidden-size 32 --depth 1 --num-heads 2 --steps 40 --batch-size 32 --warmup 5"


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    """weights/ and runs/ with a pack `demo` trained by the two commands; and what the first of them printed."""
    folder = tmp_path_factory.mktemp("home")
    where = ["--weights", folder / "weights", "--runs", folder / "runs"]
    done = run("train", "vqvae", "--pack", "demo", *CODEC.split(), *where)
    assert done.returncode == 0, done.stderr
    shutil.copytree(folder / "weights" / "demo", folder / "weights" / "codec")
    assert quietly("train", "dit", "--pack", "demo", *TRANSFORMER.split(), *where) == 0
    return folder, done


# ---------------------------------------------------------------------------------------------------------- packs


def test_packs_prints_json_alone(tiny_weights):
    done = run("packs", "--json", "--weights", tiny_weights)
    assert done.returncode == 0 and done.stderr == ""
    listed = {entry["name"]: entry for entry in json.loads(done.stdout)}
    assert set(listed) == {"tiny", "tiny-v", "tiny-codec", "broken"}
    for entry in listed.values():
        assert {"name", "classes", "codes", "image_size", "can_sample", "samplers"} <= set(entry)
    assert listed["tiny"]["can_sample"] and not listed["tiny-codec"]["can_sample"]
    assert "vae" in listed["broken"]["problem"] and "problem" not in listed["tiny"]


def test_packs_for_people_has_a_line_for_each(tiny_weights, capsys):
    assert main(["packs", "--weights", str(tiny_weights)]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 4 and any(line.startswith("broken: damaged") for line in lines)


def test_without_packs_it_says_how_to_get_one(tmp_path, capsys):
    assert main(["packs", "--weights", str(tmp_path)]) == 0
    assert "train vqvae" in capsys.readouterr().out
    assert main(["packs", "--json", "--weights", str(tmp_path)]) == 0
    assert json.loads(capsys.readouterr().out) == []


def test_a_folder_that_is_not_there_is_told_in_one_line(tmp_path, capsys):
    for command in (["packs"], ["packs", "--json"], ["sample", "--pack", "tiny", "--label", "a", "--out", "x.png"]):
        assert main([*command, "--weights", str(tmp_path / "nosuch")]) == 1
        told = capsys.readouterr()
        assert re.search(r"there is no folder '[^']*nosuch'.*--weights", one_line(told.err)) and told.out == ""


@pytest.mark.parametrize("verb", ["reconstruct", "describe", "classify", "sample", "edit", "restore", "synthesize"])
def test_a_verbs_command_has_the_verbs_arguments_order_and_defaults(verb):
    commands = next(action for action in parser()._actions if isinstance(action.choices, dict))
    offered = {action.dest: action for action in commands.choices[verb]._actions}
    parameters = inspect.signature(VERBS[verb]).parameters
    names = ["image" if name == "images" else name for name in offered]
    several = verb in ("reconstruct", "describe", "classify")  # pictures, which then come first
    assert [name for name in names if name not in ("help", "weights", "out", "json")] == sorted(
        parameters, key=lambda name: not (several and name == "image")
    )
    for name, parameter in parameters.items():
        if name != "image":
            assert offered[name].required == (parameter.default is parameter.empty), name
            assert offered[name].required or offered[name].default == parameter.default, name
            assert VERBS[verb].arguments[name].help in offered[name].help, name


def test_help_says_what_is_allowed(capsys):
    def told(command: str) -> str:
        with pytest.raises(SystemExit):
            main([command, "--help"])
        return " ".join(capsys.readouterr().out.split())

    for command in ("sample", "edit", "restore", "synthesize", "evaluate"):
        names = NAMES if command != "restore" else [name for name in NAMES if name != FAST]
        assert f"From 1 to {MAX_STEPS}." in told(command) and f"One of {', '.join(names)}, " in told(command)
    assert "Above 0, at most 1." in told("edit") and f"From 1 to {MAX_COUNT}." in told("sample")
    assert "One of inpaint, upscale, denoise." in told("restore") and "From 0.05 to 1." in told("restore")
    assert f"From 1 to {MAX_PICTURES}." in told("synthesize") and f"From 100 to {MAX_PICTURES}." in told("evaluate")


# --------------------------------------------------------------------------------------------------------- sample


def test_sample_writes_the_pixels_that_python_gives(tiny_weights, tmp_path):
    done = run(
        "sample", "--pack", "tiny", "--label", "square", "circle", "--count", 3, "--seed", 7, "--steps", 4,
        "--guidance", 1.5, "--sampler", "ddpm", "--out", tmp_path / "new" / "out", "--weights", tiny_weights,
    )  # fmt: skip
    assert done.returncode == 0 and done.stderr == ""
    told = json.loads(done.stdout)
    assert (told["seed"], told["steps"], told["guidance"], told["sampler"]) == (7, 4, 1.5, "ddpm")
    made = Studio(weights=[tiny_weights]).sample("tiny", ["square", "circle"], 3, 7, 4, 1.5, "ddpm")
    names = ["square-7.png", "circle-8.png", "square-9.png"]
    assert sorted(file.name for file in (tmp_path / "new" / "out").iterdir()) == sorted(names)
    for name, image in zip(names, made.images, strict=True):
        file = Image.open(tmp_path / "new" / "out" / name)
        assert file.format == "PNG" and file.size == (16, 16)
        assert same(file, image)
        settings = json.loads(file.text["mmdemo"])
        assert f"{settings['labels'][0]}-{settings['seed']}.png" == name


def test_sample_to_a_png_is_one_grid(tiny_weights, tmp_path, capsys):
    arguments = ["--pack", "tiny", "--label", "all", "--count", "4", "--seed", "7", "--steps", "2"]
    assert (
        main(["sample", *arguments, "--out", str(tmp_path / "deep" / "grid.PNG"), "--weights", str(tiny_weights)]) == 0
    )
    told = json.loads(capsys.readouterr().out)
    assert told["labels"] == ["circle", "square", "triangle", "circle"]
    assert told["out"] == str(tmp_path / "deep" / "grid.PNG")
    made = Studio(weights=[tiny_weights]).sample("tiny", "all", 4, 7, 2)
    assert same(Image.open(tmp_path / "deep" / "grid.PNG"), made.grid())
    assert [file.name for file in (tmp_path / "deep").iterdir()] == ["grid.PNG"]


@pytest.mark.parametrize(("labels", "count"), [(["circle"], 1), (["square", "circle"], 2), (["all"], 3)])
def test_sample_draws_one_of_each_label_unless_told_how_many(tiny_weights, tmp_path, labels, count):
    arguments = ["--pack", "tiny", "--label", *labels, "--seed", "7", "--steps", "1", "--out", str(tmp_path)]
    assert main(["sample", *arguments, "--weights", str(tiny_weights)]) == 0
    assert len([*tmp_path.iterdir()]) == count


def test_a_console_that_lacks_a_character_gets_it_escaped(reading_weights, tmp_path, monkeypatch):
    console = io.TextIOWrapper(io.BytesIO(), "ascii")
    monkeypatch.setattr(sys, "stdout", console)
    arguments = ["--pack", "words", "--prompt", "红é😀 circle", "--steps", "1", "--weights", str(reading_weights)]
    assert main(["sample", *arguments, "--out", str(tmp_path / "one.png")]) == 0
    console.flush()
    assert json.loads(console.buffer.getvalue())["labels"] == ["红é😀 circle"]


def test_the_same_command_twice_writes_the_same_and_without_a_seed_another(tiny_weights, tmp_path, capsys):
    for name, seed in (("a", ["--seed", "5"]), ("b", ["--seed", "5"]), ("c", []), ("d", [])):
        arguments = ["--pack", "tiny", "--label", "circle", "--steps", "2", "--out", str(tmp_path / name)]
        assert main(["sample", *arguments, *seed, "--weights", str(tiny_weights)]) == 0
    seeds = [json.loads(line)["seed"] for line in capsys.readouterr().out.splitlines()]
    assert seeds[:2] == [5, 5] and len(set(seeds)) == 3
    assert same(tmp_path / "a" / "circle-5.png", tmp_path / "b" / "circle-5.png")
    assert (tmp_path / "c" / f"circle-{seeds[2]}.png").is_file()


REFUSED = {
    "sample edit": {
        "--pack nope": "pack 'nope' tiny",
        "--pack broken": "broken vae",
        "--pack tiny-codec": "tiny-codec train dit --pack tiny-codec",
        "--label oval": "label 'oval' square",
        "--steps nan": "steps nan 250",
        "--steps inf": "steps inf 250",
        "--steps 0": "steps 0 250",
        "--seed -1": f"seed -1 {MAX_SEED}",
        f"--seed {'9' * 400}": f"seed {MAX_SEED}",
        "--guidance nan": "guidance nan 20",
        "--guidance -3": "guidance -3 20",
        "--sampler plms": "sampler 'plms' euler",
        "--interval 0.9 0.1": "interval 0.9 lower first",
        "--interval 0 x": "interval 'x'",
    },
    "sample": {
        "--count 0": f"count 0 {MAX_COUNT}",
        "--count many": f"count 'many' {MAX_COUNT}",
        "--count 1.5": f"count 1.5 {MAX_COUNT}",
        "--count 64 --steps 200": f"steps × count 12800 {BUDGET}",
        "--out pictures.jpg": "--out 'pictures.jpg' folder .png",
    },
    "edit": {
        "--label all": "label 'all' square",
        **{f"--strength {value}": f"strength {value}" for value in ("0", "1.5", "-1", "nan", "half")},
        "--out folder": "--out 'folder' .png",
    },
    "restore": {
        "--task paint": "task 'paint' inpaint, upscale, denoise",
        "--invert maybe": "invert 'maybe' auto, yes, no",
        "--factor 3 --task upscale": "factor 3 2 or 4",
        "--pack tiny-codec": "tiny-codec cannot restore",
    },
    "reconstruct": {
        "--size 30": "size 30 stride, 4",
        **{f"--size {value}": f"size {value} 8 to 256" for value in ("4", "512", "-8", "nan", "big")},
    },
}


@pytest.mark.parametrize(
    ("verb", "options", "words"),
    [(verb, *case) for verbs, cases in REFUSED.items() for verb in verbs.split() for case in cases.items()],
)
def test_a_bad_argument_is_answered_with_one_line_and_nothing_is_written(
    tiny_weights, tmp_path, capsys, verb, options, words
):
    picture, out = tmp_path / "a.png", tmp_path / "out.png"
    Image.new("L", (16, 16), 200).save(picture)
    good = {"sample": "--label circle", "edit": f"{picture} --label circle", "reconstruct": f"{picture}",
            "restore": f"{picture} --task upscale --factor 2"}[verb]  # fmt: skip
    where = ["--pack", "tiny", "--out", str(out), "--weights", str(tiny_weights)]
    assert main([verb, *good.split(), *where, *options.split()]) == 1
    told = capsys.readouterr()
    assert all(word in one_line(told.err) for word in words.split()) and told.out == ""
    assert list(tmp_path.iterdir()) == [picture]


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ("--student", "tiny-codec has no student"),
        ("--student --defaults", "--defaults --student"),
        ("--restore --guidance 0", "--guidance --restore"),
        ("--synthetic --segments masks", "--segments --synthetic"),
        ("--classify --samples 200", "--samples --classify"),
        ("--count 200", "--count --synthetic"),
        ("--segments masks", "segments tiny-codec"),
    ],
)
def test_what_an_evaluation_has_no_use_for_is_refused(tiny_weights, tmp_path, capsys, options, words):
    shutil.copytree(tiny_weights / "tiny-codec", tmp_path / "tiny-codec")
    (tmp_path / "tiny-codec" / "metrics.json").write_text("{}")
    assert main(["evaluate", "--pack", "tiny-codec", "--weights", str(tmp_path), *options.split()]) == 1
    told = one_line(capsys.readouterr().err)
    assert all(word in told for word in words.split())


def test_two_evaluations_at_once_are_no_command(capsys):
    with pytest.raises(SystemExit):
        main(["evaluate", "--pack", "tiny", "--student", "--synthetic"])
    assert "not allowed with argument" in capsys.readouterr().err


def test_a_place_that_cannot_be_written_is_told_in_one_line(tiny_weights, tmp_path, capsys):
    (tmp_path / "file").write_text("in the way")
    good = ["--pack", "tiny", "--label", "circle", "--steps", "1", "--weights", str(tiny_weights)]
    for out in ("file", "file/out", "file/out.png"):
        assert main(["sample", *good, "--out", str(tmp_path / out)]) == 1
        assert "file" in one_line(capsys.readouterr().err)
    assert (tmp_path / "file").read_text() == "in the way"


def test_a_damaged_pack_is_told_in_one_line_without_a_traceback(tiny_weights, tmp_path):
    """A process of its own, so that what the libraries print is seen too."""
    script, damages = "from mmdemo.__main__ import main\n", ("codec lacks a weight", "codec has a weight too many")
    for name, damage in zip(("first", "second"), damages, strict=True):
        shutil.copytree(tiny_weights / "tiny", tmp_path / name)
        DAMAGES[damage][0](tmp_path / name)
        arguments = ["sample", "--pack", name, "--label", "circle", "--out", str(tmp_path / "out")]
        script += f"assert main({[*arguments, '--weights', str(tmp_path)]}) == 1\n"
    done = subprocess.run([sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True, timeout=240)
    assert done.returncode == 0 and done.stdout == ""
    for line, name, damage in zip(done.stderr.splitlines(True), ("first", "second"), damages, strict=True):
        assert name in one_line(line) and DAMAGES[damage][1] in line


# ---------------------------------------------------------------------------------------------------- reconstruct


def test_reconstruct_writes_three_files_a_picture(tiny_weights, tmp_path, capsys):
    for name, ink, paper in (("white.png", 255, 0), ("black.v2.jpg", 0, 255)):
        picture = Image.new("L", (40, 40), paper)
        picture.paste(ink, (16, 8, 24, 32))
        picture.save(tmp_path / name)
    out = tmp_path / "new" / "out"
    arguments = [str(tmp_path / "white.png"), str(tmp_path / "black.v2.jpg"), "--out", str(out)]
    assert main(["reconstruct", "--pack", "tiny", *arguments, "--weights", str(tiny_weights)]) == 0
    assert sorted(file.name for file in out.iterdir()) == sorted(
        f"{stem}{end}" for stem in ("white", "black.v2") for end in ("-reconstruction.png", "-tokens.png", ".json")
    )
    studio = Studio(weights=[tiny_weights])
    for stem, name, inverted in (("white", "white.png", False), ("black.v2", "black.v2.jpg", True)):
        made = studio.reconstruct("tiny", tmp_path / name)
        told = json.loads((out / f"{stem}.json").read_text())
        assert told["tokens"] == made.tokens and told["inverted"] == inverted
        assert told["psnr"] == pytest.approx(made.psnr, abs=1e-3)
        picture = Image.open(out / f"{stem}-reconstruction.png")
        assert same(picture, studio.decode("tiny", told["tokens"]))
        assert Image.open(out / f"{stem}-tokens.png").size == (16, 16)
    assert capsys.readouterr().err == ""


def test_invert_is_obeyed(tiny_weights, tmp_path):
    Image.new("L", (16, 16), 200).save(tmp_path / "grey.png")
    told = {}
    for invert in ("yes", "no"):
        arguments = ["--pack", "tiny", tmp_path / "grey.png", "--out", tmp_path / invert, "--invert", invert]
        assert quietly("reconstruct", *arguments, "--weights", tiny_weights) == 0
        told[invert] = json.loads((tmp_path / invert / "grey.json").read_text())["inverted"]
    assert told == {"yes": True, "no": False}


def test_size_is_the_side_of_what_is_written(tiny_weights, tmp_path):
    picture = Image.new("L", (50, 40), 0)
    picture.paste(255, (20, 8, 30, 32))
    picture.save(tmp_path / "a.png")
    arguments = ["--pack", "tiny", tmp_path / "a.png", "--out", tmp_path, "--size", 32, "--weights", tiny_weights]
    assert quietly("reconstruct", *arguments) == 0
    made = Studio(weights=[tiny_weights]).reconstruct("tiny", tmp_path / "a.png", size=32)
    assert same(Image.open(tmp_path / "a-reconstruction.png"), made.image)
    assert Image.open(tmp_path / "a-tokens.png").size == made.image.size == (32, 32)
    assert json.loads((tmp_path / "a.json").read_text())["tokens"] == made.tokens


def test_reconstruct_refuses_a_bad_picture_and_writes_nothing(tiny_weights, tmp_path, capsys):
    Image.new("L", (16, 16), 200).save(tmp_path / "good.png")
    (tmp_path / "letter.png").write_text("Dear reader")
    for bad in ("letter.png", "nowhere.png", "."):
        arguments = ["reconstruct", "--pack", "tiny", str(tmp_path / "good.png"), str(tmp_path / bad)]
        assert main([*arguments, "--out", str(tmp_path / "out"), "--weights", str(tiny_weights)]) == 1
        one_line(capsys.readouterr().err)
        assert not (tmp_path / "out").exists()


def test_a_picture_that_claims_too_much_is_told_in_one_line(tiny_weights, tmp_path):
    """A process of its own, so that Pillow's warnings are seen too."""
    (tmp_path / "huge.png").write_bytes(png_claiming(13000, 13000))
    done = run(
        "reconstruct", "--pack", "tiny", tmp_path / "huge.png", "--out", tmp_path / "out", "--weights", tiny_weights
    )
    assert done.returncode == 1 and done.stdout == "" and "16 megapixels" in one_line(done.stderr)


def test_two_pictures_of_one_name_do_not_overwrite_each_other(tiny_weights, tmp_path, capsys):
    """Folders of classes number their pictures alike: cat/1.png, dog/1.png."""
    for name, grey in (("cat", 20), ("dog", 220)):
        (tmp_path / name).mkdir()
        Image.new("L", (16, 16), grey).save(tmp_path / name / "1.png")
    pictures = [str(tmp_path / name / "1.png") for name in ("cat", "dog")]
    arguments = ["reconstruct", "--pack", "tiny", *pictures, "--out", str(tmp_path / "out")]
    assert main([*arguments, "--weights", str(tiny_weights)]) == 1
    assert "'1'" in one_line(capsys.readouterr().err)
    assert not (tmp_path / "out").exists()


# ---------------------------------------------------------------------------------------------------------- train


def test_training_prints_its_progress_and_the_next_step(home):
    folder, done = home
    lines = done.stdout.splitlines()
    assert "step 60/60" in lines[-2] and all(word in lines[-2] for word in ("loss", "psnr", "codes", "images/s"))
    next_one = parser().parse_args(shlex.split(lines[-1].split("; next: ")[1])[3:])
    assert (next_one.pack, next_one.hidden_size) == ("demo", DiTConfig.hidden_size), "not the command of a transformer"
    assert (next_one.weights, next_one.runs) == (str(folder / "weights"), str(folder / "runs"))
    assert "Traceback" not in done.stderr and "error" not in done.stderr


def test_two_trainings_make_a_pack_that_samples(home, tmp_path, capsys):
    folder, _ = home
    pack = packs.read(folder / "weights" / "demo")
    assert pack.problem is None and pack.classes == data.SHAPES and pack.codes == 32 and pack.image_size == 16
    arguments = ["--pack", "demo", "--label", "all", "--count", "5", "--seed", "1", "--steps", "3"]
    assert main(["sample", *arguments, "--out", str(tmp_path), "--weights", str(folder / "weights")]) == 0
    names = [f"{label}-{1 + i}.png" for i, label in enumerate(data.SHAPES)]
    assert sorted(file.name for file in tmp_path.iterdir()) == sorted(names)
    assert Image.open(tmp_path / names[0]).mode == "RGB"


def test_training_does_not_overwrite_a_pack_unasked(home, tmp_path, capsys):
    folder, _ = home
    shutil.copytree(folder / "weights" / "codec", tmp_path / "weights" / "demo")
    where = ["--weights", str(tmp_path / "weights"), "--runs", str(tmp_path / "runs")]
    before = provenance.fingerprint(tmp_path / "weights" / "demo")
    short = [*CODEC.split(), "--steps", "2", "--pack", "demo", *where]
    assert main(["train", "vqvae", *short]) == 1
    assert "demo" in one_line(capsys.readouterr().err)
    assert provenance.fingerprint(tmp_path / "weights" / "demo") == before and not (tmp_path / "runs").exists()
    assert quietly("train", "vqvae", *short, "--overwrite") == 0
    assert provenance.fingerprint(tmp_path / "weights" / "demo") != before


def test_a_trained_decoder_is_not_lost_to_a_resumed_codec_unasked(home, tmp_path, capsys):
    folder, _ = home
    shutil.copytree(folder / "weights" / "codec", tmp_path / "weights" / "demo")
    where = ["--pack", "demo", "--weights", str(tmp_path / "weights"), "--runs", str(tmp_path / "runs")]
    assert main(["train", "decoder", "--steps", "2", "--channels", "4", *where]) == 0
    assert "evaluate --pack demo" in capsys.readouterr().out
    assert main(["train", "vqvae", *CODEC.split(), "--resume", *where]) == 1
    assert "--overwrite" in one_line(capsys.readouterr().err)
    assert provenance.read_training(tmp_path / "weights" / "demo")["decoder"]["steps"] == 2


@pytest.mark.parametrize("name", ["", ".", "..", "../other", "a/b", "/", ".hidden"])
@pytest.mark.parametrize("command", [["train", "vqvae", "--overwrite"], ["train", "dit"], ["evaluate"]])
def test_a_name_that_is_no_folders_name_is_refused_and_nothing_is_touched(home, tmp_path, capsys, command, name):
    folder, _ = home
    shutil.copytree(folder / "weights" / "codec", tmp_path / "weights" / "kept")
    options = CODEC.split() if "vqvae" in command else []
    where = ["--weights", str(tmp_path / "weights"), "--runs", str(tmp_path / "runs")]
    assert main([*command, "--pack", name, *options, *where]) == 1
    assert "pack" in one_line(capsys.readouterr().err)
    assert [path.name for path in tmp_path.iterdir()] == ["weights"]
    assert [path.name for path in (tmp_path / "weights").iterdir()] == ["kept"]


@pytest.mark.parametrize(
    ("options", "word"),
    [
        ("--stride 3", "stride"),
        ("--steps 0", "steps"),
        ("--batch-size 0", "batch_size"),
        ("--learning-rate nan", "learning_rate"),
        ("--image-size 18", "stride"),
        ("--dataset minst", "minst"),
        ("--resume", "no checkpoint"),
    ],
)
def test_train_vqvae_answers_a_bad_option_with_one_line_and_writes_no_pack(tmp_path, capsys, options, word):
    where = ["--weights", str(tmp_path / "weights"), "--runs", str(tmp_path / "runs")]
    assert main(["train", "vqvae", "--pack", "new", *CODEC.split(), *options.split(), *where]) == 1
    assert word in one_line(capsys.readouterr().err)
    assert list(tmp_path.glob("weights/*")) == []


@pytest.mark.parametrize(
    ("options", "word"),
    [
        ("--pack nope", "train vqvae --pack nope"),
        ("--overwrite --hidden-size 10 --num-heads 3", "hidden_size"),
        ("--overwrite --patch-size 3", "patch_size"),
        ("--overwrite --label-dropout 2", "label_dropout"),
        ("--steps 5", "--overwrite"),
        ("--resume --prediction v", "prediction"),
    ],
)
def test_train_dit_answers_a_bad_option_with_one_line_and_leaves_the_pack(home, capsys, options, word):
    folder, _ = home
    before = (folder / "weights" / "demo" / "model_index.json").read_bytes()
    where = ["--weights", str(folder / "weights"), "--runs", str(folder / "runs")]
    assert main(["train", "dit", "--pack", "demo", *TRANSFORMER.split(), *options.split(), *where]) == 1
    assert word in one_line(capsys.readouterr().err)
    assert (folder / "weights" / "demo" / "model_index.json").read_bytes() == before


# -------------------------------------------------------------------------------------------------- evaluate, usage


def test_evaluate_measures_a_pack_and_writes_its_card(home, tmp_path, capsys, monkeypatch):
    monkeypatch.setitem(classifier.EPOCHS, "marks", 3)
    folder, _ = home
    shutil.copytree(folder / "weights" / "demo", tmp_path / "weights" / "demo")
    (tmp_path / "weights" / "demo" / "notes.md").write_text("## A person's notes\n", encoding="utf-8")
    where = ["--weights", str(tmp_path / "weights"), "--runs", str(tmp_path / "runs")]
    arguments = ["evaluate", "--pack", "demo", "--samples", "200", "--steps", "3", *where]
    assert main([*arguments, "--json"]) == 0
    told = capsys.readouterr()
    numbers = json.loads(told.out)
    pack = tmp_path / "weights" / "demo"
    assert json.loads((pack / "metrics.json").read_text()) == numbers

    assert numbers["test_images"] == 1000 and numbers["generated"] == 200 and numbers["num_inference_steps"] == 3
    assert numbers["accuracy_test"] > 0.9, "the classifier cannot read the shapes"
    for name in ("accuracy_reconstructed", "accuracy_generated"):
        assert 0 <= numbers[name] <= 1
    assert 0 < numbers["frechet_train_test"] < numbers["frechet_reconstructed_test"] < numbers["frechet_generated_test"]
    assert numbers["frechet_ratio"] == pytest.approx(numbers["frechet_generated_test"] / numbers["frechet_train_test"])
    assert numbers["codes"] == 32 and 1 <= numbers["perplexity"] <= numbers["codes_used"] <= 32

    studio, test = Studio(weights=[tmp_path / "weights"]), data.load("shapes", "test", image_size=16)
    pictures = [Image.fromarray(x.permute(1, 2, 0).numpy()) for x in test.pixels[:200]]
    psnr = np.mean([studio.reconstruct("demo", picture).psnr for picture in pictures])
    assert numbers["psnr"] == pytest.approx(psnr, abs=0.5), "the studio measures something else"

    card = (pack / "README.md").read_text(encoding="utf-8")
    _, front, body = card.split("---\n", 2)
    assert yaml.safe_load(front)["license"] == "apache-2.0"
    for quoted in (
        f"{numbers['psnr']:.2f} dB",
        f"{numbers['accuracy_generated']:.2%}",
        f"{numbers['frechet_ratio']:.2f}",
    ):
        assert quoted in body
    assert card.endswith("## A person's notes\n")
    assert str(tmp_path) not in card and str(ROOT) not in card

    # The commands on the card are those that trained the pack.
    lines = [line for line in body.splitlines() if line.startswith("python -m mmdemo train ")]
    for line, given, config in zip(lines, (CODEC, TRANSFORMER), (VQVAEConfig, DiTConfig), strict=True):
        model = line.split()[4]
        meant = parser().parse_args(["train", model, "--pack", "demo", *given.split()])
        written = parser().parse_args(shlex.split(line)[3:])
        for option in asdict(config()):
            assert getattr(written, option) == getattr(meant, option), f"the card's command has another {option}"
    assert len(list((tmp_path / "runs" / "classifiers").iterdir())) == 1, "the classifier is kept"


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ("--pack nope", ["nope"]),
        ("--samples 5", ["samples", "5", "100"]),
        ("--samples x", ["samples", "x"]),
        ("--steps 0", ["steps", "0"]),
        ("--steps nan", ["steps", "nan"]),
        ("--guidance nan", ["guidance", "nan"]),
        ("--sampler plms", ["sampler", "plms", "euler"]),
    ],
)
def test_evaluate_answers_a_bad_option_with_one_line_before_any_work(home, tmp_path, capsys, options, words):
    folder, _ = home
    where = ["--weights", str(folder / "weights"), "--runs", str(tmp_path / "runs")]
    assert main(["evaluate", "--pack", "demo", *options.split(), *where]) == 1
    told = one_line(capsys.readouterr().err)
    assert all(word in told for word in words)
    assert not (tmp_path / "runs").exists(), "it set to work"


@pytest.mark.parametrize(
    "arguments",
    [
        [],
        ["paint"],
        ["train"],
        ["train", "vqvae"],
        ["sample", "--pack", "tiny", "--out", "x"],
        ["sample", "--pack", "tiny", "--label", "circle"],
        ["reconstruct", "--pack", "tiny", "--out", "x"],
        *(
            ["edit", "--pack", "tiny", *rest.split()]
            for rest in (
                "--label circle --out x.png",
                "a.png --out x.png",
                "a.png --label circle",
                "a.png --label circle --out x.png --interval 0.5",
            )
        ),
        ["packs", "--colour"],
    ],
    ids=" ".join,
)
def test_wrong_usage_is_exit_code_2(arguments, capsys):
    with pytest.raises(SystemExit) as left:
        main(arguments)
    told = capsys.readouterr()
    assert left.value.code == 2 and "usage:" in told.err and told.out == ""


@pytest.mark.parametrize(
    ("given", "told"),
    [
        ("--steps many", "steps is 'many'; it must be a whole number from 1 to 100000000"),
        ("--learning-rate fast", "learning_rate is 'fast'; it must be a number from 0 to 1"),
        ("--quantizer colour", "quantizer is 'colour'; it must be one of vq, fsq"),
        ("--levels 8 b", "levels is 'b'; it must be a whole number from 2 to 256"),
    ],
)
def test_an_option_of_a_training_is_refused_in_one_sentence(given, told, tmp_path, capsys):
    options = ["--pack", "new", "--weights", str(tmp_path), "--runs", str(tmp_path), "--dataset", "shapes"]
    assert main(["train", "vqvae", *options, *given.split()]) == 1
    assert capsys.readouterr().err == f"error: {told}\n" and not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    "command",
    [
        "",
        "packs",
        "pull",
        "push",
        "train",
        "train vqvae",
        "train dit",
        "reconstruct",
        "describe",
        "classify",
        "sample",
        "edit",
        "restore",
        "evaluate",
    ],
)
def test_every_command_explains_itself(command, capsys):
    with pytest.raises(SystemExit) as left:
        main([*command.split(), "--help"])
    told = capsys.readouterr().out
    assert left.value.code == 0 and "usage:" in told and len(told.splitlines()) > 5


def test_exit_codes_reach_the_shell():
    """Of wrong usage; that 0 and 1 do is seen above, of `packs` and of a picture that claims too much."""
    assert run("paint").returncode == 2


def test_the_version_is_told(capsys):
    with pytest.raises(SystemExit) as left:
        main(["--version"])
    assert left.value.code == 0 and capsys.readouterr().out == f"{__version__}\n"
