"""Packs on the Hub, by the real client: what travels, what is checked, and what is said when it goes wrong."""

import json
import os
import re
import shutil
import threading
from pathlib import Path

import pytest
import torch
from conftest import point_to, same
from diffusers import DiffusionPipeline
from hub_server import Hub
from running import free_port, is_one_sentence, one_line

from mmdemo import card, hub, loading, packs
from mmdemo.__main__ import main
from mmdemo.errors import PackError
from mmdemo.studio import Studio

REPO = "some/tiny"
VAE = "vae/diffusion_pytorch_model.safetensors"
DIT = "transformer/diffusion_pytorch_model.safetensors"


@pytest.fixture(autouse=True)
def impatient(monkeypatch):
    monkeypatch.setattr(hub, "WAITS", (0.0, 0.0))


@pytest.fixture
def there(hub_server: Hub, tiny_weights: Path) -> Hub:
    """A Hub with the tiny pack."""
    hub_server.fill(REPO, tiny_weights / "tiny")
    return hub_server


def contents(folder: Path) -> dict[str, bytes]:
    return {one.relative_to(folder).as_posix(): one.read_bytes() for one in folder.rglob("*") if one.is_file()}


def refused(work, *arguments, **options) -> str:
    with pytest.raises(PackError) as told:
        work(*arguments, **options)
    assert is_one_sentence(str(told.value))
    return str(told.value)


# ----------------------------------------------------------------------------------------------------- there and back


def test_a_pack_pushed_and_pulled_has_the_same_files_and_draws_the_same_pixels(hub_server, tiny_weights, tmp_path):
    address, commit = hub.push(tiny_weights / "tiny", REPO)
    assert address.endswith(f"/{REPO}/commit/{commit}") and commit == hub_server.head(REPO)
    pulled = hub.pull(REPO, tmp_path / "weights")
    assert pulled == tmp_path / "weights" / "tiny" and os.listdir(tmp_path / "weights") == ["tiny"]
    files = contents(pulled)
    assert json.loads(files.pop("source.json")) == {"repo": REPO, "revision": "main", "commit": commit}
    assert files == contents(tiny_weights / "tiny") and not any(one.is_symlink() for one in pulled.rglob("*"))
    (tmp_path / "plain").mkdir()
    assert pulled.stat().st_mode == (tmp_path / "plain").stat().st_mode, "only its owner may read it"
    here, back = Studio([tiny_weights], device="cpu"), Studio([tmp_path / "weights"], hub=[REPO], device="cpu")
    drawn = here.sample("tiny", "all", 3, seed=1).images
    assert same(back.sample("tiny", "all", 3, seed=1).images, drawn)
    assert same(back.sample(REPO, "all", 3, seed=1).images, drawn)
    assert [pack.json()["source"] for pack in back.packs()] == [f"{REPO}@{commit}"] * 2
    assert here.pack("tiny").json()["source"] == ""


STRAY = ("pytorch_model.bin", "vae/diffusion_pytorch_model.bin", "notes.txt", ".git/config.json", ".env", "source.json")


def test_only_what_a_pack_is_made_of_travels(hub_server, tiny_weights, tmp_path):
    pack = shutil.copytree(tiny_weights / "tiny", tmp_path / "mine")
    whole = {*contents(pack), "README.md", "notes.md", "LICENSE", "examples/metadata.jsonl", "cover.png"}
    for file in (*whole - {*contents(pack)}, *STRAY):
        (pack / file).parent.mkdir(exist_ok=True)
        (pack / file).write_text(json.dumps({"repo": "another/one", "commit": "0", "file": file}))
    hub.push(pack, REPO)
    assert set(hub_server.repos[REPO][hub_server.head(REPO)]) == whole | {".gitattributes"}
    commit = hub_server.fill("some/stray", pack)
    assert set(contents(hub.pull("some/stray", tmp_path / "weights"))) == whole | {"source.json"}
    assert {path for path, _ in hub_server.sent} == whole, "what was not wanted was fetched all the same"
    assert packs.read(tmp_path / "weights" / "stray").source == f"some/stray@{commit}", "the repository was believed"


def test_a_push_removes_the_parts_that_the_pack_no_longer_has(hub_server, tiny_weights):
    hub.push(tiny_weights / "tiny", REPO)
    hub_server.repos[REPO][hub_server.head(REPO)]["theirs.json"] = b"{}"
    hub.push(tiny_weights / "tiny-codec", REPO)
    files = hub_server.repos[REPO][hub_server.head(REPO)]
    assert set(files) == {*contents(tiny_weights / "tiny-codec"), ".gitattributes", "theirs.json"}
    assert len(hub_server.repos[REPO]) == 3, "one commit a push, and the first"


def test_what_is_private_stays_so(hub_server, tiny_weights):
    hub.push(tiny_weights / "tiny", REPO, private=True)
    assert hub_server.private == {REPO}
    hub.push(tiny_weights / "tiny", "some/public")
    before = hub_server.head("some/public")
    assert "is public" in refused(hub.push, tiny_weights / "tiny-v", "some/public", private=True)
    assert hub_server.head("some/public") == before


@pytest.mark.parametrize("revision", ["v1", "pr/1"])
def test_a_tag_or_a_branch_becomes_the_commit_it_stands_for(there, tiny_weights, tmp_path, revision):
    first = there.head(REPO)
    there.refs[REPO, revision] = first
    there.fill(REPO, tiny_weights / "tiny-codec")
    pulled = hub.pull(f"{REPO}@{revision}", tmp_path / "weights", "old")
    assert json.loads((pulled / "source.json").read_text()) == {"repo": REPO, "revision": revision, "commit": first}
    assert packs.read(pulled).can_sample and packs.read(pulled).source == f"{REPO}@{first}"
    assert hub.fetch(f"{REPO}@{first}")[1] == first and hub.fetch(REPO)[1] == there.head(REPO) != first


def test_progress_is_told_in_bytes_from_none_to_all(there, tmp_path):
    told = []
    hub.fetch(REPO, lambda come, size: told.append((come, size)))
    files = there.repos[REPO][there.head(REPO)]
    size = sum(len(content) for path, content in files.items() if path != "model_index.json")
    assert told == sorted(told) and told[-1] == (size, size) and {of for _, of in told} == {size} and len(told) > 3
    told.clear()
    hub.fetch(REPO, lambda come, size: told.append((come, size)))
    assert told == []


# ------------------------------------------------------------------------------------------- what stands in its place


def test_a_pack_is_replaced_only_by_one_from_the_same_repository(there, tiny_weights, tmp_path):
    mine = shutil.copytree(tiny_weights / "tiny-v", tmp_path / "weights" / "mine")
    assert "not from some/tiny" in refused(hub.pull, REPO, mine.parent, "mine") and there.asked == []
    assert contents(mine) == contents(tiny_weights / "tiny-v")
    hub.pull(REPO, mine.parent, "pulled")
    newest = there.fill(REPO, tiny_weights / "tiny-codec")
    hub.pull(REPO, mine.parent, "pulled")
    assert packs.read(mine.parent / "pulled").source == f"{REPO}@{newest}"
    assert contents(mine.parent / "pulled").keys() - {"source.json"} == contents(tiny_weights / "tiny-codec").keys()
    assert sorted(os.listdir(mine.parent)) == ["mine", "pulled"]


def test_a_damaged_pack_is_neither_pulled_nor_pushed(hub_server, tiny_weights, tmp_path):
    hub_server.fill(REPO, tiny_weights / "broken")
    for work in (lambda: hub.pull(REPO, tmp_path / "weights"), lambda: hub.push(tiny_weights / "broken", "some/new")):
        assert VAE in refused(work)
    assert not (tmp_path / "weights").exists() and "some/new" not in hub_server.repos


@pytest.mark.parametrize("name", ["../up", ".hidden", "a/b"])
def test_a_pack_gets_a_plain_name(there, tmp_path, name):
    assert "plain folder name" in refused(hub.pull, REPO, tmp_path / "weights", name)
    assert there.asked == [] and os.listdir(tmp_path) == []


def test_two_pulls_at_once_both_end_well(there, tiny_weights, tmp_path):
    for _ in range(2):  # where there was none, and where there is one
        ready, ended = threading.Barrier(4), []

        def pull(ready=ready, ended=ended) -> None:
            ready.wait()
            ended.append(hub.pull(REPO, tmp_path / "weights"))

        pulls = [threading.Thread(target=pull) for _ in range(4)]
        for one in pulls:
            one.start()
        for one in pulls:
            one.join()
        assert ended == [tmp_path / "weights" / "tiny"] * 4 and os.listdir(tmp_path / "weights") == ["tiny"]
        files = contents(tmp_path / "weights" / "tiny")
        assert files.pop("source.json") and files == contents(tiny_weights / "tiny")
    assert len(there.sent) == len(files), "what one had fetched another fetched again"


# -------------------------------------------------------------------------------------------------- what goes wrong


def test_a_cut_connection_goes_on_where_it_was_cut(there, monkeypatch):
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "DOWNLOAD_CHUNK_SIZE", 1024)  # what has come is kept by chunks
    there.cut[VAE] = 5000
    folder, _ = hub.fetch(REPO)
    assert contents(folder)[VAE] == there.repos[REPO][there.head(REPO)][VAE]
    assert [start for path, start in there.sent if path == VAE] == [0, 4096]


def test_what_has_come_is_not_asked_for_again(there):
    there.failing += [(f"GET .*/{DIT}", 500)] * 3
    assert "answered 500" in refused(hub.fetch, REPO)
    assert there.failing == []
    folder, _ = hub.fetch(REPO)
    sent = [path for path, _ in there.sent]
    assert sorted(sent) == sorted(contents(folder)), "a file was sent twice, or never"


@pytest.mark.parametrize("what", ["GET .*/revision/", f"GET .*/{VAE}"])
def test_a_hub_that_is_busy_twice_is_asked_again(there, what):
    there.failing += [(what, 503)] * 2
    hub.fetch(REPO)
    assert there.failing == []


def test_a_hub_that_is_down_hides_nothing_that_was_fetched_before(there, tiny_weights):
    first = hub.fetch(REPO)
    there.fill(REPO, tiny_weights / "tiny-codec")
    there.failing += [("", 503)] * 9
    assert hub.fetch(REPO) == first
    assert "answered 503" in refused(hub.fetch, "some/other")


@pytest.mark.parametrize(("status", "code"), [(403, "GatedRepo"), (401, "GatedRepo"), (403, ""), (401, "")])
def test_a_repository_one_may_not_read_says_how_to_get_in(there, tmp_path, status, code):
    there.closed[REPO] = status, code
    said = refused(hub.pull, REPO, tmp_path / "weights")
    assert "`hf auth login`" in said and REPO in said and ("ask for access" in said) == bool(code)
    assert not (tmp_path / "weights").exists()
    there.closed.clear()
    hub.fetch(REPO)


def test_a_missing_repository_a_missing_revision_and_no_repository_at_all(there, tmp_path):
    assert re.search("there is no some/nothing on the Hub.*check the name", refused(hub.fetch, "some/nothing"))
    assert re.search("some/tiny has no revision 'v9'", refused(hub.fetch, f"{REPO}@v9"))
    asked = len(there.asked)
    for name in ("tiny", "", "a/b/c", "a/b@", "@v1", "a b/c", "../b", "a/..", "a/b@../../c", "https://some/tiny"):
        assert "must be owner/name" in refused(hub.fetch, name)
        assert "must be owner/name" in refused(hub.pull, name, tmp_path)
    assert len(there.asked) == asked


def test_without_a_network_what_was_fetched_before_opens(there, tiny_weights, tmp_path, monkeypatch):
    there.refs[REPO, "v1"] = there.head(REPO)
    for repo in (REPO, f"{REPO}@v1"):
        hub.fetch(repo)
    there.fill("some/other", tiny_weights / "tiny")
    point_to(f"http://127.0.0.1:{free_port()}", monkeypatch)
    for repo in (REPO, f"{REPO}@v1", f"{REPO}@{there.head(REPO)}"):
        assert hub.fetch(repo)[1] == there.head(REPO)
    assert Studio([], hub=[REPO], device="cpu").sample(REPO, "circle", steps=1).images
    assert packs.read(hub.pull(REPO, tmp_path / "weights")).source == f"{REPO}@{there.head(REPO)}"
    assert re.search("cannot be reached, and some/other is not in its cache", refused(hub.fetch, "some/other"))
    assert "cannot be reached, so some/tiny was not uploaded" in refused(hub.push, tiny_weights / "tiny", REPO)


@pytest.mark.parametrize("file", [VAE, "vae/config.json"])
def test_a_file_that_comes_damaged_is_named_and_fetched_anew(there, file):
    there.bent.add(file)
    assert file in refused(hub.fetch, REPO)
    there.bent.clear()
    there.sent.clear()
    folder, _ = hub.fetch(REPO)
    assert [path for path, _ in there.sent] == [file]
    assert contents(folder)[file] == there.repos[REPO][there.head(REPO)][file]


def test_a_file_that_was_damaged_in_the_cache_is_named_and_fetched_anew(there):
    folder, _ = hub.fetch(REPO)
    content = bytearray((folder / VAE).read_bytes())
    content[-1] ^= 1
    (folder / VAE).write_bytes(content)  # through the link
    assert VAE in refused(hub.fetch, REPO)
    assert contents(hub.fetch(REPO)[0])[VAE] == there.repos[REPO][there.head(REPO)][VAE]


@pytest.mark.parametrize("where", ["PUT /large/", "POST .*/commit/", "POST .*/preupload/"])
def test_an_upload_that_fails_halfway_leaves_the_last_commit(hub_server, tiny_weights, where):
    hub.push(tiny_weights / "tiny", REPO)
    before = hub_server.head(REPO)
    hub_server.failing.append((where, 403))
    assert "`hf auth login`" in refused(hub.push, tiny_weights / "tiny-v", REPO)
    assert hub_server.head(REPO) == before and hub_server.failing == []
    hub.push(tiny_weights / "tiny-v", REPO)
    files = hub_server.repos[REPO][hub_server.head(REPO)]
    assert files.pop(".gitattributes") and files == contents(tiny_weights / "tiny-v")


# ----------------------------------------------------------------------------------------------------- by the command


def test_the_commands_say_where_it_is_and_how_to_use_it(hub_server, tiny_weights, tmp_path, capfd):
    assert main(["push", "tiny", REPO, "--weights", str(tiny_weights)]) == 0
    commit, told = hub_server.head(REPO), capfd.readouterr()
    assert told.err == "" and f"/{REPO}/commit/{commit}\n" in told.out
    lines = told.out.splitlines()
    assert (
        any(f"python -m mmdemo pull {REPO}@{commit}" in line for line in lines) and f"app.py --hub {REPO}" in lines[-1]
    )
    assert main(["pull", f"{REPO}@{commit}", "--name", "mine", "--weights", str(tmp_path / "weights")]) == 0
    told = capfd.readouterr()
    assert told.err == "" and told.out.count("\n") == 1 and f"from {REPO}@{commit}" in told.out
    assert main(["packs", "--json", "--weights", str(tmp_path / "weights")]) == 0
    assert json.loads(capfd.readouterr().out)[0]["source"] == f"{REPO}@{commit}"


@pytest.mark.parametrize(
    "command",
    [["pull", "some/nothing"], ["pull", "nothing"], ["push", "tiny", "nothing"], ["push", "nosuch", REPO],
     ["push", "tiny", f"{REPO}@v1"], ["push", "broken", REPO]],
    ids=" ".join,
)  # fmt: skip
def test_a_command_that_cannot_be_done_says_why_in_one_line(hub_server, tiny_weights, tmp_path, capfd, command):
    weights = shutil.copytree(tiny_weights, tmp_path / "weights")
    assert main([*command, "--weights", str(weights)]) == 1
    told = capfd.readouterr()
    assert one_line(told.err) and told.out == "" and hub_server.repos == {}


# ---------------------------------------------------------------------------------------------------------- by python


@pytest.mark.parametrize("name", ["tiny", "words"])
def test_the_lines_on_a_card_open_what_was_pulled_and_diffusers_alone_does_not(
    hub_server, reading_weights, tmp_path, monkeypatch, name
):
    pack = shutil.copytree(reading_weights / name, tmp_path / name)
    training = {"dataset": "shapes", "steps": 1, "batch_size": 1, "minutes": 0.0, "machine": "this one"}
    (pack / "training.json").write_text(json.dumps({"vqvae": training, "dit": training}))
    measured = ("psnr", "psnr_pooled", "ssim", "detail", "bits_per_pixel", "codes_used", "perplexity")
    card.write(pack, dict.fromkeys(measured, 1.0) | {"codes": 16, "test_images": 1, "minutes": 0.0})
    hub.push(pack, f"owner/{name}")
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    (lines,) = re.findall("```python\n(.*?)```", (pack / "README.md").read_text(encoding="utf-8"), re.DOTALL)
    (command,) = re.findall("python -m mmdemo (pull) owner/name", lines)
    assert main([command, f"owner/{name}"]) == 0
    here, label = {}, "a red circle" if name == "words" else 1
    exec(lines, here)
    drawn = [
        one([label], [torch.Generator().manual_seed(3)]).images
        for one in (here["pipeline"], loading.load(packs.read(pack), "cpu"))
    ]
    assert same(*drawn)
    with pytest.raises(AttributeError, match="ClassPipeline"):
        DiffusionPipeline.from_pretrained(pack, use_safetensors=True)
