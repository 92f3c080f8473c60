"""The studio: what it draws is what it says, packs come and go, and many use it at once."""

import io
import json
import re
import shutil
import subprocess
import sys
import threading
import time
import weakref
from collections import Counter
from collections.abc import Callable
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import TINY_CLASSES, alike, array, digit, flow_schedule, same, tiny_dit
from PIL import Image

import mmdemo.shelf
from mmdemo import codec, data, loading, packs
from mmdemo.arguments import MAX_SEED, Recipe
from mmdemo.errors import PackError
from mmdemo.studio import Studio
from mmdemo.training import export

# ---------------------------------------------------------------------------------------------------- what it says


def test_image_i_has_seed_s_plus_i_and_label_i_of_the_list(studio):
    made = studio.sample("tiny", ["square", "circle"], count=5, seed=7).result()
    assert made.labels == ["square", "circle", "square", "circle", "square"]
    assert made.seeds == [7, 8, 9, 10, 11] and made.recipe.seed == 7
    assert [image.size for image in made.images] == [(16, 16)] * 5
    for i in (0, 1, 4):
        alone = studio.sample("tiny", made.labels[i], count=1, seed=7 + i)
        different = (abs(array(alone.images[0]) - array(made.images[i])) > 2).mean()
        assert different < 0.05, "more than rounding differs between batch sizes"
    assert not same(made.images[0], made.images[2]), "another seed, the same picture"


def test_all_stands_for_every_class_in_order(studio):
    made = studio.sample("tiny", "all", count=7, seed=1, steps=1)
    assert made.labels == [*TINY_CLASSES, *TINY_CLASSES, TINY_CLASSES[0]]
    assert studio.sample("tiny", ["triangle", "all"], count=4, seed=1, steps=1).labels == ["triangle", *TINY_CLASSES]


def test_what_is_not_said_is_the_packs_default_and_is_reported(studio):
    made = studio.sample("tiny", "circle", seed=3).result()
    assert made.recipe == replace(studio.pack("tiny").defaults, seed=3) == Recipe(3, 6, 2.0, "euler", (0.0, 1.0))
    said = studio.sample("tiny", "circle", 1, 3, 6, 2.0, "euler")
    assert same(made.images, said.images)
    told = made.json()
    assert asdict(made.recipe).items() <= told.items() and told["pack"] == "tiny" and told["seconds"] >= 0


def test_without_a_seed_one_is_drawn_and_reported(studio):
    made = [studio.sample("tiny", "circle", steps=1).result() for _ in range(2)]
    seeds = [one.recipe.seed for one in made]
    assert seeds[0] != seeds[1] and all(0 <= seed <= MAX_SEED for seed in seeds)
    again = studio.sample("tiny", "circle", seed=seeds[0], steps=1)
    assert same(again.images[0], made[0].images[0])


def test_every_sampler_the_pack_lists_samples(studio):
    for pack in ("tiny", "tiny-v"):
        listed = next(entry for entry in studio.packs() if entry.name == pack)
        made = {name: studio.sample(pack, "circle", 1, 5, 3, 2.0, name) for name in listed.samplers}
        assert len(made) == 6 and all(one.recipe.sampler == name for name, one in made.items())


def test_watched_sampling_ends_with_what_sample_returns(studio):
    run = studio.sample("tiny", "all", 3, seed=5, steps=4)
    seen = list(run)
    assert [step.index for step in seen] == [0, 1, 2, 3] and {step.total for step in seen} == {4}
    assert all(len(step.images) == 3 for step in seen)
    assert same(run.result().images, studio.sample("tiny", "all", 3, seed=5, steps=4).images)
    assert all(alike(a, b) for a, b in zip(seen[-1].images, run.images, strict=True))


@pytest.mark.parametrize("sampler", ["euler", "ddpm", "heun"])
def test_denoising_ends_with_the_sampled_picture(studio, sampler):
    frames = list(studio.denoise("tiny", "square", seed=5, steps=4, sampler=sampler))
    (result,) = studio.sample("tiny", "square", 1, 5, 4, sampler=sampler).images
    assert same(frames[-1].x0, result)
    levels = [frame.noise_level for frame in frames]
    assert levels == sorted(levels, reverse=True) and levels[0] > 0.98
    assert [frame.index for frame in frames] == list(range(frames[0].total))
    for frame in frames:
        assert same(studio.decode("tiny", frame.tokens), frame.x0), "tokens of another picture"
        assert frame.x_t.size == (16, 16) and frame.recipe.seed == 5 and frame.label == "square"
        json.dumps(frame.json(), allow_nan=False)


def test_a_png_holds_the_settings_that_make_it_again(studio):
    made = studio.sample("tiny", "all", 3, seed=40, steps=3, guidance=1.5, sampler="heun").result()
    for i in range(3):
        file = Image.open(io.BytesIO(made.png_bytes(i)))
        assert file.format == "PNG" and file.size == (16, 16)
        told = json.loads(file.text["mmdemo"])
        assert told["seed"] == 40 + i and told["labels"] == [TINY_CLASSES[i]] and told["pack"] == "tiny"
        again = studio.sample(
            told["pack"], told["labels"], 1, told["seed"], told["steps"], told["guidance"], told["sampler"]
        )
        assert (abs(array(again.images[0]) - array(file)) > 2).mean() < 0.05
        assert same(file, made.images[i])
    grid = Image.open(io.BytesIO(made.png_bytes()))
    told = json.loads(grid.text["mmdemo"])
    assert told["labels"] == list(TINY_CLASSES) and told["seed"] == 40
    assert same(grid, made.grid()) and grid.width >= 48


def test_without_any_pack_the_sentence_says_how_to_get_one(tmp_path):
    for studio in (Studio(weights=[tmp_path]), Studio(weights=[tmp_path / "nowhere"]), Studio(weights=[])):
        assert studio.packs() == []
        with pytest.raises(PackError, match="none yet: train one"):
            studio.codebook("mnist")


# ---------------------------------------------------------------------------------------------- many users, and time


def in_threads(jobs) -> list:
    """Every job in a thread of its own, all let go at the same moment."""
    results, gate = [None] * len(jobs), threading.Barrier(len(jobs))

    def work(i: int) -> None:
        gate.wait()
        results[i] = jobs[i]()

    threads = [threading.Thread(target=work, args=(i,)) for i in range(len(jobs))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return results


def test_four_at_once_get_the_pixels_they_get_one_after_the_other(tiny_weights, studio):
    requests = [
        ("tiny", "circle", 2, 1, 12, 2.0, "unipc"), ("tiny", "all", 3, 2, 12, 3.0, "ddpm"),
        ("tiny-v", "square", 2, 3, 12, 1.0, "dpm++"), ("tiny", "square", 2, 1, 12, 2.0, "unipc"),
    ]  # fmt: skip
    expected = [studio.sample(*request).result() for request in requests]
    fresh = Studio(weights=[tiny_weights], device="cpu")  # so that they also all load at once
    at_once = in_threads([lambda request=request: fresh.sample(*request).result() for request in requests])
    for a, b in zip(at_once, expected, strict=True):
        assert a.labels == b.labels and a.seeds == b.seeds
        assert same(a.images, b.images)


def test_other_peoples_requests_do_not_change_a_picture(studio):
    expected = array(studio.sample("tiny", "circle", 1, 9, 20, sampler="ddpm").images[0])
    jobs = [
        lambda: array(studio.sample("tiny", "circle", 1, 9, 20, sampler="ddpm").images[0]),
        lambda: [studio.reconstruct("tiny", digit()) for _ in range(5)],
        lambda: [torch.manual_seed(i) for i in range(1000)],
        lambda: list(studio.denoise("tiny-v", "square", seed=9, steps=20)),
    ]
    assert np.array_equal(in_threads(jobs)[0], expected)


def test_first_requests_that_arrive_together_are_all_answered(tiny_weights):
    """A process of its own: they meet while diffusers is being imported, which two threads must not do at once."""
    script = f"""
import threading
from PIL import Image
from mmdemo.studio import Studio
studio, answers = Studio([{str(tiny_weights)!r}], device="cpu"), []
requests = [
    lambda: studio.load("tiny"),
    lambda: studio.reconstruct("tiny", Image.new("L", (20, 20))),
    lambda: studio.decode("tiny", [[1]]),
    lambda: studio.sample("tiny", "circle", steps=1).result(),
]
threads = [threading.Thread(target=lambda ask=ask: answers.append(ask())) for ask in requests]
for thread in threads:
    thread.start()
for thread in threads:
    thread.join()
assert len(answers) == len(requests)
"""
    subprocess.run([sys.executable, "-c", script], check=True)


def test_models_are_loaded_once(tiny_weights):
    fresh = Studio(weights=[tiny_weights], device="cpu")
    pipelines = in_threads([lambda: (fresh.load("tiny"), fresh._pipeline(packs.read(tiny_weights / "tiny")))[1]] * 4)
    assert len({id(pipeline) for pipeline in pipelines}) == 1
    assert fresh.is_loaded("tiny") and not fresh.is_loaded("tiny-v")


def test_closing_stops_the_sampling_at_once(tiny_weights):
    fresh, evaluations = Studio(weights=[tiny_weights], device="cpu"), Counter()
    fresh.load("tiny")
    transformer = fresh._pipeline(packs.read(tiny_weights / "tiny")).transformer
    transformer.register_forward_hook(lambda *_: evaluations.update(["asked"]))
    for watched in (
        fresh.sample("tiny", "all", 3, seed=1, steps=50),
        fresh.denoise("tiny", "circle", seed=1, steps=50),
    ):
        evaluations.clear()
        next(watched), next(watched)
        watched.close()
        assert evaluations["asked"] == 2 and next(watched, None) is None
    assert len(fresh.sample("tiny", "circle", steps=1).images) == 1


def test_a_pack_trained_while_the_studio_is_open_appears(tiny_weights, tmp_path):
    studio = Studio(weights=[tmp_path / "weights"], device="cpu")
    assert studio.packs() == []
    shutil.copytree(tiny_weights / "tiny", tmp_path / "weights" / "new")
    assert [pack.name for pack in studio.packs()] == ["new"]
    assert len(studio.sample("new", "circle", steps=1).images) == 1


def test_a_transformer_trained_while_the_codec_is_open_can_be_sampled_from(tiny_weights, tmp_path):
    """A person looks at the codec while the transformer trains."""
    shutil.copytree(tiny_weights / "tiny-codec", tmp_path / "grows")
    studio = Studio(weights=[tmp_path], device="cpu")
    studio.reconstruct("grows", digit())
    with pytest.raises(PackError, match="train dit"):
        studio.sample("grows", "circle")
    export.save_transformer(tmp_path / "grows", tiny_dit(), flow_schedule(), {})
    made = studio.sample("grows", "circle", 1, 3, 6)
    expected = Studio(weights=[tiny_weights], device="cpu").sample("tiny", "circle", 1, 3, 6)
    assert same(made.images[0], expected.images[0])


def train_transformer(pack: Path) -> None:
    export.save_transformer(pack, tiny_dit(depth=1), flow_schedule(), {})


def train_decoder(pack: Path) -> None:
    """model_index.json is copied with its time, the codes stay, and only the decoder is another."""
    vae = loading.load(packs.read(pack), "cpu").vae
    for weight in vae.decoder.parameters():
        weight.mul_(2)
    pixels = data.load("shapes", "train", image_size=16, channels=1).pixels[:50]
    time = (pack / "model_index.json").stat().st_mtime_ns
    export.save_decoder(pack, vae, codec.statistics(vae, pixels), {})
    assert (pack / "model_index.json").stat().st_mtime_ns == time


@pytest.mark.parametrize("train", [train_transformer, train_decoder])
def test_a_pack_trained_anew_is_what_is_shown(tiny_weights, tmp_path, train):
    shutil.copytree(tiny_weights / "tiny", tmp_path / "again")
    studio = Studio(weights=[tmp_path], device="cpu")
    (before,) = studio.sample("again", "circle", 1, 3, 6).images
    train(tmp_path / "again")
    (made,) = studio.sample("again", "circle", 1, 3, 6).images
    assert not same(made, before)
    assert same([made], Studio(weights=[tmp_path], device="cpu").sample("again", "circle", 1, 3, 6).images)


def test_a_pack_that_is_taken_away_is_gone(tiny_weights, tmp_path):
    shutil.copytree(tiny_weights / "tiny", tmp_path / "brief")
    studio = Studio(weights=[tmp_path], device="cpu")
    studio.sample("brief", "circle", steps=1).result()
    shutil.rmtree(tmp_path / "brief")
    with pytest.raises(PackError, match="brief"):
        studio.sample("brief", "circle", steps=1)


def test_a_pack_is_described_without_reading_or_fetching_another(tiny_weights, hub_server, monkeypatch):
    hub_server.fill("some/one", tiny_weights / "tiny")
    opened = []
    monkeypatch.setattr(packs, "read_json", lambda path, read=packs.read_json: opened.append(path) or read(path))
    packs._read.cache_clear()  # other tests may have read it
    studio = Studio([tiny_weights], hub=["some/one", "some/other"])
    assert studio.pack("tiny-v") == packs.read(tiny_weights / "tiny-v")
    assert opened and all(path.is_relative_to(tiny_weights / "tiny-v") for path in opened)
    assert [pack.problem for pack in studio.packs()][-2:] == ["not fetched yet"] * 2 and hub_server.asked == []
    assert studio.pack("some/one").name == "some/one"
    assert hub_server.asked and not any("some/other" in asked for asked in hub_server.asked)


@pytest.mark.parametrize("slow", ["tiny-v", "some/one"])
def test_a_pack_being_loaded_holds_up_neither_another_nor_the_list(tiny_weights, hub_server, monkeypatch, slow):
    hub_server.fill("some/one", tiny_weights / "tiny-v")
    begun, go_on = threading.Event(), threading.Event()

    def load(pack, device, load=loading.load):
        if pack.name == slow:
            begun.set()
            assert go_on.wait(60)
        return load(pack, device)

    monkeypatch.setattr(loading, "load", load)
    studio, done = Studio([tiny_weights], hub=["some/one"], device="cpu"), []
    requests = (
        lambda: studio.load("tiny"),
        lambda: studio.sample("tiny", "circle", steps=1).result(),
        studio.packs,
        lambda: studio.codebook(slow),
    )
    first = threading.Thread(target=studio.load, args=[slow])
    others = [threading.Thread(target=lambda ask=ask: done.append(ask())) for ask in requests]
    first.start()
    try:
        assert begun.wait(60)
        for other in others:
            other.start()
        for other in others:
            other.join(30)
        assert len(done) == len(requests) and studio.is_loaded("tiny") and not studio.is_loaded(slow)
    finally:
        go_on.set()
        first.join()
    assert studio.is_loaded(slow)


def test_a_pack_that_could_not_be_fetched_is_asked_for_again_after_a_while(tiny_weights, hub_server, monkeypatch):
    studio = Studio([], hub=["some/one"], device="cpu")

    def asked() -> int:
        before = len(hub_server.asked)
        with pytest.raises(PackError, match="'some/one' cannot be used: there is no some/one"):
            studio.codebook("some/one")
        return len(hub_server.asked) - before

    assert asked() > 0 and asked() == 0
    monkeypatch.setattr(mmdemo.shelf, "RETRY", 0)
    assert asked() > 0
    hub_server.fill("some/one", tiny_weights / "tiny")
    before = len(hub_server.asked)
    assert ["there is no some/one" in pack.problem for pack in studio.packs()] == [True]
    assert len(hub_server.asked) == before, "the list asked the Hub"
    studio.codebook("some/one")
    assert [pack.problem for pack in studio.packs()] == [None]
    before = len(hub_server.asked)
    studio.codebook("some/one")
    studio.fetch("some/one")
    assert len(hub_server.asked) == before, "what is there need not be fetched again"


def test_the_list_says_how_far_a_repository_is_and_why_another_did_not_come(tiny_weights, hub_server):
    hub_server.fill("some/one", tiny_weights / "tiny")
    go_on = hub_server.held["vae/diffusion_pytorch_model.safetensors"] = threading.Event()
    studio = Studio([tiny_weights], hub=["some/one"], device="cpu")
    for repo in ("some/one", "some/other"):  # that was not named before
        studio.fetch(repo)

    def problem(repo: str) -> str | None:
        return next(pack.problem for pack in studio.packs() if pack.name == repo)

    try:
        wait_until(lambda: re.fullmatch("being fetched: [1-9][0-9] %", problem("some/one")))
        assert 0 < studio.fetching["some/one"] < 1
        wait_until(lambda: "there is no some/other" in problem("some/other"))
        assert list(studio.fetching) == ["some/one"]
    finally:
        go_on.set()
    assert studio.pack("some/one").classes == TINY_CLASSES and problem("some/one") is None
    hub_server.fill("some/other", tiny_weights / "tiny-codec")
    studio.fetch("some/other")
    assert not studio.pack("some/other").can_sample and studio.fetching == {}


def test_what_was_mistyped_leaves_the_list_with_the_next_that_is_asked_for(tiny_weights, hub_server):
    studio = Studio([tiny_weights], hub=["some/named"], device="cpu")
    for repo in ("some/named", "some/tinny"):
        with pytest.raises(PackError, match=f"there is no {repo}"):
            studio.fetch(repo)
            studio.pack(repo)
    hub_server.fill("some/tiny", tiny_weights / "tiny")
    studio.fetch("some/tiny")
    assert studio.hub == ["some/named", "some/tiny"]
    assert studio.pack("some/tiny").classes == TINY_CLASSES


def test_four_repositories_are_fetched_at_once_and_more_wait(monkeypatch):
    going, go_on = [], threading.Event()

    def fetch(repo, report):
        going.append(repo)
        go_on.wait(30)
        raise PackError(f"there is no {repo}")

    monkeypatch.setattr(mmdemo.hub, "fetch", fetch)
    studio = Studio([])
    for i in range(6):
        studio.fetch(f"some/{i}")
    try:
        wait_until(lambda: len(going) == 4)
        time.sleep(0.1)
        assert len(going) == 4 and len(studio.fetching) == 6
    finally:
        go_on.set()
    wait_until(lambda: len(going) == 6 and not studio.fetching)


def wait_until(true: Callable[[], object]) -> None:
    end = time.monotonic() + 30
    while not true():
        assert time.monotonic() < end
        time.sleep(0.01)


# --------------------------------------------------------------------------------------------------------- memory


def held(studio: Studio) -> set[str]:
    return {pack.name for pack in studio.packs() if studio.is_loaded(pack.name)}


@pytest.fixture(scope="module")
def gigabytes(tiny_weights) -> float:
    """What the models of one tiny pack take: every weight is a float32."""
    pipeline = loading.load(packs.read(tiny_weights / "tiny"), "cpu")
    models = (pipeline.vae, pipeline.transformer)
    return 4e-9 * sum(tensor.numel() for model in models for tensor in model.state_dict().values())


@pytest.fixture(scope="module")
def four(tiny_weights, tmp_path_factory):
    """A folder of four packs, a to d, alike in size."""
    folder = tmp_path_factory.mktemp("four")
    for name, pack in zip("abcd", ("tiny", "tiny-v", "tiny", "tiny-v"), strict=True):
        shutil.copytree(tiny_weights / pack, folder / name)
    return folder


def test_nothing_is_loaded_before_it_is_used(four):
    studio = Studio([four], device="cpu")
    assert held(studio) == set()
    studio.reconstruct("b", digit())
    assert held(studio) == {"b"}


@pytest.mark.parametrize("room", [1, 2, 3])
def test_as_many_packs_are_held_as_fit_and_the_oldest_go(four, gigabytes, room):
    for share, kept in ((1.01, room), (0.99, max(1, room - 1))):
        studio = Studio([four], device="cpu", memory=share * room * gigabytes)
        for name in "abcd":
            studio.load(name)
        assert held(studio) == set("abcd"[-kept:])


def test_a_large_pack_takes_the_place_of_several(four, gigabytes, tmp_path):
    for name in "abc":
        shutil.copytree(four / name, tmp_path / name)
    export.save_transformer(tmp_path / "c", tiny_dit(depth=6), flow_schedule(), {})
    studio = Studio([tmp_path], device="cpu", memory=2.01 * gigabytes)
    for name in "abc":
        studio.load(name)
    assert held(studio) == {"c"}


def test_by_default_small_packs_are_all_held(four):
    studio = Studio([four], device="cpu")
    for name in "abcd":
        studio.load(name)
    assert held(studio) == set("abcd")


def test_a_dropped_pack_is_loaded_again_on_use_and_does_what_it_did(four, gigabytes):
    studio = Studio([four], device="cpu", memory=1.5 * gigabytes)
    first = array(studio.sample("a", "circle", 1, 3).images[0])
    tokens = studio.reconstruct("a", digit()).tokens
    other = array(studio.sample("b", "circle", 1, 3).images[0])
    assert held(studio) == {"b"} and not np.array_equal(first, other)
    assert np.array_equal(array(studio.sample("a", "circle", 1, 3).images[0]), first)
    assert held(studio) == {"a"} and studio.reconstruct("a", digit()).tokens == tokens


@pytest.mark.parametrize(
    "use",
    [
        lambda studio: studio.load("a"),
        lambda studio: studio.sample("a", "circle", steps=1).result(),
        lambda studio: next(studio.denoise("a", "circle", steps=1)),
        lambda studio: studio.reconstruct("a", digit()),
        lambda studio: studio.decode("a", [[1]]),
    ],
    ids=["load", "sample", "denoise", "reconstruct", "decode"],
)
def test_the_pack_that_goes_is_the_one_longest_unused_not_the_one_loaded_first(four, gigabytes, use):
    studio = Studio([four], device="cpu", memory=2.5 * gigabytes)
    studio.load("a"), studio.load("b")
    use(studio)
    studio.load("c")
    assert held(studio) == {"a", "c"}


@pytest.mark.parametrize("memory", [0, 1e-12])
def test_with_less_memory_than_one_pack_takes_the_pack_in_use_still_works(four, memory):
    studio = Studio([four], device="cpu", memory=memory)
    for name in "abab":
        assert len(studio.sample(name, "circle", steps=1).images) == 1
        assert held(studio) == {name}


def test_a_request_at_work_goes_on_with_the_models_that_were_dropped_and_then_they_are_gone(four, studio):
    expected = [array(frame.x0) for frame in studio.denoise("tiny", "circle", seed=3, steps=5)]
    small = Studio([four], device="cpu", memory=0)
    frames = small.denoise("a", "circle", seed=3, steps=5)
    seen = [array(next(frames).x0)]
    models = weakref.ref(small._pipelines["a"][1].transformer)
    small.load("b")
    assert held(small) == {"b"} and models() is not None
    seen += [array(frame.x0) for frame in frames]
    assert all(np.array_equal(a, b) for a, b in zip(seen, expected, strict=True))
    del frames  # the last one, which it has as its result, may yet be decoded
    assert held(small) == {"b"} and models() is None, "dropped models must give their memory back"


def test_a_pack_trained_anew_takes_the_place_of_what_it_was(four, tmp_path, gigabytes):
    for name in "ab":
        shutil.copytree(four / name, tmp_path / name)
    studio = Studio([tmp_path], device="cpu", memory=2.5 * gigabytes)
    studio.load("a"), studio.load("b")
    export.save_transformer(tmp_path / "a", tiny_dit(), flow_schedule(), {})
    studio.load("a")
    assert held(studio) == {"a", "b"}
    shutil.copytree(four / "c", tmp_path / "c")
    studio.load("c")
    assert held(studio) == {"a", "c"}, "b was used before a"


def test_packs_that_push_each_other_out_do_not_mix(four, studio):
    expected = {name: array(studio.sample(name, "circle", 1, 9, 6).images[0]) for name in ("tiny", "tiny-v")}
    small = Studio([four], device="cpu", memory=0)

    def draw(name: str):
        return [array(small.sample(name, "circle", 1, 9, 6).images[0]) for _ in range(4)]

    for name, drawn in zip("abcd", in_threads([lambda name=name: draw(name) for name in "abcd"]), strict=True):
        assert all(np.array_equal(picture, expected["tiny" if name in "ac" else "tiny-v"]) for picture in drawn)
    assert len(held(small)) == 1
