"""Packs on disk: what is damaged is told with the reason, what is whole works, and nothing is ever half-written."""

import hashlib
import json
import shlex
import shutil
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from conftest import flow_schedule, same, save_colour_pack, tiny_dit, tiny_fsq, tiny_vae
from huggingface_hub.utils import filter_repo_objects
from PIL import Image
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from mmdemo import codec, data, loading, packs, provenance, samplers
from mmdemo.__main__ import parser
from mmdemo.arguments import Recipe
from mmdemo.errors import PackError
from mmdemo.studio import Studio
from mmdemo.training import export

VAE = "vae/diffusion_pytorch_model.safetensors"
DIT = "transformer/diffusion_pytorch_model.safetensors"


def edit_json(file: Path, **changes) -> None:
    content = json.loads(file.read_text())
    for name, value in changes.items():
        content.pop(name) if value is None else content.update({name: value})
    file.write_text(json.dumps(content))


def edit_weights(file: Path, change) -> None:
    weights = load_file(file)
    change(weights)
    save_file(weights, file, {"format": "pt"})


def cut(file: Path, kept: int) -> None:
    file.write_bytes(file.read_bytes()[:kept])


def file_instead(pack: Path) -> None:
    shutil.rmtree(pack / "codebook")
    (pack / "codebook").write_text("nothing")


def pickle_instead(pack: Path) -> None:
    torch.save(load_file(pack / VAE), pack / "vae" / "diffusion_pytorch_model.bin")
    (pack / VAE).unlink()


def spoil(key: str, number: float):
    def change(weights):
        weights[key].view(-1)[-1] = number

    return change


def spoiled_distances(pack: Path) -> list:
    distances = json.loads((pack / "codebook" / "codebook.json").read_text())["distances"]
    return [[float("nan"), *distances[0][1:]], *distances[1:]]


# What is broken -> how, and a word that the reason must hold.
DAMAGES = {
    "source is no repository": (
        lambda pack: (pack / "source.json").write_text('{"repo": "a@b/c", "commit": "d"}'),
        "source.json",
    ),
    "a distance that is no number": (
        lambda pack: edit_json(pack / "codebook" / "codebook.json", distances=spoiled_distances(pack)),
        "distances",
    ),
    "weights cut short": (lambda pack: cut(pack / VAE, -100), "vae"),
    "weights cut in the header": (lambda pack: cut(pack / VAE, 50), "vae"),
    "weights empty": (lambda pack: cut(pack / VAE, 0), "vae"),
    "weights too long": (lambda pack: (pack / VAE).write_bytes((pack / VAE).read_bytes() + b"x"), "vae"),
    "weights garbage": (lambda pack: (pack / VAE).write_bytes(b"garbage " * 1000), "vae"),
    "weights missing": (lambda pack: (pack / VAE).unlink(), "vae"),
    "codec missing": (lambda pack: shutil.rmtree(pack / "vae"), "vae"),
    "transformer cut short": (lambda pack: cut(pack / DIT, -1), "transformer"),
    "transformer missing": (lambda pack: shutil.rmtree(pack / "transformer"), "transformer"),
    "transformer config missing": (lambda pack: (pack / "transformer/config.json").unlink(), "transformer"),
    "schedule missing": (lambda pack: shutil.rmtree(pack / "scheduler"), "scheduler"),
    "index missing": (lambda pack: (pack / "model_index.json").unlink(), "model_index.json"),
    "index no JSON": (lambda pack: (pack / "model_index.json").write_text('{"vae": '), "model_index.json"),
    "index a list": (lambda pack: (pack / "model_index.json").write_text("[1, 2]"), "model_index.json"),
    "index no text": (lambda pack: (pack / "model_index.json").write_bytes(b"\xff\xfe\x00"), "model_index.json"),
    "codec config no JSON": (lambda pack: (pack / "vae/config.json").write_text("not JSON"), "vae"),
    "codec config without codes": (lambda pack: edit_json(pack / "vae/config.json", num_codes=None), ""),
    "codec of another kind": (lambda pack: edit_json(pack / "vae/config.json", _class_name="AutoencoderTiny"), "vae"),
    "transformer of another kind": (
        lambda pack: edit_json(pack / "transformer/config.json", _class_name="UNet2DModel"),
        "transformer",
    ),
    "schedule without a kind": (
        lambda pack: edit_json(pack / "scheduler/scheduler_config.json", _class_name=None),
        "",
    ),
    "labels malformed": (lambda pack: edit_json(pack / "model_index.json", id2label={"one": "circle"}), ""),
    "labels no table": (lambda pack: edit_json(pack / "model_index.json", id2label="circle"), ""),
    "more labels than the transformer knows": (
        lambda pack: edit_json(pack / "model_index.json", id2label={str(i): f"label {i}" for i in range(9)}),
        "",
    ),
    "unknown default sampler": (lambda pack: edit_json(pack / "model_index.json", sampler="plms"), "plms"),
    "default steps no number": (lambda pack: edit_json(pack / "model_index.json", num_inference_steps="few"), ""),
    "default guidance no number": (lambda pack: edit_json(pack / "model_index.json", guidance_scale="much"), ""),
    "picture size no multiple of the stride": (lambda pack: edit_json(pack / "model_index.json", image_size=15), "15"),
    "codes of another size": (lambda pack: edit_json(pack / "vae/config.json", latent_channels=5), ""),
    "fewer codes than said": (lambda pack: edit_json(pack / "vae/config.json", num_codes=32), ""),
    "transformer for other latents": (
        lambda pack: tiny_dit(in_channels=4).half().save_pretrained(pack / "transformer"),
        "",
    ),
    "codec holds NaN": (lambda pack: edit_weights(pack / VAE, spoil("codebook", float("nan"))), "codebook"),
    "transformer holds infinity": (
        lambda pack: edit_weights(pack / DIT, spoil("positions", float("inf"))),
        "positions",
    ),
    "codec lacks a weight": (lambda pack: edit_weights(pack / VAE, lambda w: w.pop("codebook")), "codebook"),
    "transformer lacks a weight": (lambda pack: edit_weights(pack / DIT, lambda w: w.pop("positions")), "positions"),
    "codec has a weight too many": (
        lambda pack: edit_weights(pack / VAE, lambda w: w.update(stray=torch.ones(2))),
        "stray",
    ),
    "pickle only": (pickle_instead, "safetensors"),
    "codebook is a file": (file_instead, "codebook.json"),
    "distances are words": (
        lambda pack: edit_json(pack / "codebook/codebook.json", distances=[["far"] * 8] * 16),
        "distances",
    ),
}


def reason(path: Path) -> str:
    """Why a pack cannot be used, whether its list entry tells or loading does."""
    described = packs.read(path)
    if described.problem:
        return described.problem
    with pytest.raises(PackError) as error:
        loading.load(described, "cpu")
    assert path.name in str(error.value)
    return str(error.value)


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_pack_is_refused_with_the_reason(tiny_weights, tmp_path, damage):
    shutil.copytree(tiny_weights / "tiny", tmp_path / "hurt")
    inflict, word = DAMAGES[damage]
    inflict(tmp_path / "hurt")
    told = reason(tmp_path / "hurt")
    assert word in told and "\n" not in told and 10 < len(told) < 600


def test_damaged_packs_are_listed_and_the_others_work(tiny_weights, tmp_path):
    shutil.copytree(tiny_weights / "tiny", tmp_path / "whole")
    for i, damage in enumerate(DAMAGES):
        shutil.copytree(tiny_weights / "tiny", tmp_path / f"hurt-{i}")
        DAMAGES[damage][0](tmp_path / f"hurt-{i}")
    (tmp_path / "empty").mkdir()
    listed = {pack.name: pack for pack in packs.find([tmp_path])}
    assert len(listed) == len(DAMAGES) + 2
    assert listed["empty"].problem and listed["whole"].problem is None
    assert loading.load(listed["whole"], "cpu")([0], num_inference_steps=1).images[0].size == (16, 16)


def test_files_and_hidden_folders_are_no_packs(tiny_weights, tmp_path):
    (tmp_path / "readme.txt").write_text("hello")
    shutil.copytree(tiny_weights / "tiny", tmp_path / ".tiny.new")
    assert packs.find([tmp_path, tmp_path / "nowhere"]) == []


def test_a_pack_that_came_with_the_app_is_told_from_one_trained_here(tiny_weights, tmp_path):
    weights = Path(__file__).parent.parent / "weights"
    shipped = {pack.name for pack in packs.find([weights]) if provenance.is_shipped(pack.path)}
    stale = "one was trained anew since: where that one is to be shipped, call provenance.ship"
    assert shipped == set(json.loads((weights / provenance.SHIPPED).read_text())) and len(shipped) == 5, stale
    for name in ("theirs", "mine"):
        shutil.copytree(tiny_weights / "tiny-codec", tmp_path / name)
    provenance.ship(tmp_path, ["theirs"])
    provenance.ship(tmp_path, ["theirs"])
    assert [provenance.is_shipped(tmp_path / name) for name in ("theirs", "mine")] == [True, False]
    export.save_transformer(tmp_path / "theirs", tiny_dit(), flow_schedule(), {"minutes": 0.0})
    assert not provenance.is_shipped(tmp_path / "theirs")
    assert not any(provenance.is_shipped(pack.path) for pack in packs.find([tiny_weights])), (
        "a folder that ships nothing"
    )


def test_a_pack_is_another_with_another_schedule_or_weights_but_not_with_another_card(tiny_weights, tmp_path):
    pack = shutil.copytree(tiny_weights / "tiny", tmp_path / "tiny")
    seen = [provenance.digest(pack)]
    for name in ("metrics.json", "README.md"):
        (pack / name).write_text("{}")
    assert provenance.digest(pack) == seen[0]
    for name in (
        "scheduler/scheduler_config.json",
        "vae/config.json",
        "transformer/diffusion_pytorch_model.safetensors",
    ):
        (pack / name).write_bytes((pack / name).read_bytes() + b" ")
        seen.append(provenance.digest(pack))
    assert len(set(seen)) == 4


def test_every_command_on_a_shipped_packs_card_is_one():
    commands = [
        line
        for file in (Path(__file__).parent.parent / "weights").glob("*/README.md")
        for line in file.read_text(encoding="utf-8").splitlines()
        if line.startswith("python -m mmdemo train ")
    ]
    assert len(commands) > 10
    for line in commands:
        parser().parse_args(shlex.split(line)[3:])  # or it ends the program


def test_of_two_packs_of_one_name_the_first_folders_is_found(tiny_weights, tmp_path):
    shutil.copytree(tiny_weights / "tiny-codec", tmp_path / "tiny")
    (found,) = (pack for pack in packs.find([tmp_path, tiny_weights]) if pack.name == "tiny")
    assert found.path == tmp_path / "tiny" and not found.can_sample


def test_what_is_fetched_of_a_pack_is_all_that_is_read_of_it(tmp_path):
    whole = tmp_path / "whole" / "pack"
    save_colour_pack(whole, 16, ("circle", "plane"))
    export.save_transformer(whole, tiny_dit(num_classes=2), flow_schedule(), {})
    (whole / "examples").mkdir()
    for file in ("examples/a.png", "cover.png"):
        Image.new("RGB", (16, 16), (len(file), 0, 99)).save(whole / file)
    (whole / "examples" / "metadata.jsonl").write_text('{"file_name": "a.png", "text": "a red circle"}')
    files = [str(file.relative_to(whole)) for file in whole.rglob("*") if file.is_file()]
    fetched = list(filter_repo_objects(files, allow_patterns=packs.wanted(packs.read_json(whole / "model_index.json"))))
    assert "codebook/patches.jpg" in fetched
    for file in fetched:
        (tmp_path / "fetched" / "pack" / file).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy2(whole / file, tmp_path / "fetched" / "pack" / file)
    here, there = (Studio([tmp_path / name], device="cpu") for name in ("whole", "fetched"))
    for ask in (
        lambda studio: [*studio.examples("pack"), studio.cover("pack")],
        lambda studio: [studio.codebook("pack").sheet, *(studio.code("pack", k).card for k in range(16))],
        lambda studio: studio.sample("pack", "all", 2, 3).images,
        lambda studio: [studio.reconstruct("pack", whole / "examples" / "a.png").token_map],
    ):
        assert same(ask(there), ask(here))
    assert [pack.json() for pack in there.packs()] == [pack.json() for pack in here.packs()]
    assert there.captions("pack") == here.captions("pack") == [("a red circle",)]
    assert there.code_map("pack") == here.code_map("pack")
    assert provenance.read_training(tmp_path / "fetched" / "pack") == provenance.read_training(whole)


def test_of_a_long_list_each_is_read_once_and_again_when_a_file_of_it_has_changed(tiny_weights, tmp_path, monkeypatch):
    for i in range(40):
        shutil.copytree(tiny_weights / "tiny-codec", tmp_path / f"{i}")
    packs.find([tmp_path])
    opened = []
    monkeypatch.setattr(packs, "read_json", lambda path, read=packs.read_json: opened.append(path.name) or read(path))
    assert len(packs.find([tmp_path])) == 40 and not opened
    edit_json(tmp_path / "7" / "model_index.json", image_size=15)
    problems = {pack.name: pack.problem for pack in packs.find([tmp_path])}
    assert "image_size is 15" in problems.pop("7") and set(problems.values()) == {None}
    assert opened.count("model_index.json") == 1 and "codebook.json" not in opened


def test_a_pack_is_described_without_loading_it(tiny_weights):
    pack = packs.read(tiny_weights / "tiny")
    assert pack.problem is None and pack.can_sample
    assert pack.classes == ("circle", "square", "triangle")
    assert (pack.codes, pack.dim, pack.stride, pack.image_size, pack.channels) == (16, 3, 4, 16, 1)
    assert pack.defaults == Recipe(steps=6, guidance=2.0, sampler="euler")
    assert pack.samplers[0] == "euler" and packs.read(tiny_weights / "tiny-v").samplers[0] == "ddim"


def test_labels_keep_their_order_beyond_ten(tiny_weights, tmp_path):
    shutil.copytree(tiny_weights / "tiny-codec", tmp_path / "many")
    names = {str(i): f"label {i}" for i in range(12)}
    edit_json(tmp_path / "many" / "model_index.json", id2label=dict(sorted(names.items(), reverse=True)))
    assert packs.read(tmp_path / "many").classes == tuple(names.values())


def test_a_codec_alone_is_a_valid_pack(tiny_weights):
    pack = packs.read(tiny_weights / "tiny-codec")
    assert pack.problem is None and not pack.can_sample and pack.samplers == ()
    pipeline = loading.load(pack, "cpu")
    assert pipeline.transformer is None
    assert codec.encode_ids(pipeline.vae, torch.zeros(1, 1, 16, 16)).shape == (1, 4, 4)


def test_weights_are_half_precision_on_disk_and_float32_in_memory(tiny_weights):
    for file in (tiny_weights / "tiny" / VAE, tiny_weights / "tiny" / DIT):
        with safe_open(file, "pt") as opened:
            assert {opened.get_slice(key).get_dtype() for key in opened.keys()} == {"F16"}
    pipeline = loading.load(packs.read(tiny_weights / "tiny"), "cpu")
    for model in (pipeline.vae, pipeline.transformer):
        assert {weight.dtype for weight in model.state_dict().values()} == {torch.float32}
        assert not model.training and not any(weight.requires_grad for weight in model.parameters())


def test_loading_changes_nothing_for_whoever_makes_a_model_meanwhile(tiny_weights, monkeypatch):
    """What diffusers does by default puts every model of every thread on the meta device while it loads one."""
    devices, others = set(), ThreadPoolExecutor(1)

    def observed(module, *arguments, make=torch.nn.Conv2d.__init__, **options):
        make(module, *arguments, **options)
        devices.add(others.submit(torch.nn.Linear, 1, 1).result().weight.device.type)

    monkeypatch.setattr(torch.nn.Conv2d, "__init__", observed)
    loading.load(packs.read(tiny_weights / "tiny"), "cpu")
    assert devices == {"cpu"}


def test_saving_does_not_change_the_model_in_memory(tiny_weights, tmp_path):
    shutil.copytree(tiny_weights / "tiny-codec", tmp_path / "grown")
    transformer = tiny_dit()
    before = {name: weight.clone() for name, weight in transformer.state_dict().items()}
    export.save_transformer(tmp_path / "grown", transformer, flow_schedule(), {})
    for name, weight in transformer.state_dict().items():
        assert weight.dtype == torch.float32 and torch.equal(weight, before[name])


def test_every_file_is_under_ten_megabytes_however_large_the_model(tiny_weights, tmp_path):
    shutil.copytree(tiny_weights / "tiny-codec", tmp_path / "large")
    torch.manual_seed(0)
    transformer = tiny_dit(hidden_size=512, depth=4, num_heads=4)
    export.save_transformer(tmp_path / "large", transformer, flow_schedule(), {})
    sizes = [file.stat().st_size for file in (tmp_path / "large").rglob("*") if file.is_file()]
    assert sum(sizes) > 20_000_000, "the model is too small for this test to tell"
    assert max(sizes) < 10_000_000
    pack = packs.read(tmp_path / "large")
    assert pack.problem is None
    loaded = loading.load(pack, "cpu").transformer
    assert torch.equal(loaded.positions, transformer.positions.half().float())
    next((tmp_path / "large" / "transformer").glob("*-00002-of-*")).unlink()
    assert "00002" in packs.read(tmp_path / "large").problem


def tree(folder: Path) -> dict[str, str]:
    files = sorted(file for file in folder.rglob("*") if file.is_file())
    return {str(file.relative_to(folder)): hashlib.sha256(file.read_bytes()).hexdigest() for file in files}


def some_statistics(vae):
    return codec.statistics(vae, data.load("shapes", "test", image_size=16, channels=1).pixels[:20])


TRAINING = {"dataset": "shapes", "image_size": 16, "minutes": 0.0}


def test_a_write_that_fails_leaves_the_old_pack_whole(tiny_weights, tmp_path):
    shutil.copytree(tiny_weights / "tiny", tmp_path / "kept")
    (tmp_path / "kept" / "examples").mkdir()
    (tmp_path / "kept" / "examples" / "a.png").write_bytes(b"a person's own")
    before = tree(tmp_path / "kept")
    vae = tiny_vae()
    unusable = replace(some_statistics(vae), patches=None)  # found out only after the models are on disk
    with pytest.raises(AttributeError):
        export.save_codec(tmp_path / "kept", vae, unusable, ("a",), TRAINING)
    with pytest.raises(TypeError):
        export.save_transformer(tmp_path / "kept", tiny_dit(), flow_schedule(), {"not JSON": object()})
    assert tree(tmp_path / "kept") == before
    assert [pack.name for pack in packs.find([tmp_path])] == ["kept"], "something half-written is listed"
    assert packs.read(tmp_path / "kept").problem is None


def test_after_a_failed_write_the_next_one_works_and_leaves_nothing_behind(tiny_weights, tmp_path):
    vae = tiny_vae()
    for statistics in (replace(some_statistics(vae), patches=None), some_statistics(vae)):
        try:
            export.save_codec(tmp_path / "new", vae, statistics, ("a",), TRAINING)
        except AttributeError:
            assert packs.find([tmp_path]) == []
    assert [path.name for path in tmp_path.iterdir()] == ["new"]
    assert packs.read(tmp_path / "new").problem is None


def test_a_pack_is_not_lost_when_a_write_was_killed_between_its_two_renamings(tiny_weights, tmp_path):
    shutil.copytree(tiny_weights / "tiny", tmp_path / ".kept.old")  # the old one moved away, the new one not yet there
    before, vae = tree(tmp_path / ".kept.old"), tiny_vae()
    unusable = replace(some_statistics(vae), patches=None)
    with pytest.raises(AttributeError):
        export.save_codec(tmp_path / "kept", vae, unusable, ("a",), TRAINING)
    assert tree(tmp_path / "kept") == before


def test_what_a_person_added_survives_a_new_training(tiny_weights, tmp_path):
    shutil.copytree(tiny_weights / "tiny-codec", tmp_path / "mine")
    (tmp_path / "mine" / "examples").mkdir()
    added = {"examples/a.png": "picture", "notes.md": "what the model card ends with"}
    for name, content in added.items():
        (tmp_path / "mine" / name).write_text(content)
    export.save_transformer(tmp_path / "mine", tiny_dit(), flow_schedule(), {})
    vae = tiny_vae()
    for _ in range(2):
        for name, content in added.items():
            assert (tmp_path / "mine" / name).read_text() == content, name
        export.save_codec(tmp_path / "mine", vae, some_statistics(vae), ("a",), TRAINING)


def test_adding_a_transformer_keeps_the_codec_as_it_is(tiny_weights):
    before, after = (tree(tiny_weights / name) for name in ("tiny-codec", "tiny"))
    shared = [name for name in before if name.startswith(("vae/", "codebook/"))]
    assert len(shared) >= 5 and all(after[name] == before[name] for name in shared)
    assert packs.read(tiny_weights / "tiny").classes == packs.read(tiny_weights / "tiny-codec").classes


def test_no_file_of_a_pack_names_a_folder_of_the_machine_it_was_made_on(tiny_weights):
    for file in (tiny_weights / "tiny").rglob("*"):
        assert not file.is_file() or str(tiny_weights).encode() not in file.read_bytes(), file.name


def test_a_new_codec_drops_the_transformer_that_fitted_the_old_one(tiny_weights, tmp_path):
    shutil.copytree(tiny_weights / "tiny", tmp_path / "again")
    vae = tiny_vae(num_codes=8)
    export.save_codec(tmp_path / "again", vae, some_statistics(vae), ("a", "b"), TRAINING)
    pack = packs.read(tmp_path / "again")
    assert pack.problem is None and pack.codes == 8 and not pack.can_sample and pack.classes == ("a", "b")


def test_the_training_of_both_models_is_kept(tiny_weights, tmp_path):
    shutil.copytree(tiny_weights / "tiny-codec", tmp_path / "told")
    export.save_transformer(tmp_path / "told", tiny_dit(), flow_schedule(), {"steps": 7})
    told = provenance.read_training(tmp_path / "told")
    assert told["vqvae"] == TRAINING and told["dit"] == {"steps": 7}


def test_defaults_are_written_and_read(tiny_weights, tmp_path):
    shutil.copytree(tiny_weights / "tiny", tmp_path / "set")
    export.set_defaults(tmp_path / "set", sampler="heun", num_inference_steps=9, guidance_scale=0.0)
    pack = packs.read(tmp_path / "set")
    assert pack.samplers[0] == "heun" and sorted(pack.samplers) == sorted(samplers.FLOW)
    assert (pack.defaults.steps, pack.defaults.guidance, pack.defaults.sampler) == (9, 0.0, "heun")
    assert len(list(loading.load(pack, "cpu").steps([0]))) == 2 * 9 - 1  # Heun asks the model twice but at the end


def test_the_stored_codebook_is_the_codecs(tiny_weights):
    pack = packs.read(tiny_weights / "tiny")
    stored, codes = packs.read_codebook(pack), codec.codebook(loading.load(pack, "cpu").vae)
    assert sorted(stored["order"]) == list(range(16)) and sum(stored["counts"]) == 300 * 16
    distances = torch.cdist(codes, codes)
    for k in range(16):
        shown = distances[k, stored["nearest"][k]]
        others = [j for j in range(16) if j not in (k, *stored["nearest"][k])]
        assert k not in stored["nearest"][k] and len(set(stored["nearest"][k])) == 8
        assert torch.allclose(shown, torch.tensor(stored["distances"][k]), atol=1e-2)
        assert shown.max() <= distances[k, others].min() + 1e-2 and (shown.diff() > -1e-2).all()


def test_a_fingerprint_tells_one_codec_from_another(tiny_weights, tmp_path):
    assert provenance.fingerprint(tiny_weights / "tiny") == provenance.fingerprint(tiny_weights / "tiny-codec")
    shutil.copytree(tiny_weights / "tiny", tmp_path / "other")
    edit_weights(tmp_path / "other" / VAE, spoil("codebook", 0.5))
    assert provenance.fingerprint(tmp_path / "other") != provenance.fingerprint(tiny_weights / "tiny")


def test_a_grids_codes_that_are_not_on_the_grid_are_refused(tmp_path):
    pixels = data.load("shapes", "train", image_size=16, channels=1).pixels[:50]
    vae = tiny_fsq((4, 3, 2))
    export.save_codec(tmp_path / "grid", vae, codec.statistics(vae, pixels), (), {"dataset": "shapes"})
    assert loading.load(packs.read(tmp_path / "grid"), "cpu").vae.config.quantizer == "fsq"
    edit_weights(tmp_path / "grid" / VAE, spoil("codebook", 0.5))
    assert "codebook is not the grid" in reason(tmp_path / "grid")
