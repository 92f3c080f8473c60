"""A student: a transformer that draws in a few jumps what its pack's transformer draws in many steps."""

import json
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from conftest import tiny_dit, v_schedule
from test_training import SHORT_CODEC, SHORT_TRANSFORMER, stop_after

from mmdemo import loading, packs, provenance
from mmdemo.errors import ArgumentError, PackError
from mmdemo.models.dit import DiT
from mmdemo.samplers import FAST, MAX_JUMPS, USUAL_JUMPS
from mmdemo.schedules import Jumps, stops
from mmdemo.studio import Studio
from mmdemo.training import export
from mmdemo.training.config import StudentConfig
from mmdemo.training.dit import train_dit
from mmdemo.training.student import _shorten, train_student
from mmdemo.training.vqvae import train_vqvae

SHORT = StudentConfig(trajectories=600, steps=250, batch_size=32, warmup=10, learning_rate=2e-3, ema_decay=0.98)


@pytest.fixture(scope="module")
def before(tmp_path_factory) -> Path:
    """A pack with codec and transformer, which draws in 12 guided steps."""
    folder = tmp_path_factory.mktemp("before")
    list(train_vqvae(SHORT_CODEC, folder / "pack", folder / "run"))
    list(train_dit(SHORT_TRANSFORMER, folder / "pack", folder / "run"))
    (folder / "pack" / "examples").mkdir()
    (folder / "pack" / "examples" / "note.txt").write_text("kept")
    export.set_defaults(folder / "pack", num_inference_steps=12, guidance_scale=3.0, sampler="dpm++")
    return folder


@pytest.fixture(scope="module")
def after(before, tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("after")
    shutil.copytree(before, folder, dirs_exist_ok=True)
    list(train_student(SHORT, folder / "pack", folder / "run"))
    return folder


@pytest.fixture
def copied(after, tmp_path) -> Path:
    shutil.copytree(after, tmp_path / "copied")
    return tmp_path / "copied"


def last(pipeline, count: int, sampler: str) -> torch.Tensor:
    generators = [torch.Generator().manual_seed(seed) for seed in range(20)]
    *_, step = pipeline.steps([seed % 3 for seed in range(20)], generators, count, sampler=sampler)
    return step.latents


def test_a_student_comes_nearer_to_many_steps_than_as_many_of_its_teacher(after):
    pipeline = loading.load(packs.read(after / "pack"), "cpu")
    many = last(pipeline, 12, "dpm++")
    for count in (1, 2, USUAL_JUMPS):
        jumped, stepped = ((last(pipeline, count, sampler) - many).square().mean() for sampler in (FAST, "euler"))
        assert jumped < stepped / 2, count


def test_the_rest_of_the_pack_is_what_it_was(before, after):
    kept = (
        "examples/note.txt",
        "transformer/diffusion_pytorch_model.safetensors",
        "vae/diffusion_pytorch_model.safetensors",
    )
    for file in (*kept, "scheduler/scheduler_config.json", "codebook/codebook.json"):
        assert (after / "pack" / file).read_bytes() == (before / "pack" / file).read_bytes(), file
    old, new = (packs.read(folder / "pack") for folder in (before, after))
    assert new.problem is None and new.defaults == old.defaults
    assert new.samplers == (*old.samplers, FAST) and FAST in new.json()["samplers"]
    assert provenance.read_training(after / "pack")["student"]["steps"] == SHORT.steps


def test_a_resumed_student_is_the_uninterrupted_one(before, after, tmp_path):
    shutil.copytree(before, tmp_path / "copy")
    pack, run = tmp_path / "copy" / "pack", tmp_path / "copy" / "run"
    stop_after(train_student(SHORT, pack, run, checkpoint_every=100), 150)
    list(train_student(SHORT, pack, run, resume=True))
    for file in (after / "pack" / "student").glob("*"):
        assert (pack / "student" / file.name).read_bytes() == file.read_bytes(), file.name


def test_drawings_that_are_there_are_not_made_again(after, tmp_path):
    shutil.copytree(after, tmp_path / "copy")
    made = sorted((tmp_path / "copy" / "run" / "drawings").glob("*/*"))
    times = [file.stat().st_mtime_ns for file in made]
    next(train_student(replace(SHORT, steps=1), tmp_path / "copy" / "pack", tmp_path / "copy" / "run"))
    assert made and [file.stat().st_mtime_ns for file in made] == times


def test_jumps_end_at_the_clean_picture_whatever_their_number():
    times = [1000.0, 900.0, 650.0, 300.0, 100.0, 0.0]
    for count in range(1, 6):
        assert stops(6, count)[0] == 0 and stops(6, count)[-1] == 5
        jumps = Jumps(times, count, torch.device("cpu"))
        x, eps = torch.zeros(1), torch.ones(1)
        for t in jumps.timesteps:  # along a straight path every jump has the same mean flow
            (eps,) = jumps.step(torch.ones(1), t, eps)
        assert torch.allclose(eps, x, atol=1e-6)


def test_fast_is_asked_for_four_jumps_and_at_most_eight(after):
    studio = Studio([after])
    assert studio.sample("pack", "circle", 1, 3, sampler=FAST).result().recipe.steps == USUAL_JUMPS
    assert (
        studio.sample("pack", "circle", 1, 3, 1, sampler=FAST).result().recipe.words()
        == "seed 3, 1 step of fast, guidance 3"
    )
    with pytest.raises(ArgumentError, match=f"steps is 9; it must be a whole number from 1 to {MAX_JUMPS}"):
        studio.sample("pack", "circle", 1, 3, 9, sampler=FAST)


@pytest.mark.parametrize(
    ("setting", "learned"),
    [
        ({"guidance": 2.0}, r"with 3\.0;"),
        ({"interval": (0.1, 0.5)}, r"with \(0\.0, 1\.0\);"),
        ({"negative": "square"}, "without one;"),
    ],
)
def test_guidance_is_in_the_student_and_no_other_can_be_asked_for(after, setting, learned):
    studio = Studio([after])
    with pytest.raises(ArgumentError, match=f"fast has learned to draw {learned}"):
        studio.sample("pack", "circle", 1, 3, sampler=FAST, **setting)


def test_a_film_an_edit_and_a_strip_can_be_drawn_fast(after):
    studio = Studio([after])
    film = list(studio.denoise("pack", "circle", 3, sampler=FAST))
    assert len(film) == USUAL_JUMPS
    alone = studio.sample("pack", "circle", 1, 3, sampler=FAST).result()
    assert film[-1].x0.tobytes() == alone.images[0].tobytes()
    assert studio.edit("pack", alone.images[0], "square", 0.5, 3, sampler=FAST).result().taken == 2
    assert len(studio.morph("pack", "circle", "square", 3, count=3, sampler=FAST).result().images) == 3


DOWN = [1000.0 - 100 * n for n in range(10)]


@pytest.mark.parametrize("times", [[0], [*DOWN[:7], 0], DOWN, [1.0, *DOWN, 0.0], "noon", [float("nan"), *DOWN, 0]])
def test_a_student_that_does_not_know_its_times_is_refused_in_one_sentence(copied, times):
    file = copied / "pack" / "student" / "config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | {"times": times}))
    assert "times" in packs.read(copied / "pack").problem


def test_a_sampler_that_draws_noise_at_every_step_has_nothing_to_teach(copied):
    export.set_defaults(copied / "pack", sampler="ddpm")
    with pytest.raises(PackError, match="on no single path"):
        next(train_student(SHORT, copied / "pack", copied / "run"))


def test_a_pack_that_draws_in_fewer_steps_than_a_student_may_has_nothing_to_teach(copied):
    export.set_defaults(copied / "pack", num_inference_steps=MAX_JUMPS - 1)
    with pytest.raises(PackError, match=f"draws in {MAX_JUMPS - 1} steps by itself"):
        next(train_student(SHORT, copied / "pack", copied / "run"))


def test_the_sampler_of_a_student_has_nothing_to_teach(copied):
    export.set_defaults(copied / "pack", sampler=FAST)
    with pytest.raises(PackError, match="draws by fast"):
        next(train_student(SHORT, copied / "pack", copied / "run"))


def test_with_another_transformer_the_student_of_the_last_one_is_gone(copied):
    list(train_dit(replace(SHORT_TRANSFORMER, steps=2), copied / "pack", copied / "run"))
    assert FAST not in packs.read(copied / "pack").samplers and not (copied / "pack" / "student").exists()
    assert list(provenance.read_training(copied / "pack")) == ["vqvae", "dit"]


@pytest.mark.parametrize(
    ("depth", "blocks", "skips"),
    [(8, range(8), range(4)), (5, (0, 1, 2, 6, 7), (2, 3)), (4, (0, 1, 6, 7), (2, 3)), (1, [0], [])],
)
def test_a_smaller_student_begins_with_some_blocks_of_its_teacher_each_with_its_partner(depth, blocks, skips):
    model = tiny_dit(depth=8, long_skips=True, times=[*DOWN, 0.0])
    every, leading = list(model.blocks), list(model.skips)
    _shorten(model, depth)
    assert [every.index(block) for block in model.blocks] == list(blocks) and model.config.depth == depth
    assert [leading.index(skip) for skip in model.skips] == list(skips)
    again = DiT.from_config(model.config)
    again.load_state_dict(model.state_dict())
    asked = torch.randn(2, 3, 4, 4), torch.tensor(500.0), torch.tensor([0, 1])
    assert torch.equal(again(*asked, until=torch.tensor(0.0)).sample, model(*asked, until=torch.tensor(0.0)).sample)


def test_a_student_teaches_a_smaller_one_and_both_are_on_the_record(copied):
    pack, run, own = copied / "pack", copied / "run", packs.read(copied / "pack").defaults
    drawn = last(loading.load(packs.read(pack), "cpu"), MAX_JUMPS, FAST)
    list(train_student(replace(SHORT, teacher="student", depth=1), pack, run))
    pipeline = loading.load(packs.read(pack), "cpu")
    assert (len(pipeline.transformer.blocks), len(pipeline.student.blocks)) == (SHORT_TRANSFORMER.depth, 1)
    assert len(pipeline.student.config.times) == MAX_JUMPS + 1 and packs.read(pack).defaults == own
    for count in (1, USUAL_JUMPS):
        jumped, stepped = ((last(pipeline, count, sampler) - drawn).square().mean() for sampler in (FAST, "euler"))
        assert jumped < stepped / 2, count
    first, second = provenance.in_order(provenance.read_training(pack)["student"])
    assert (first["teacher"], second["teacher"], second["depth"]) == ("transformer", "student", 1)
    with pytest.raises(PackError, match="depth is 2; the student of 'pack' has 1 block to begin with"):
        next(train_student(replace(SHORT, teacher="student", depth=2), pack, run))


def test_a_pack_without_a_student_has_none_that_could_teach(before):
    with pytest.raises(PackError, match="has no student that could teach another; first: python -m mmdemo train"):
        next(train_student(replace(SHORT, teacher="student"), before / "pack", before / "run"))


def test_a_codec_alone_has_nothing_to_teach(tiny_weights, tmp_path):
    with pytest.raises(PackError, match="it has no transformer"):
        next(train_student(SHORT, tiny_weights / "tiny-codec", tmp_path))


def test_a_student_of_a_variance_preserving_schedule_jumps_too(tiny_weights, tmp_path):
    shutil.copytree(tiny_weights / "tiny-v", tmp_path / "pack")
    assert v_schedule().config.prediction_type == "v_prediction"
    export.set_defaults(tmp_path / "pack", num_inference_steps=MAX_JUMPS)
    list(train_student(replace(SHORT, trajectories=20, steps=2), tmp_path / "pack", tmp_path / "run"))
    assert FAST in packs.read(tmp_path / "pack").samplers


def test_jumps_restore_nothing_and_say_what_does(after):
    studio = Studio([after])
    picture = studio.sample("pack", "circle", 1, 3, sampler=FAST).result().images[0]
    with pytest.raises(ArgumentError, match="sampler is 'fast'.*choose dpm"):
        studio.restore("pack", picture, "denoise", sampler=FAST)
