"""docs/train-on-your-own-pictures.md: its code blocks are taken out of the page and run, in order, as printed.

Only cut down: CUT is appended to the commands, the folder of pictures is made of the smaller split of `shapes`, and
what reads pictures for `evaluate` is hardly trained.
The commands run in a copy of the project without its packs, so that what is found there was made there. Those of
`python -m mmdemo` run in this process, which saves importing torch seven times; the app runs in one of its own.
"""

import re
import shlex
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from gradio_client import Client
from PIL import Image
from running import ROOT, free_port

from mmdemo import classifier, reader
from mmdemo.__main__ import main
from mmdemo.training.loop import load_checkpoint

TUTORIAL = (ROOT / "docs" / "train-on-your-own-pictures.md").read_text(encoding="utf-8")
BLOCKS = re.findall(r"^```(\w+)\n(.*?)^```$", TUTORIAL, re.MULTILINE | re.DOTALL)
CUT = {
    "train vqvae": "--steps 20 --warmup 5 --batch-size 32 --channels 16",
    "train dit": "--steps 20 --warmup 5 --batch-size 16",
    "evaluate": "--samples 100 --steps 4 --described 3",
    "restore": "--steps 4",
    "synthesize": "--count 4 --steps 4",
}


def commands() -> list[list[str]]:
    """The words of every command line that the page prints, in its order."""
    lines = [line for language, text in BLOCKS if language == "bash" for line in text.splitlines()]
    return [words for words in (shlex.split(line, comments=True) for line in lines) if words]


def cut(arguments: list[str]) -> list[str]:
    """The arguments of `python -m mmdemo`, with less to do: argparse heeds the last of two equal options."""
    spoken = " ".join(arguments)
    return arguments + next((less.split() for name, less in CUT.items() if spoken.startswith(name)), [])


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """The folder in which everything but the app has been run."""
    folder = tmp_path_factory.mktemp("tutorial")
    shutil.copy(ROOT / "app.py", folder)
    shutil.copytree(ROOT / "mmdemo", folder / "mmdemo", ignore=shutil.ignore_patterns("__pycache__"))
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        patch.setattr(reader, "MAX_STEPS", 20)
        patch.setitem(classifier.EPOCHS, "marks", 1)
        for language, text in BLOCKS:
            if language == "python":
                exec(compile(text.replace('"train"', '"test"'), "tutorial", "exec"), {"__name__": "__main__"})
        for python, *arguments in commands():
            assert python == "python"
            if arguments[:2] == ["-m", "mmdemo"]:
                assert main(cut(arguments[2:])) == 0, f"failed: {shlex.join(arguments)}"
        yield folder


def test_the_page_goes_all_the_way_from_pictures_to_the_app():
    spoken = [" ".join(words) for words in commands()]
    stages = [
        "train vqvae",
        "reconstruct",
        "train dit",
        "train dit.*--resume",
        "sample",
        "evaluate",
        "app.py",
        "classify",
        "restore",
        "synthesize",
        "sample.*--prompt",
        "describe",
    ]
    found = [next((i for i, line in enumerate(spoken) if re.search(stage, line)), None) for stage in stages]
    assert None not in found and found == sorted(found), dict(zip(stages, found, strict=True))
    assert [language for language, _ in BLOCKS].count("python") == 2


def test_the_snippet_writes_a_folder_of_pictures_for_every_class(home: Path):
    classes = sorted(child.name for child in (home / "pictures").iterdir())
    assert classes == ["circle", "cross", "ring", "square", "triangle"]
    for name in classes:
        files = list((home / "pictures" / name).iterdir())
        assert len(files) == 200 and Image.open(files[0]).size == (32, 32) and Image.open(files[0]).mode == "RGB"


def test_every_file_the_page_speaks_of_is_there(home: Path):
    told = set(re.findall(r"`((?:weights|runs)/[\w./-]+|\w+\.png|rebuilt/)`", TUTORIAL))
    assert {"weights/mine/README.md", "weights/mine/metrics.json", "runs/mine/dit.pt", "samples.png"} <= told
    assert [name for name in sorted(told) if not (home / name).exists()] == []


def test_the_resumed_training_went_on_to_its_last_step(home: Path):
    assert load_checkpoint(home / "runs" / "mine" / "dit.pt", {})["step"] == 20


def test_every_option_the_page_names_is_one_of_a_command(capsys: pytest.CaptureFixture[str]):
    known = (ROOT / "app.py").read_text(encoding="utf-8")
    trainings = ("train vqvae", "train dit", "train decoder")
    verbs = ("evaluate", "sample", "reconstruct", "describe", "classify", "restore", "synthesize")
    for command in (*trainings, *verbs):
        with pytest.raises(SystemExit):
            main([*command.split(), "--help"])
        known += capsys.readouterr().out
    told = set(re.findall(r"(?<![\w-])--[a-z][a-z-]+", TUTORIAL))
    assert len(told) > 10
    assert [option for option in sorted(told) if not re.search(rf"{option}(?![\w-])", known)] == []


def test_the_app_as_the_page_starts_it_has_the_new_pack_and_samples_it(home: Path):
    (command,) = [words[1:] for words in commands() if words[1] == "app.py"]
    flags = ["--port", free_port(), "--device", "cpu"]
    app = subprocess.Popen([sys.executable, *command, *flags], cwd=home, stdout=subprocess.PIPE, text=True)
    try:
        line = app.stdout.readline()
        assert "http://" in line
        client = Client(line.split()[-1], verbose=False, download_files=str(home / "downloads"))
        pack, told = client.predict(api_name="/packs")
        assert pack["name"] == "mine" and pack["can_sample"] and pack["image_size"] == 32
        assert pack["classes"] == ["circle", "cross", "ring", "square", "triangle"]
        pictures, settings = client.predict("mine", "ring", 2, 7, 3, 2.0, pack["samplers"][0], api_name="/sample")
        assert len(pictures) == 2 and settings["seed"] == 7 and settings["labels"] == ["ring", "ring"]
        for picture in pictures:
            assert Image.open(picture["image"]).size == (32, 32)
        assert told["name"] == "told" and told["words"] and told["classes"] == []
        _, settings = client.predict("told", "a large zebra", 1, 7, 3, api_name="/sample")
        assert settings["labels"] == ["a large zebra"] and "zebra" in settings["notice"]
    finally:
        app.send_signal(signal.SIGTERM)
        assert app.wait(timeout=20) == 0
