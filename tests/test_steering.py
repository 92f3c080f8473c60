"""Claims about the pipeline's finer controls: comparing predictions, guidance intervals, editing, mixing."""

import pytest
import torch
from conftest import every_sampler

from mmdemo.pipeline import slerp
from mmdemo.schedules import first_step, make_scheduler, noise_level, noised


def run(pipeline, labels=(0, 2), seeds=(11, 12), steps=6, guidance=2.0, sampler=None, **options):
    generators = [torch.Generator().manual_seed(seed) for seed in seeds]
    return list(pipeline.steps(labels, generators, steps, guidance, sampler, **options))


def noise(seed: int, size=(3, 4, 4)) -> torch.Tensor:
    return torch.randn(size, generator=torch.Generator().manual_seed(seed))


@every_sampler
def test_the_guided_guess_is_made_of_the_two_compared_ones(pipelines, pack, sampler):
    for step in run(pipelines[pack], guidance=2.5, sampler=sampler):
        expected = step.x0_null + 2.5 * (step.x0_label - step.x0_null)
        assert torch.allclose(step.x0, expected, rtol=1e-3, atol=1e-3 * float(expected.abs().max()))


def test_comparing_changes_no_pixel_and_costs_nothing_unasked(pipelines):
    for guidance, missing in ((1.0, "x0_null"), (0.0, "x0_label")):
        plain, compared = (run(pipelines["tiny"], guidance=guidance, compare=compare) for compare in (False, True))
        assert all(getattr(step, missing) is None for step in plain)
        assert all(getattr(step, missing) is not None for step in compared)
        assert torch.allclose(plain[-1].latents, compared[-1].latents, rtol=1e-4, atol=1e-4)


@every_sampler
def test_outside_the_guidance_interval_the_label_alone_decides(pipelines, pack, sampler):
    steps = run(pipelines[pack], guidance=3.0, sampler=sampler, guidance_interval=(0.3, 0.7), compare=True)
    inside = [0.3 <= step.noise_level <= 0.7 for step in steps]
    assert any(inside) and not all(inside)
    for step, is_inside in zip(steps, inside, strict=True):
        assert torch.equal(step.x0, step.x0_label) != is_inside


def test_the_widest_interval_is_no_interval(pipelines):
    assert torch.equal(
        run(pipelines["tiny"])[-1].latents, run(pipelines["tiny"], guidance_interval=(0.0, 1.0))[-1].latents
    )


@every_sampler
def test_an_edit_starts_from_the_picture_noised_in_closed_form(pipelines, pack, sampler):
    pipeline, x0 = pipelines[pack], torch.stack([noise(1), noise(2)])
    steps = run(pipeline, x0=x0, strength=0.5, sampler=sampler)
    assert len(steps) < len(run(pipeline, sampler=sampler))
    a, s = noise_level(make_scheduler(pipeline.scheduler), torch.tensor(steps[0].timestep))
    eps = torch.stack([noise(11), noise(12)])
    assert torch.allclose(steps[0].x_t, a * x0 + s * eps, rtol=1e-3, atol=2e-3)


@every_sampler
def test_the_weaker_an_edit_the_nearer_it_stays(pipelines, pack, sampler):
    x0 = torch.stack([noise(1), noise(2)])
    steps = {n: run(pipelines[pack], steps=10, x0=x0, strength=n / 10, guidance=1.0, sampler=sampler) for n in (1, 9)}
    change = {n: float((made[-1].latents - x0).square().mean()) for n, made in steps.items()}
    assert change[1] < change[9]
    assert len(steps[1]) < len(steps[9])


def test_from_full_strength_nothing_is_left_of_the_picture(pipelines):
    made = [run(pipelines["tiny"], x0=torch.stack([noise(i), noise(i)]))[-1].latents for i in (1, 2)]
    assert torch.equal(*made)
    assert torch.equal(made[0], run(pipelines["tiny"])[-1].latents)


@pytest.mark.parametrize(("strength", "first"), [(1.0, 0), (0.5, 10), (0.01, 19), (0.96, 1)])
def test_strength_is_the_share_of_steps_taken(strength, first):
    assert first_step(20, strength) == first


@every_sampler
def test_noising_to_no_noise_is_the_picture(pipelines, pack, sampler):
    scheduler = make_scheduler(pipelines[pack].scheduler, sampler)
    scheduler.set_timesteps(20)
    x0, last = noise(1)[None], scheduler.timesteps[-1]
    if hasattr(scheduler, "set_begin_index"):
        scheduler.set_begin_index(len(scheduler.timesteps) - 1)
    far = (noised(scheduler, x0, noise(2)[None], last) - x0).square().mean()
    assert far < 0.3


def test_a_mix_of_labels_begins_at_one_and_ends_at_the_other(pipelines):
    pipeline = pipelines["tiny"]
    ends = [run(pipeline, labels=(label,), seeds=(5,))[-1].latents for label in (0, 1)]
    mixed = [run(pipeline, labels=(0, 1), seeds=(5,), mix=[[1 - share, share]])[-1].latents for share in (0, 0.5, 1)]
    assert torch.allclose(mixed[0], ends[0], rtol=1e-4, atol=1e-4)
    assert torch.allclose(mixed[2], ends[1], rtol=1e-4, atol=1e-4)
    assert all((mixed[1] - end).abs().max() > 1e-3 for end in ends)


def test_noise_given_is_the_noise_started_from(pipelines):
    given = torch.stack([noise(11), noise(12)])
    assert torch.equal(
        run(pipelines["tiny"])[-1].latents, run(pipelines["tiny"], seeds=(1, 1), latents=given)[-1].latents
    )


def test_slerp_keeps_the_length_of_noise_and_meets_both_ends():
    a, b = noise(1, (4, 8, 8)), noise(2, (4, 8, 8))
    assert torch.allclose(slerp(a, b, 0.0), a, atol=1e-5) and torch.allclose(slerp(a, b, 1.0), b, atol=1e-5)
    middle = slerp(a, b, 0.5)
    assert abs(float(middle.std()) - 1) < 0.1 < 1 - float(torch.lerp(a, b, 0.5).std())
    assert torch.equal(slerp(a, a, 0.3), a)
