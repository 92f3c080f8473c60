"""The studio: true numbers, one sentence for every bad argument before any model is loaded, and many users at once."""

import io
import json
import re
import shutil
import subprocess
import sys
import threading
import weakref
from collections import Counter

import numpy as np
import pytest
import torch
from conftest import TINY_CLASSES, array, digit, flow_schedule, tiny_dit
from PIL import Image

from mmdemo import packs
from mmdemo.coding import MIN_SIDE
from mmdemo.errors import ArgumentError, ImageError, MmdemoError, PackError
from mmdemo.studio import BUDGET, MAX_COUNT, MAX_GUIDANCE, MAX_SEED, MAX_SIDE, MAX_STEPS, Studio
from mmdemo.training import export

NAN, INF = float("nan"), float("inf")


@pytest.fixture(scope="module")
def studio(tiny_weights):
    return Studio(weights=[tiny_weights], device="cpu")


# ---------------------------------------------------------------------------------------------------- what it says


def test_image_i_has_seed_s_plus_i_and_label_i_of_the_list(studio):
    made = studio.sample("tiny", ["square", "circle"], count=5, seed=7)
    assert made.labels == ["square", "circle", "square", "circle", "square"]
    assert made.seeds == [7, 8, 9, 10, 11] and made.seed == 7
    assert [image.size for image in made.images] == [(16, 16)] * 5
    for i in (0, 1, 4):
        alone = studio.sample("tiny", made.labels[i], count=1, seed=7 + i)
        different = (abs(array(alone.images[0]) - array(made.images[i])) > 2).mean()
        assert different < 0.05, "more than rounding differs between batch sizes"
    assert not np.array_equal(array(made.images[0]), array(made.images[2])), "another seed, the same picture"


def test_all_stands_for_every_class_in_order(studio):
    made = studio.sample("tiny", "all", count=7, seed=1, steps=1)
    assert made.labels == [*TINY_CLASSES, *TINY_CLASSES, TINY_CLASSES[0]]
    assert studio.sample("tiny", ["triangle", "all"], count=4, seed=1, steps=1).labels == ["triangle", *TINY_CLASSES]


def test_what_is_not_said_is_the_packs_default_and_is_reported(studio):
    made = studio.sample("tiny", "circle", seed=3)
    assert (made.steps, made.guidance, made.sampler, made.pack) == (6, 2.0, "euler", "tiny")
    said = studio.sample("tiny", "circle", 1, 3, 6, 2.0, "euler")
    assert np.array_equal(array(made.images[0]), array(said.images[0]))
    told = made.json()
    assert {"seed", "seconds", "steps", "sampler", "guidance", "pack"} <= set(told) and told["seed"] == 3


def test_without_a_seed_one_is_drawn_and_reported(studio):
    made = [studio.sample("tiny", "circle", steps=1) for _ in range(2)]
    assert made[0].seed != made[1].seed and all(0 <= one.seed <= MAX_SEED for one in made)
    again = studio.sample("tiny", "circle", seed=made[0].seed, steps=1)
    assert np.array_equal(array(again.images[0]), array(made[0].images[0]))


def test_every_sampler_the_pack_lists_samples(studio):
    for pack in ("tiny", "tiny-v"):
        listed = next(entry for entry in studio.packs() if entry.name == pack)
        made = {name: studio.sample(pack, "circle", 1, 5, 3, 2.0, name) for name in listed.samplers}
        assert len(made) == 6 and all(one.sampler == name for name, one in made.items())


def test_watched_sampling_ends_with_what_sample_returns(studio):
    seen = list(studio.sampling("tiny", "all", 3, seed=5, steps=4))
    assert [step.index for step in seen] == [0, 1, 2, 3] and {step.total for step in seen} == {4}
    assert all(len(step.images) == 3 for step in seen)
    assert [step.result is None for step in seen] == [True, True, True, False]
    for a, b in zip(seen[-1].result.images, studio.sample("tiny", "all", 3, seed=5, steps=4).images, strict=True):
        assert np.array_equal(array(a), array(b))
    assert seen[-1].images == seen[-1].result.images


@pytest.mark.parametrize("sampler", ["euler", "ddpm", "heun"])
def test_denoising_ends_with_the_sampled_picture(studio, sampler):
    frames = list(studio.denoise("tiny", "square", seed=5, steps=4, sampler=sampler))
    (result,) = studio.sample("tiny", "square", 1, 5, 4, sampler=sampler).images
    assert np.array_equal(array(frames[-1].x0), array(result))
    levels = [frame.noise_level for frame in frames]
    assert levels == sorted(levels, reverse=True) and levels[0] > 0.98
    assert [frame.index for frame in frames] == list(range(frames[0].total))
    for frame in frames:
        assert np.array_equal(array(studio.decode("tiny", frame.tokens)), array(frame.x0)), "tokens of another picture"
        assert frame.x_t.size == (16, 16) and frame.seed == 5 and frame.label == "square"
        json.dumps(frame.json(), allow_nan=False)


def test_a_png_holds_the_settings_that_make_it_again(studio):
    made = studio.sample("tiny", "all", 3, seed=40, steps=3, guidance=1.5, sampler="heun")
    for i in range(3):
        file = Image.open(io.BytesIO(made.png_bytes(i)))
        assert file.format == "PNG" and file.size == (16, 16)
        told = json.loads(file.text["mmdemo"])
        assert told["seed"] == 40 + i and told["labels"] == [TINY_CLASSES[i]] and told["pack"] == "tiny"
        again = studio.sample(
            told["pack"], told["labels"], 1, told["seed"], told["steps"], told["guidance"], told["sampler"]
        )
        assert (abs(array(again.images[0]) - array(file)) > 2).mean() < 0.05
        assert np.array_equal(array(file), array(made.images[i]))
    grid = Image.open(io.BytesIO(made.png_bytes()))
    told = json.loads(grid.text["mmdemo"])
    assert told["labels"] == list(TINY_CLASSES) and told["seed"] == 40
    assert np.array_equal(array(grid), array(made.grid())) and grid.width >= 48


# ------------------------------------------------------------------------------------------------- what it refuses

GOOD = {
    "sample": {
        "pack": "tiny",
        "label": "circle",
        "count": 1,
        "seed": 0,
        "steps": 2,
        "guidance": 1.0,
        "sampler": "euler",
    },
    "denoise": {"pack": "tiny", "label": "circle", "seed": 0, "steps": 2, "guidance": 1.0, "sampler": "euler"},
    "decode": {"pack": "tiny", "tokens": [[0]]},
    "code": {"pack": "tiny", "code": 0},
    "codebook": {"pack": "tiny"},
    "reconstruct": {"pack": "tiny", "image": digit(), "invert": "auto"},
}
NO_NUMBER = [NAN, INF, -INF, True, False, "x", "3", [1], {}, b"1", 1j]
NO_WHOLE_NUMBER = [*NO_NUMBER, 1.5, -1, 10**30, 10**400, 1e308, -0.5]

BAD = [
    *[
        (verb, "pack", value, "tiny")
        for verb in GOOD
        for value in ("nope", "", None, 3, ["tiny"], "../tiny", "x" * 999)
    ],
    *[(verb, "pack", "broken", "vae") for verb in GOOD],
    *[(verb, "pack", "tiny-codec", "train dit") for verb in ("sample", "denoise")],
    *[
        (verb, "label", value, "square")
        for verb in ("sample", "denoise")
        for value in ("oval", "", "Circle", None, 1, True, NAN, {}, ["circle", "oval"], ["circle", None], [["circle"]])
    ],
    ("sample", "label", [], "square"),
    *[("sample", "count", value, str(MAX_COUNT)) for value in (*NO_WHOLE_NUMBER, None, 0, MAX_COUNT + 1)],
    *[
        (verb, name, value, str(limit))
        for verb in ("sample", "denoise")
        for name, limit, beyond in (("seed", MAX_SEED, [MAX_SEED + 1]), ("steps", MAX_STEPS, [0, MAX_STEPS + 1]))
        for value in (*NO_WHOLE_NUMBER, *beyond)
    ],
    *[
        (verb, "guidance", value, f"{MAX_GUIDANCE:g}")
        for verb in ("sample", "denoise")
        for value in (*NO_NUMBER, -0.01, MAX_GUIDANCE + 0.01, 10**400)
    ],
    *[
        (verb, "sampler", value, "euler")
        for verb in ("sample", "denoise")
        for value in ("plms", "", "Euler", 1, True, NAN, ["euler"], {})
    ],
    *[("code", "code", value, "15") for value in (*NO_WHOLE_NUMBER, None, 16)],
    *[
        ("decode", "tokens", value, "0 to 15")
        for value in (None, 3, "[[0]]", {}, [], [[]], [0, 1], [[0], []], [[0], 1], [[0, 1], [0]], NAN, True)
    ],
    ("decode", "tokens", [[0] * (MAX_SIDE // 4 + 1)], str(MAX_SIDE // 4)),
    ("decode", "tokens", [[0]] * (MAX_SIDE // 4 + 1), str(MAX_SIDE // 4)),
    *[
        ("decode", "tokens", [[0, value]], "0 to 15")
        for value in (16, -1, 1.5, NAN, INF, True, None, "1", [0], 10**400)
    ],
    *[("reconstruct", "invert", value, "auto") for value in ("maybe", "", None, 1, NAN, ["yes"], {})],
    *[
        ("reconstruct", "size", value, f"{MIN_SIDE} to {MAX_SIDE}")
        for value in (*NO_WHOLE_NUMBER, 0, 4, MIN_SIDE - 1, MAX_SIDE + 1, MAX_SIDE + 4)
    ],
    *[("reconstruct", "size", value, "stride, 4") for value in (9, 10, 30.0, MAX_SIDE - 1)],
    *[
        ("reconstruct", "image", value, "")
        for value in (None, 3, True, NAN, [], "nowhere.png", "two\nlines.png", b"x", "")
    ],
]  # fmt: skip


def test_what_is_too_large_to_be_shown_is_refused_all_the_same(studio):
    nested = []
    for _ in range(100_000):
        nested = [nested]
    for bad in ({"seed": 10**5000}, {"interval": nested}):
        with pytest.raises(MmdemoError) as error:
            studio.sample("tiny", "circle", **bad)
        assert next(iter(bad)) in str(error.value) and "too large to be shown" in str(error.value)


@pytest.mark.parametrize(("verb", "name", "value", "allowed"), BAD, ids=lambda value: ascii(value)[:25])
def test_a_bad_argument_is_named_in_one_sentence_before_any_model_is_loaded(tiny_weights, verb, name, value, allowed):
    studio = Studio(weights=[tiny_weights], device="cpu")
    with pytest.raises(MmdemoError) as error:
        getattr(studio, verb)(**(GOOD[verb] | {name: value}))
    text = str(error.value)
    assert "\n" not in text and len(text) < 400
    assert name in text or isinstance(value, str) and value and value in text
    assert allowed in text
    assert not studio.is_loaded("tiny")


@pytest.mark.parametrize(
    "value", ["nope.png", "cut.png", "letter.png", "huge.png", "empty.png", ".", Image.new("1", (5000, 4000))], ids=str
)
def test_a_bad_picture_is_refused_in_one_sentence_before_any_model_is_loaded(tiny_weights, tmp_path, value):
    noise = Image.fromarray(np.random.default_rng(0).integers(0, 256, (64, 64), dtype=np.uint8))
    noise.save(tmp_path / "whole.png")
    (tmp_path / "cut.png").write_bytes((tmp_path / "whole.png").read_bytes()[:2000])
    (tmp_path / "letter.png").write_text("Dear reader")
    (tmp_path / "empty.png").write_bytes(b"")
    Image.new("1", (4001, 4000)).save(tmp_path / "huge.png")
    studio = Studio(weights=[tiny_weights], device="cpu")
    with pytest.raises(ImageError) as error:
        studio.reconstruct("tiny", tmp_path / value if isinstance(value, str) else value)
    assert "image" in str(error.value) and "\n" not in str(error.value)
    assert not studio.is_loaded("tiny")


def test_watched_verbs_check_their_arguments_when_called_not_when_drawn_from(studio):
    with pytest.raises(ArgumentError, match="steps"):
        studio.sampling("tiny", "circle", steps=0)
    with pytest.raises(ArgumentError, match="seed"):
        studio.denoise("tiny", "circle", seed=-1)


def test_more_work_than_the_budget_is_refused_with_the_budget(tiny_weights):
    studio = Studio(weights=[tiny_weights])
    steps = BUDGET // MAX_COUNT
    with pytest.raises(ArgumentError, match=rf"steps × count .*{BUDGET}"):
        studio.sampling("tiny", "circle", count=MAX_COUNT, steps=steps + 1)
    studio.sampling("tiny", "circle", count=MAX_COUNT, steps=steps).close()
    assert not studio.is_loaded("tiny")


def test_whole_numbers_may_come_as_floats_as_json_gives_them(studio):
    made = studio.sample("tiny", "circle", count=2.0, seed=3.0, steps=2.0, guidance=1)
    assert (made.seed, made.steps, len(made.images)) == (3, 2, 2) and isinstance(made.seeds[1], int)


def test_bounds_themselves_are_allowed(studio):
    for arguments in (
        {"seed": MAX_SEED, "count": 2, "steps": 1},
        {"steps": MAX_STEPS},
        {"guidance": 0},
        {"guidance": MAX_GUIDANCE, "steps": 1},
        {"count": MAX_COUNT, "steps": 1},
    ):
        made = studio.sample("tiny", "circle", **({"seed": 1} | arguments))
        assert len(made.images) == arguments.get("count", 1)


def test_after_a_bad_argument_the_studio_goes_on(studio):
    for _ in range(2):
        with pytest.raises(MmdemoError):
            studio.sample("tiny", "oval")
        assert len(studio.sample("tiny", "circle", steps=1).images) == 1


def test_an_unknown_device_is_refused():
    with pytest.raises(ArgumentError, match="device is 'tpu'.*cuda"):
        Studio(device="tpu")


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
    expected = [studio.sample(*request) for request in requests]
    fresh = Studio(weights=[tiny_weights], device="cpu")  # so that they also all load at once
    at_once = in_threads([lambda request=request: fresh.sample(*request) for request in requests])
    for a, b in zip(at_once, expected, strict=True):
        assert a.labels == b.labels and a.seeds == b.seeds
        assert all(np.array_equal(array(x), array(y)) for x, y in zip(a.images, b.images, strict=True))


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
    lambda: studio.sample("tiny", "circle", steps=1),
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
        fresh.sampling("tiny", "all", 3, seed=1, steps=50),
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
    assert np.array_equal(array(made.images[0]), array(expected.images[0]))


def test_a_pack_trained_anew_is_what_is_shown(tiny_weights, tmp_path):
    shutil.copytree(tiny_weights / "tiny", tmp_path / "again")
    studio = Studio(weights=[tmp_path], device="cpu")
    before = array(studio.sample("again", "circle", 1, 3, 6).images[0])
    export.save_transformer(tmp_path / "again", tiny_dit(depth=1), flow_schedule(), {})
    made = array(studio.sample("again", "circle", 1, 3, 6).images[0])
    assert not np.array_equal(made, before)
    assert np.array_equal(
        made, array(Studio(weights=[tmp_path], device="cpu").sample("again", "circle", 1, 3, 6).images[0])
    )


def test_a_pack_that_is_taken_away_is_gone(tiny_weights, tmp_path):
    shutil.copytree(tiny_weights / "tiny", tmp_path / "brief")
    studio = Studio(weights=[tmp_path], device="cpu")
    studio.sample("brief", "circle", steps=1)
    shutil.rmtree(tmp_path / "brief")
    with pytest.raises(PackError, match="brief"):
        studio.sample("brief", "circle", steps=1)


# --------------------------------------------------------------------------------------------------------- memory


def held(studio: Studio) -> set[str]:
    return {pack.name for pack in studio.packs() if studio.is_loaded(pack.name)}


@pytest.fixture(scope="module")
def gigabytes(tiny_weights) -> float:
    """What the models of one tiny pack take: every weight is a float32."""
    pipeline = packs.load(packs.read(tiny_weights / "tiny"), "cpu")
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
        lambda studio: studio.sample("a", "circle", steps=1),
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


@pytest.mark.parametrize("memory", [NAN, -1, True, "2", None, [2]])
def test_an_amount_of_memory_that_is_none_is_refused(memory):
    with pytest.raises(ArgumentError, match="memory is .* it must be a number from 0"):
        Studio(memory=memory)


def test_errors_are_sentences_a_person_can_act_on(studio):
    """Each names the argument, its value and what is allowed."""
    with pytest.raises(ArgumentError) as error:
        studio.sample("tiny", "circle", count=99)
    assert re.fullmatch(rf"count is 99; .* 1 to {MAX_COUNT}", str(error.value))
