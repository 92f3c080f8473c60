"""A Space in one command: what is in its folder, that it runs, and how a lent GPU is used."""

import json
import os
import pickle
import shutil
import subprocess
import sys
import urllib.request
from pathlib import Path

import pytest
from conftest import point_to
from hub_server import Hub
from huggingface_hub import SpaceCard
from running import free_port, one_line

from mmdemo import packs, provenance, space
from mmdemo.__main__ import main
from mmdemo.errors import PackError
from mmdemo.studio import Studio


@pytest.fixture
def folder(tiny_weights, tmp_path) -> Path:
    return space.write("some/look", ["tiny", "some/far@v1"], tiny_weights, tmp_path / "look")


def test_a_space_holds_the_app_its_packs_and_nothing_else(folder, tiny_weights):
    assert sorted(os.listdir(folder)) == ["README.md", "app.py", "mmdemo", "requirements.txt", "space.json", "weights"]
    assert not [*folder.rglob("__pycache__")]
    pack = packs.read(folder / "weights" / "tiny")
    assert pack.can_sample and provenance.is_shipped(pack.path), "nothing was trained there"
    assert packs.repositories([folder / "weights"]) == ["some/far@v1"]
    data = SpaceCard.load(folder / "README.md").data
    assert (data.sdk, data.app_file, data.title, data.models) == ("gradio", "app.py", "look", ["some/far"])


def test_its_requirements_are_those_that_spaces_allow_and_no_tests(folder):
    lines = (folder / "requirements.txt").read_text().splitlines()
    assert "torch>=2.9,<2.12" in lines and not [line for line in lines if line.startswith(("pytest", "playwright"))]
    ours = (space.ROOT / "requirements.txt").read_text()
    assert all(line.split(">=")[0] in ours for line in lines)


def test_a_space_starts_as_it_stands(folder):
    port = free_port()
    surroundings = os.environ | {"GRADIO_SERVER_NAME": "127.0.0.1", "GRADIO_SERVER_PORT": port, "HF_HUB_OFFLINE": "1"}
    app = subprocess.Popen([sys.executable, "app.py"], cwd=folder, env=surroundings, stdout=subprocess.PIPE, text=True)
    try:
        assert port in app.stdout.readline()
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/", timeout=20) as page:
            assert page.status == 200
    finally:
        app.terminate()
        assert app.wait(20) == 0


def test_what_makes_no_space_is_refused_in_one_sentence(tiny_weights, tmp_path, capsys):
    def refused(*arguments) -> str:
        assert main(["space", "--weights", str(tiny_weights), *arguments]) == 1
        return one_line(capsys.readouterr().err)

    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "mine").touch()
    assert "not empty" in refused("some/look", "--pack", "tiny", "--out", str(tmp_path / "full"))
    assert "owner/name" in refused("look", "--pack", "tiny", "--out", str(tmp_path / "a"))
    assert "absent" in refused("some/look", "--pack", "absent", "--out", str(tmp_path / "a"))
    assert "part of the app" in refused("some/look", "--pack", "tiny", "--out", str(space.ROOT / "mmdemo" / "x"))
    assert "a//b" in refused("some/look", "--pack", "a//b", "--out", str(tmp_path / "a"))
    assert not (tmp_path / "a").exists()


def test_a_space_is_pushed(folder, hub_server: Hub):
    assert space.push(folder, "some/look").endswith("/spaces/some/look")
    files = hub_server.repos["some/look"][hub_server.head("some/look")]
    assert {"app.py", "README.md", "weights/hub.txt", "weights/tiny/model_index.json"} <= set(files)


def test_without_a_network_it_is_said_that_nothing_was_uploaded_and_the_same_command_does_it_later(
    hub_server: Hub, tiny_weights, tmp_path, monkeypatch, capsys
):
    weights = shutil.copytree(tiny_weights, tmp_path / "weights")
    out = tmp_path / "look"
    command = ["space", "some/look", "--pack", "tiny", "--push", "--weights", str(weights), "--out", str(out)]
    with monkeypatch.context() as cut:
        point_to(f"http://127.0.0.1:{free_port()}", cut)
        assert main(command) == 1
    assert "some/look was not uploaded" in one_line(capsys.readouterr().err)
    (out / "mmdemo" / "__pycache__").mkdir()  # it was tried meanwhile, and the pack trained further
    (out / "mmdemo" / "__pycache__" / "app.pyc").touch()
    (weights / "tiny" / "README.md").write_text("newer")
    assert main(command) == 0
    files = hub_server.repos["some/look"][hub_server.head("some/look")]
    assert files["weights/tiny/README.md"] == b"newer"
    assert not [file for file in files if "__pycache__" in file or file == "space.json"]
    assert sorted(os.listdir(tmp_path)) == ["look", "weights"]


@pytest.mark.parametrize("name", ["README.md", "mine.txt"])
def test_what_somebody_changed_in_a_space_or_added_to_it_stays(folder, tiny_weights, name):
    (folder / name).write_text("mine")
    with pytest.raises(PackError, match=f"{name} was changed, added or removed"):
        space.write("some/look", ["tiny"], tiny_weights, folder)
    assert (folder / name).read_text() == "mine" and packs.repositories([folder / "weights"]) == ["some/far@v1"]


def test_what_is_to_be_private_is_not_pushed_where_all_can_see_it(folder, hub_server: Hub):
    space.push(folder, "some/look")
    with pytest.raises(PackError, match="is public"):
        space.push(folder, "some/look", private=True)


def test_packs_of_an_earlier_push_leave_the_space(folder, hub_server: Hub):
    space.push(folder, "some/look")
    (folder / "weights" / "tiny").rename(folder / "weights" / "new")
    space.push(folder, "some/look")
    files = hub_server.repos["some/look"][hub_server.head("some/look")]
    assert "weights/new/model_index.json" in files and "weights/tiny/model_index.json" not in files


def test_what_draws_may_go_through_a_process_that_is_lent_a_gpu(tiny_weights):
    """As ZeroGPU lends one: what it is asked is pickled, and it gives back what it yields, pickled, and no more."""
    lent = []

    def lend(work):
        def process(*arguments):
            lent.append(work)
            for one in work(*pickle.loads(pickle.dumps(arguments))):
                yield pickle.loads(pickle.dumps(one))

        return process

    here, there = Studio([tiny_weights], device="cpu"), Studio([tiny_weights], device="cpu", lend=lend)
    asked = {"count": 2, "seed": 1, "steps": 3}
    ours, theirs = (studio.sample("tiny", "all", **asked).result() for studio in (here, there))
    assert lent and [one.tobytes() for one in ours.images] == [one.tobytes() for one in theirs.images]
    assert json.dumps(ours.json() | {"seconds": 0}) == json.dumps(theirs.json() | {"seconds": 0})
