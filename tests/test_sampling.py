"""What drawing is watched, edited, compared and mixed by: every number and picture held against one made by hand."""

import json
import shutil

import numpy as np
import pytest
import torch
from conftest import TINY_CLASSES, alike, array, digit, same, v_schedule

from mmdemo import codec, loading, packs, samplers
from mmdemo.arguments import AXES
from mmdemo.images import to_images, to_tensor
from mmdemo.pipeline import ClassPipeline
from mmdemo.sampling import MAX_WORDS
from mmdemo.studio import Studio
from mmdemo.training import export

WEIGHTS = "lively_weights"
both_schedules = pytest.mark.parametrize("pack", ["tiny", "tiny-v"])


@pytest.fixture(scope="module")
def pipelines(lively_weights):
    return {name: loading.load(packs.read(lively_weights / name), "cpu") for name in ("tiny", "tiny-v")}


def clean_latents(pipeline, image) -> torch.Tensor:
    vae = pipeline.vae
    with torch.no_grad():
        return vae.encode(to_tensor(image)[None]).latents / vae.config.latent_std


# ------------------------------------------------------------------------------------------------------------- a film


@both_schedules
def test_flips_are_the_tokens_in_which_two_frames_differ(studio, pack):
    frames = list(studio.denoise(pack, "circle", 3, 8))
    assert frames[0].flips == []
    for before, now in zip(frames, frames[1:], strict=False):
        differ = np.argwhere(np.array(before.tokens) != np.array(now.tokens))
        assert now.flips == [tuple(place) for place in differ.tolist()]
    assert any(frame.flips for frame in frames)


def test_a_word_pulls_by_what_changes_when_it_is_left_out(reading_weights):
    studio, text = Studio([reading_weights], device="cpu"), "a large zebra circle, 红色"
    pipeline = loading.load(packs.read(reading_weights / "words"), "cpu")
    frames = list(studio.denoise("words", text, 3, 4))
    steps = list(pipeline.steps([text], [torch.Generator().manual_seed(3)], 4))
    for frame, step in zip(frames, steps, strict=True):
        assert [pull.word for pull in frame.pulls] == ["a", "large", "circle", "红", "色"]  # those that were read
        for pull in frame.pulls:
            assert text[pull.start : pull.end] == pull.word
            shorter = text[: pull.start] + text[pull.end :]
            with torch.no_grad():
                full, less = (
                    pipeline.transformer(step.x_t, torch.tensor(step.timestep), pipeline.label_ids([one])).sample
                    for one in (text, shorter)
                )
            change = (full - less).abs().mean(1)[0]
            assert torch.allclose(torch.tensor(pull.map), change, atol=1e-5) and change.max() > 1e-3
            assert pull.mean == pytest.approx(change.mean().item(), abs=1e-5)
    assert "pulls" not in frames[0].json()
    assert len(next(studio.denoise("words", "red circle " * MAX_WORDS, 3, 4)).pulls) == MAX_WORDS  # at most
    assert (
        next(studio.denoise("words", "zebra", 3, 4)).pulls == next(studio.denoise("tiny", "circle", 3, 4)).pulls == []
    )


@both_schedules
def test_a_frames_tokens_decode_to_its_picture_and_the_last_to_the_result(studio, pack):
    *before, last = studio.denoise(pack, "square", 5, 4)
    for frame in (*before, last):
        assert alike(studio.decode(pack, frame.tokens), frame.x0)
    assert alike(last.x0, studio.sample(pack, "square", 1, 5, 4).images[0])


def test_the_guess_is_the_labels_at_guidance_1_and_nobodys_at_0(studio):
    for guidance, its, other in ((1, "x0_label", "x0_null"), (0, "x0_null", "x0_label")):
        frames = list(studio.denoise("tiny", "circle", 3, 5, guidance))[:-1]
        assert all(alike(frame.x0, getattr(frame, its)) for frame in frames)
        assert any(not alike(frame.x0, getattr(frame, other)) for frame in frames)


@both_schedules
def test_the_distance_is_that_to_the_nearest_codes_in_standard_deviations(studio, pipelines, pack):
    pipeline = pipelines[pack]
    codes = pipeline.vae.codebook / pipeline.vae.config.latent_std
    frames = list(studio.denoise(pack, "circle", 3, 5, 2.0))
    steps = list(pipeline.steps([0], [torch.Generator().manual_seed(3)], 5, 2.0, compare=True))
    for frame, step in zip(frames, steps, strict=True):
        x0 = step.latents if frame is frames[-1] else step.x0
        cells = x0.movedim(1, -1).reshape(-1, 3)
        assert frame.distance == pytest.approx(float(torch.cdist(cells, codes).min(1).values.mean()), rel=1e-3)
        assert (frame.noise_level, frame.timestep) == (step.noise_level, step.timestep)
    json.dumps([frame.json() for frame in frames], allow_nan=False)


def test_a_picture_nobody_looks_at_is_not_decoded(lively_weights):
    studio, decoded = Studio(weights=[lively_weights], device="cpu"), []
    studio.load("tiny")
    decoder = studio._pipelines["tiny"][1].vae.decoder
    decoder.register_forward_hook(lambda module, given, made: decoded.append(len(made)))
    frames = list(studio.denoise("tiny", "circle", 3, 6))
    assert decoded == []
    assert frames[2].x_t.size == frames[2].x0_null.size == (16, 16)
    assert decoded == [4], "the four pictures of a frame are decoded together, and once"
    decoded.clear()
    studio.sample("tiny", "all", 3, 3, 6).result()
    assert decoded == [3]


def test_a_frame_looked_at_late_shows_what_it_showed_at_once(studio):
    at_once = [frame.pictures for frame in studio.denoise("tiny", "circle", 3, 5, sampler="ddpm")]
    late = [frame.pictures for frame in list(studio.denoise("tiny", "circle", 3, 5, sampler="ddpm"))]
    assert same(at_once, late)


def test_guidance_is_on_within_the_interval_alone_and_said_to_be(studio):
    frames = list(studio.denoise("tiny", "circle", 3, 10, 3.0, interval=[0.25, 0.75]))
    inside = [0.25 <= frame.noise_level <= 0.75 for frame in frames]
    assert [frame.guided for frame in frames] == inside and any(inside) and not all(inside)
    assert frames[0].recipe.interval == (0.25, 0.75) and frames[0].json()["interval"] == (0.25, 0.75)
    nowhere = studio.sample("tiny", "circle", 2, 3, 5, 3.0, interval=[0, 0])
    label_alone, guided = (studio.sample("tiny", "circle", 2, 3, 5, guidance) for guidance in (1.0, 3.0))
    for i in range(2):
        assert alike(nowhere.images[i], label_alone.images[i]) and not alike(nowhere.images[i], guided.images[i])


def test_a_packs_own_interval_is_what_is_used_where_none_is_given(lively_weights, tmp_path, pipelines):
    shutil.copytree(lively_weights / "tiny", tmp_path / "tiny")
    export.set_defaults(tmp_path / "tiny", guidance_scale=3.0, guidance_interval=[0.3, 0.6])
    studio = Studio(weights=[tmp_path], device="cpu")
    assert studio.packs()[0].defaults.interval == (0.3, 0.6)
    made = studio.sample("tiny", "circle", 1, 2)
    assert made.recipe.interval == (0.3, 0.6)
    everywhere = studio.sample("tiny", "circle", 1, 2, interval=[0, 1])
    assert everywhere.recipe.interval == (0, 1) and not alike(made.images[0], everywhere.images[0])
    saved = ClassPipeline.from_pretrained(tmp_path / "tiny")
    assert alike(saved([0], [torch.Generator().manual_seed(2)]).images[0], made.images[0])
    by_hand = pipelines["tiny"]([0], [torch.Generator().manual_seed(2)], 6, 3.0, guidance_interval=(0.3, 0.6))
    assert alike(by_hand.images[0], made.images[0])


@pytest.mark.parametrize("interval", [[0.6, 0.3], [0.3], "all", [0, 2], [None, 1], {}])
def test_a_pack_with_an_impossible_interval_says_so(lively_weights, tmp_path, interval):
    shutil.copytree(lively_weights / "tiny", tmp_path / "tiny")
    export.set_defaults(tmp_path / "tiny", guidance_interval=interval)
    assert "guidance_interval" in packs.read(tmp_path / "tiny").problem


# --------------------------------------------------------------------------------------------------- noise, and edits


def test_noise_frames_are_the_closed_form(studio, pipelines):
    seen = studio.reconstruct("tiny", digit()).original
    eps = torch.randn((3, 4, 4), generator=torch.Generator().manual_seed(9))[None]
    alphabar = v_schedule().alphas_cumprod
    for pack in ("tiny", "tiny-v"):
        frames = list(studio.noise(pack, digit(), 9, 5))
        x0, vae = clean_latents(pipelines[pack], seen), pipelines[pack].vae
        assert [frame.index for frame in frames] == list(range(5)) and {frame.total for frame in frames} == {5}
        for frame in frames:
            t = frame.timestep
            signal = 1 - t / 1000 if pack == "tiny" else float(alphabar[int(t)]) ** 0.5
            spread = t / 1000 if pack == "tiny" else (1 - float(alphabar[int(t)])) ** 0.5
            assert (frame.a, frame.s) == pytest.approx((signal, spread), abs=1e-5)
            assert frame.noise_level == pytest.approx(spread / (signal + spread), abs=1e-5)
            expected = codec.decode(vae, (signal * x0 + spread * eps) * vae.config.latent_std)
            assert alike(frame.image, to_images(expected)[0])
        json.dumps([frame.json() for frame in frames], allow_nan=False)


@pytest.mark.parametrize("sampler", samplers.FLOW)
def test_a_picture_is_noised_at_the_times_at_which_it_would_be_denoised(studio, sampler):
    levels = [frame.noise_level for frame in studio.noise("tiny", digit(), 9, 6, sampler)]
    assert levels == sorted(levels) and len(set(levels)) == len(levels)
    visited = {frame.noise_level for frame in studio.denoise("tiny", "circle", 9, 6, sampler=sampler)}
    assert levels == pytest.approx(sorted(visited), abs=1e-3)


def test_without_a_seed_the_noise_says_which_it_drew(studio):
    first = list(studio.noise("tiny", digit(), steps=3))
    again = list(studio.noise("tiny", digit(), first[0].seed, steps=3))
    assert all(same(a.image, b.image) for a, b in zip(first, again, strict=True))
    assert len({next(studio.noise("tiny", digit(), steps=2)).seed for _ in range(3)}) == 3


@both_schedules
def test_an_edit_begins_at_a_frame_of_the_noised_film(studio, pack):
    first = next(studio.edit(pack, digit(), "square", 0.5, 9, 6))
    (noised,) = (frame for frame in studio.noise(pack, digit(), 9, 6) if frame.timestep == first.timestep)
    assert alike(first.x_t, noised.image) and first.total == 3
    assert same(first.original, studio.reconstruct(pack, digit()).original)


@pytest.mark.parametrize("sampler", samplers.FLOW)
def test_at_strength_1_an_edit_is_a_sample_and_near_0_a_reconstruction(studio, sampler):
    rest = {"seed": 4, "guidance": 1.5, "sampler": sampler}
    whole = studio.edit("tiny", digit(), "triangle", 1, steps=6, **rest)
    assert alike(whole.image, studio.sample("tiny", "triangle", 1, steps=6, **rest).images[0])
    rebuilt = array(studio.reconstruct("tiny", digit()).image)
    slight = studio.edit("tiny", digit(), "triangle", 0.004, steps=250, **rest)
    assert slight.taken <= 2 < whole.taken
    assert abs(array(slight.image) - rebuilt).mean() < abs(array(whole.image) - rebuilt).mean() / 4


def test_an_edit_is_the_last_frame_of_its_film_and_says_how_it_was_made(studio):
    run = studio.edit("tiny", digit(), "square", 0.7, 4, 8, 2.0, "heun", "no", [0.1, 0.9])
    *_, last = run
    made = run.result()
    assert same(made.image, last.x0) and same(made.original, last.original)
    told = json.loads(json.dumps(made.json()))
    settings = {"pack": "tiny", "label": "square", "strength": 0.7, "seed": 4, "steps": 8, "guidance": 2.0}
    assert settings.items() <= told.items() and told["sampler"] == "heun" and told["interval"] == [0.1, 0.9]
    assert told["taken"] == 6, "of 8 steps, though Heun looks at each twice"
    assert last.total > 8


def test_the_same_edit_twice_is_the_same_and_another_label_another(studio):
    def edit(label, seed=4):
        return studio.edit("tiny", digit(), label, 0.8, seed, 6, 3.0).image

    assert same(edit("circle"), edit("circle"))
    assert not same(edit("circle"), edit("square")) and not same(edit("circle"), edit("circle", 5))


def test_an_edit_sees_the_picture_inverted_if_asked(studio):
    light = digit(ink=0, paper=255)
    made = {how: studio.edit("tiny", light, "circle", 0.3, 4, 6, invert=how) for how in ("auto", "yes", "no")}
    assert same(made["auto"].original, made["yes"].original)
    assert np.array_equal(array(made["no"].original), 255 - array(made["yes"].original))


# ------------------------------------------------------------------------------------------- comparisons and strips

VALUES = {
    "steps": [2, 3],
    "guidance": [0.5, 3],
    "sampler": ["euler", "ddpm"],
    "seed": [1, 2, 3],
    "label": ["square", "triangle"],
}


@pytest.mark.parametrize(("x", "y"), [(x, y) for x in AXES for y in AXES if x < y])
def test_every_cell_is_what_sample_gives_for_its_settings(studio, x, y):
    base = {"label": "circle", "seed": 7, "steps": 2, "guidance": 1.5, "sampler": "euler"}
    cells = list(studio.compare("tiny", x, VALUES[x], y, VALUES[y], **base))
    places = [(row, column) for row in range(len(VALUES[y])) for column in range(len(VALUES[x]))]
    assert [(cell.row, cell.column) for cell in cells] == places
    for cell in cells:
        meant = base | {x: VALUES[x][cell.column], y: VALUES[y][cell.row]}
        assert meant.items() <= cell.json().items()
        assert same(cell.image, studio.sample("tiny", count=1, **meant).images[0])
        assert cell.seconds > 0


def test_cells_without_a_seed_or_a_label_share_a_drawn_seed_and_the_first_class(studio):
    cells = list(studio.compare("tiny", "steps", [1, 2], "guidance", [0, 2]))
    assert len({cell.recipe.seed for cell in cells}) == 1 and {cell.label for cell in cells} == {"circle"}
    assert cells[0].recipe.seed != next(studio.compare("tiny", "steps", [1], "guidance", [0])).recipe.seed


def test_cells_come_one_by_one(lively_weights):
    studio, asked = Studio(weights=[lively_weights], device="cpu"), []
    studio.load("tiny")
    transformer = studio._pipelines["tiny"][1].transformer
    transformer.register_forward_hook(lambda *_: asked.append(1))
    cells = studio.compare("tiny", "steps", [2, 3], "seed", [1, 2], sampler="euler")
    next(cells)
    assert len(asked) == 2
    next(cells)
    assert len(asked) == 5


@pytest.mark.parametrize("sampler", samplers.FLOW)
def test_the_ends_of_a_strip_are_what_sample_gives(studio, sampler):
    strip = studio.morph("tiny", "circle", "square", 3, 8, 4, 5, 2.0, sampler).result()
    assert strip.shares == pytest.approx([0, 1 / 3, 2 / 3, 1]) and len(strip.images) == 4
    for picture, label, seed in ((strip.images[0], "circle", 3), (strip.images[-1], "square", 8)):
        assert alike(picture, studio.sample("tiny", label, 1, seed, 5, 2.0, sampler).images[0])
    told = strip.json()
    assert (told["label"], told["other_label"], told["seed"], told["other_seed"]) == ("circle", "square", 3, 8)


def test_a_strip_may_change_the_label_alone_or_the_seed_alone(studio):
    by_label = studio.morph("tiny", "circle", "square", 3, count=2, steps=4)
    assert by_label.other_seed == by_label.recipe.seed == 3
    assert alike(by_label.images[1], studio.sample("tiny", "square", 1, 3, 4).images[0])
    by_seed = studio.morph("tiny", "circle", seed=3, other_seed=8, count=3, steps=4)
    assert by_seed.other_label == by_seed.label == "circle"
    assert alike(by_seed.images[2], studio.sample("tiny", "circle", 1, 8, 4).images[0])
    assert not alike(by_seed.images[1], by_seed.images[0]) and not alike(by_seed.images[1], by_seed.images[2])


def test_every_class_can_be_what_a_picture_is_turned_into(studio):
    assert {studio.edit("tiny", digit(), label, 0.5, 0, 2).label for label in TINY_CLASSES} == set(TINY_CLASSES)
