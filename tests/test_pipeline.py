"""The denoising loop, held against diffusers' schedulers driven by hand on the same noise."""

import inspect
import subprocess
import sys
import threading

import accelerate
import pytest
import torch
from conftest import every_sampler, flow_schedule, tiny_dit, tiny_vae, v_schedule
from diffusers import (
    DDIMScheduler,
    DDPMScheduler,
    DiTTransformer2DModel,
    DPMSolverMultistepScheduler,
    EulerDiscreteScheduler,
    FlowMatchEulerDiscreteScheduler,
    FlowMatchHeunDiscreteScheduler,
    HeunDiscreteScheduler,
    UniPCMultistepScheduler,
    VQModel,
)

from mmdemo import loading, packs, samplers
from mmdemo.pipeline import ClassPipeline
from mmdemo.schedules import make_scheduler, noise_level, prediction_type, x0_from_prediction

V = {"beta_schedule": "squaredcos_cap_v2", "prediction_type": "v_prediction", "timestep_spacing": "trailing"}
FLOW = {"use_flow_sigmas": True, "prediction_type": "flow_prediction"}
STEPS = 5


def theirs(pack: str, sampler: str, steps: int = STEPS):
    """The scheduler a person would set up by hand from diffusers' documentation, its timesteps set."""
    scheduler = {
        "tiny-v": {
            "ddim": lambda: DDIMScheduler(**V, clip_sample=False),
            "ddpm": lambda: DDPMScheduler(**V, clip_sample=False),
            "dpm++": lambda: DPMSolverMultistepScheduler(**V),
            "unipc": lambda: UniPCMultistepScheduler(**V),
            "euler": lambda: EulerDiscreteScheduler(**V),
            "heun": lambda: HeunDiscreteScheduler(**V),
        },
        "tiny": {
            "ddim": lambda: DPMSolverMultistepScheduler(**FLOW, solver_order=1),
            "ddpm": lambda: DPMSolverMultistepScheduler(**FLOW, solver_order=1, algorithm_type="sde-dpmsolver++"),
            "dpm++": lambda: DPMSolverMultistepScheduler(**FLOW),
            "unipc": lambda: UniPCMultistepScheduler(**FLOW),
            "euler": lambda: FlowMatchEulerDiscreteScheduler(),
            "heun": lambda: FlowMatchHeunDiscreteScheduler(),
        },
    }[pack][sampler]()
    if isinstance(scheduler, FlowMatchEulerDiscreteScheduler):
        scheduler.set_timesteps(sigmas=[1 - i / steps for i in range(steps)])
    else:
        scheduler.set_timesteps(steps)
    return scheduler


@torch.no_grad()
def by_hand(transformer, scheduler, labels: list[int], seeds: list[int], guidance: float, null: int = 3):
    """diffusers' documented loop: scale, predict with and without the label, step.  Gives the result and every x_t."""
    generators = [torch.Generator().manual_seed(seed) for seed in seeds]
    x = torch.stack([torch.randn(3, 4, 4, generator=g) for g in generators])
    x = x * getattr(scheduler, "init_noise_sigma", 1.0)
    random = {"generator": generators} if "generator" in inspect.signature(scheduler.step).parameters else {}
    seen, y = [], torch.tensor(labels)
    for t in scheduler.timesteps:
        x_t = scheduler.scale_model_input(x, t) if hasattr(scheduler, "scale_model_input") else x
        seen.append(x_t)
        time = t.repeat(len(x))
        with_label = transformer(x_t, timestep=time, class_labels=y).sample[:, :3]
        without = transformer(x_t, timestep=time, class_labels=torch.full_like(y, null)).sample[:, :3]
        x = scheduler.step(without + guidance * (with_label - without), t, x, **random).prev_sample
    return x, seen


def seeded(*seeds: int) -> list[torch.Generator]:
    return [torch.Generator().manual_seed(seed) for seed in seeds]


def run(pipeline, labels, seeds, guidance=2.0, sampler=None, steps=STEPS, **options):
    return list(pipeline.steps(labels, seeded(*seeds), steps, guidance, sampler, **options))


@every_sampler
def test_our_loop_is_diffusers_loop(pipelines, pack, sampler):
    pipeline = pipelines[pack]
    steps = run(pipeline, [0, 2], [11, 12], guidance=1.7, sampler=sampler)
    expected, seen = by_hand(pipeline.transformer, theirs(pack, sampler), [0, 2], [11, 12], guidance=1.7)
    assert len(steps) == len(seen) and {step.total for step in steps} == {len(seen)}
    assert [step.index for step in steps] == list(range(len(seen)))
    scale = float(expected.abs().max())
    assert torch.allclose(steps[-1].latents, expected, rtol=1e-4, atol=1e-4 * scale)
    for step, x_t in zip(steps, seen, strict=True):
        assert torch.allclose(step.x_t, x_t, rtol=1e-4, atol=1e-4 * float(x_t.abs().max()))


def test_a_pack_lists_the_samplers_that_fit_its_schedule_each_once(tiny_weights):
    for pack, fitting in (("tiny", samplers.FLOW), ("tiny-v", samplers.VARIANCE_PRESERVING)):
        assert sorted(packs.read(tiny_weights / pack).samplers) == sorted(fitting)


@every_sampler
def test_same_seed_gives_same_image_in_any_batch(pipelines, pack, sampler):
    pipeline = pipelines[pack]
    batch = run(pipeline, [0, 1, 2], [5, 6, 7], sampler=sampler)
    for i in range(3):
        alone = run(pipeline, [i], [5 + i], sampler=sampler)
        assert torch.equal(alone[0].x_t[0], batch[0].x_t[i]), "the noise depends on the batch"
        scale = float(alone[-1].latents.abs().max())
        assert torch.allclose(alone[-1].latents[0], batch[-1].latents[i], rtol=1e-4, atol=1e-4 * scale)
    again = run(pipeline, [0, 1, 2], [5, 6, 7], sampler=sampler)
    assert all(torch.equal(a.latents, b.latents) for a, b in zip(batch, again, strict=True))


@every_sampler
def test_all_randomness_comes_from_the_generators(pipelines, pack, sampler):
    results = []
    for seed in (0, 1234):
        torch.manual_seed(seed)
        state = torch.get_rng_state()
        results.append(run(pipelines[pack], [0, 1], [1, 2], sampler=sampler)[-1].latents)
        assert torch.equal(torch.get_rng_state(), state), "the global generator was drawn from"
    assert torch.equal(*results)


def test_the_stochastic_sampler_draws_noise_at_every_step_and_the_others_only_once(pipelines):
    for pack in ("tiny", "tiny-v"):
        for sampler in samplers.FLOW:
            (generator,) = seeded(3)
            list(pipelines[pack].steps([0], [generator], STEPS, 1.0, sampler))
            (once,) = seeded(3)
            torch.randn(3, 4, 4, generator=once)
            assert torch.equal(generator.get_state(), once.get_state()) == (sampler != "ddpm")


def test_without_generators_the_seed_of_others_is_left_alone(pipelines):
    torch.manual_seed(8)
    state = torch.get_rng_state()
    first, second = (list(pipelines["tiny"].steps([0], None, 2, 1.0))[0].x_t for _ in range(2))
    assert not torch.equal(first, second), "two calls without generators gave the same noise"
    assert torch.equal(torch.get_rng_state(), state), "the global generator was reseeded"


@pytest.mark.parametrize("pack", ["tiny", "tiny-v"])
def test_guidance_is_the_null_prediction_plus_its_multiple_of_the_difference(pipelines, pack):
    pipeline = pipelines[pack]
    transformer, (start,) = pipeline.transformer, run(pipeline, [1, 2], [1, 2], steps=1)
    t = torch.full((2,), start.timestep)
    a, s = noise_level(make_scheduler(pipeline.scheduler), torch.tensor(start.timestep))

    def x0(classes: list[int]) -> torch.Tensor:
        with torch.no_grad():
            prediction = transformer(start.x_t, timestep=t, class_labels=torch.tensor(classes)).sample
        return x0_from_prediction(prediction_type(pipeline.scheduler), prediction, start.x_t, a, s)

    label, null = x0([1, 2]), x0([3, 3])
    assert (label - null).abs().max() > 0.1
    for w in (0.0, 0.5, 1.0, 2.0, 7.5):
        (guided,) = run(pipeline, [1, 2], [1, 2], guidance=w, steps=1)
        assert torch.allclose(guided.x0, null + w * (label - null), rtol=1e-4, atol=1e-4)


def test_guidance_zero_does_not_depend_on_the_label_and_guidance_one_does(pipelines):
    for w, alike in ((0.0, True), (1.0, False), (3.0, False)):
        a, b = (run(pipelines["tiny"], [label], [4], guidance=w)[-1].latents for label in (0, 1))
        assert torch.allclose(a, b) == alike


SCHEDULES = {
    "epsilon": DDIMScheduler(**{**V, "prediction_type": "epsilon"}),
    "v_prediction": v_schedule(),
    "sample": DDIMScheduler(**{**V, "prediction_type": "sample"}),
    "flow": flow_schedule(),
}


@pytest.mark.parametrize("kind", SCHEDULES)
@pytest.mark.parametrize("time", [20, 500, 900])
def test_from_a_true_prediction_the_true_x0_comes_back(kind, time):
    scheduler, rng = SCHEDULES[kind], torch.Generator().manual_seed(0)
    x0, eps = (torch.randn(2, 3, 4, 4, generator=rng, dtype=torch.float64) for _ in range(2))
    t = torch.tensor([time, time])
    if kind == "flow":
        sigma = time / 1000
        x_t, v = (1 - sigma) * x0 + sigma * eps, eps - x0
    else:
        x_t, v = scheduler.add_noise(x0, eps, t), scheduler.get_velocity(x0, eps, t)
    prediction = {"epsilon": eps, "v_prediction": v, "sample": x0, "flow": v}[kind]
    assert prediction_type(scheduler) == kind
    a, s = noise_level(scheduler, torch.tensor(float(time)))
    assert torch.allclose(a.double() * x0 + s.double() * eps, x_t, atol=1e-5)
    assert torch.allclose(x0_from_prediction(kind, prediction, x_t, a.double(), s.double()), x0, atol=1e-4)


@pytest.mark.parametrize("sampler", ["ddim", "ddpm"])
def test_the_guess_of_x0_is_the_schedulers_own(pipelines, sampler):
    pipeline = pipelines["tiny-v"]
    scheduler = theirs("tiny-v", sampler)
    generators = seeded(2)
    for step in run(pipeline, [1], [2], guidance=1.0, sampler=sampler):
        t = scheduler.timesteps[step.index]
        with torch.no_grad():
            prediction = pipeline.transformer(step.x_t, timestep=t[None], class_labels=torch.tensor([1])).sample
        own = scheduler.step(prediction, t, step.x_t, generator=generators).pred_original_sample
        assert torch.allclose(step.x0, own, atol=1e-4)


@pytest.mark.parametrize(("pack", "sampler"), [(p, s) for p in ("tiny", "tiny-v") for s in ("ddim", "ddpm", "euler")])
def test_the_last_step_adds_no_noise(pipelines, pack, sampler):
    """A first-order step to noise level zero is the guess of x0 itself."""
    last = run(pipelines[pack], [1], [9], sampler=sampler)[-1]
    # DPM-Solver++ rounds its times down to whole ones, which moves the guess by a thousandth of the prediction.
    assert torch.allclose(last.latents, last.x0, atol=2e-2, rtol=1e-2)


@every_sampler
def test_noise_falls_from_pure_to_nearly_none(pipelines, pack, sampler):
    steps = run(pipelines[pack], [1], [9], sampler=sampler, steps=10)
    levels = [step.noise_level for step in steps]
    assert levels == sorted(levels, reverse=True)
    assert levels[0] > 0.98 and levels[-1] < 0.35
    times = [step.timestep for step in steps]
    assert times == sorted(times, reverse=True) and times[0] <= 1000 and times[-1] >= 0


def test_with_many_steps_all_deterministic_samplers_agree(pipelines):
    """They solve the same equation: what differs at few steps is how well."""
    names = [name for name in samplers.FLOW if name != "ddpm"]
    fine = {name: run(pipelines["tiny"], [1], [3], 1.0, name, 100)[-1].latents for name in names}
    coarse = run(pipelines["tiny"], [1], [3], 1.0, "euler", 3)[-1].latents
    far = (coarse - fine["heun"]).norm()
    for name, result in fine.items():
        assert (result - fine["heun"]).norm() < 0.25 * far, name


def test_every_request_has_a_scheduler_of_its_own(pipelines):
    for a, b in (("dpm++", "dpm++"), ("unipc", "ddpm"), ("euler", "heun"), (None, None)):
        pipeline = pipelines["tiny"]
        separate = [run(pipeline, [k], [20 + k], sampler=s) for k, s in enumerate((a, b))]
        woven = [pipeline.steps([k], seeded(20 + k), STEPS, 2.0, s) for k, s in enumerate((a, b))]
        seen = [[], []]
        for _ in range(2 * STEPS):
            for k in range(2):
                step = next(woven[k], None)
                seen[k] += [step] if step else []
        for k in range(2):
            assert [s.timestep for s in seen[k]] == [s.timestep for s in separate[k]]
            assert all(torch.equal(p.latents, q.latents) for p, q in zip(seen[k], separate[k], strict=True))


def test_the_packs_scheduler_is_never_stepped(pipelines):
    pipeline = pipelines["tiny-v"]
    before = dict(vars(pipeline.scheduler))
    run(pipeline, [0], [0])
    after = vars(pipeline.scheduler)
    assert before.keys() == after.keys() and all(before[name] is after[name] for name in before)
    assert make_scheduler(pipeline.scheduler, "ddim") is not make_scheduler(pipeline.scheduler, "ddim")


def test_a_generator_may_wake_up_in_another_thread(pipelines):
    expected = run(pipelines["tiny"], [0], [1])
    steps, seen = pipelines["tiny"].steps([0], seeded(1), STEPS, 2.0), []
    for _ in range(STEPS):
        thread = threading.Thread(target=lambda: seen.append(next(steps)))
        thread.start()
        thread.join()
        assert torch.is_grad_enabled() and not torch.is_inference_mode_enabled()
    assert all(torch.equal(a.latents, b.latents) for a, b in zip(seen, expected, strict=True))


def test_stopping_halfway_leaves_nothing_switched_off(pipelines):
    steps = pipelines["tiny"].steps([0], seeded(1), STEPS, 2.0)
    next(steps)
    steps.close()
    assert torch.is_grad_enabled() and not torch.is_inference_mode_enabled()
    assert next(steps, None) is None


def test_no_work_is_done_before_the_first_step_is_asked_for(pipelines):
    calls = []
    handle = pipelines["tiny"].transformer.register_forward_hook(lambda *_: calls.append(1))
    try:
        steps = pipelines["tiny"].steps([0], seeded(1), STEPS, 2.0)
        assert not calls
        next(steps)
        assert len(calls) == 1
    finally:
        handle.remove()


def test_tokens_and_pictures_of_a_step_belong_together(pipelines):
    pipeline = pipelines["tiny"]
    last = run(pipeline, [0, 1], [1, 2])[-1]
    ids = pipeline.tokens(last.latents)
    assert ids.shape == (2, 4, 4)
    codes = pipeline.vae.codebook[ids].movedim(-1, 1)
    assert torch.allclose(pipeline.vae.decode(codes).sample.clamp(-1, 1), pipeline.decode(last.latents), atol=1e-5)


def test_latents_are_scaled_by_their_standard_deviation(pipelines):
    pipeline = pipelines["tiny"]
    std = pipeline.vae.config.latent_std
    assert abs(std - 1) > 0.01, "the fixture's std is one: nothing to see"
    codes = pipeline.vae.codebook[:16].T.reshape(1, 3, 4, 4)
    assert torch.equal(pipeline.tokens(codes / std).flatten(), torch.arange(16))


def test_called_it_gives_the_last_steps_pictures(pipelines):
    pipeline = pipelines["tiny"]
    expected = pipeline.decode(run(pipeline, [0, 1], [1, 2])[-1].latents)
    tensors = pipeline([0, 1], seeded(1, 2), STEPS, 2.0, output_type="pt").images
    assert torch.equal(tensors, expected)
    (pictures,) = pipeline([0, 1], seeded(1, 2), STEPS, 2.0, return_dict=False)
    assert [picture.size for picture in pictures] == [(16, 16)] * 2 and pictures[0].mode == "L"


def test_it_is_an_ordinary_diffusers_pipeline(tiny_weights, tmp_path):
    first = ClassPipeline.from_pretrained(tiny_weights / "tiny", use_safetensors=True)
    assert first.config.id2label == {"0": "circle", "1": "square", "2": "triangle"}
    assert first.config.num_inference_steps == 6 and first.config.image_size == 16
    first.save_pretrained(tmp_path / "again")
    second = ClassPipeline.from_pretrained(tmp_path / "again", use_safetensors=True)
    for name in ("id2label", "image_size", "num_inference_steps", "guidance_scale", "sampler"):
        assert second.config[name] == first.config[name]
    a, b = (pipeline([0, 2], seeded(1, 2), output_type="pt").images for pipeline in (first, second))
    assert torch.equal(a, b) and a.dtype == torch.float32
    loaded = loading.load(packs.read(tiny_weights / "tiny"), "cpu")
    assert torch.equal(loaded([0, 2], seeded(1, 2), output_type="pt").images, a)


def test_what_a_call_does_not_say_is_the_packs_default(pipelines):
    pipeline = pipelines["tiny"]
    silent = list(pipeline.steps([1], seeded(1)))
    assert len(silent) == pipeline.config.num_inference_steps == 6
    said = list(pipeline.steps([1], seeded(1), 6, pipeline.config.guidance_scale, "euler"))
    assert torch.equal(silent[-1].latents, said[-1].latents)


def test_a_codec_alone_is_a_pipeline_that_says_it_cannot_sample(tiny_weights):
    pipeline = loading.load(packs.read(tiny_weights / "tiny-codec"), "cpu")
    assert pipeline.transformer is None
    with pytest.raises(ValueError, match="no transformer"):
        list(pipeline.steps([0]))


def test_an_unknown_sampler_is_refused_with_those_that_fit(pipelines):
    with pytest.raises(ValueError, match="'plms'.*euler"):
        run(pipelines["tiny"], [0], [0], sampler="plms")


def diffusers_pair(learned_variance: bool) -> ClassPipeline:
    torch.manual_seed(4)
    vae = VQModel(
        in_channels=1, out_channels=1, down_block_types=("DownEncoderBlock2D",) * 3,
        up_block_types=("UpDecoderBlock2D",) * 3, block_out_channels=(8, 8, 16), latent_channels=3,
        num_vq_embeddings=16, vq_embed_dim=3, norm_num_groups=4, sample_size=16,
    ).eval()  # fmt: skip
    transformer = DiTTransformer2DModel(
        num_attention_heads=2, attention_head_dim=8, in_channels=3, out_channels=6 if learned_variance else 3,
        num_layers=2, sample_size=4, num_embeds_ada_norm=3, norm_num_groups=1,
    ).eval()  # fmt: skip
    return ClassPipeline(vae, transformer, v_schedule(), id2label={"0": "a", "1": "b", "2": "c"}, image_size=16)


@pytest.mark.parametrize("learned_variance", [False, True])
def test_diffusers_own_models_work_alike(tmp_path, learned_variance):
    pipeline = diffusers_pair(learned_variance)
    last = run(pipeline, [0, 1], [1, 2], guidance=1.5, sampler="ddim")[-1]
    expected, _ = by_hand(pipeline.transformer, theirs("tiny-v", "ddim"), [0, 1], [1, 2], 1.5)
    assert torch.allclose(last.latents, expected, atol=1e-4)
    assert (last.latents[0] - last.latents[1]).abs().max() > 1e-2
    assert pipeline.decode(last.latents).shape == (2, 1, 16, 16)
    pipeline.save_pretrained(tmp_path / "pair")
    loaded = loading.load(packs.read(tmp_path / "pair"), "cpu")
    assert torch.allclose(run(loaded, [0, 1], [1, 2], 1.5, "ddim")[-1].latents, last.latents, atol=1e-5)


def test_labels_of_a_transformer_that_cannot_mix_them_are_mixed_by_its_predictions():
    pipeline = diffusers_pair(learned_variance=True)
    (a, *_), (b, *_) = (run(pipeline, [label], [1]) for label in (0, 2))
    (mixed, *_) = run(pipeline, [0, 2], [1, 1, 1], mix=[[1, 0], [0.25, 0.75], [0, 1]])
    for x0, share in zip(mixed.x0, (0, 0.75, 1), strict=True):
        assert torch.allclose(x0, torch.lerp(a.x0[0], b.x0[0], share), rtol=1e-3, atol=1e-3)
    assert (a.x0 - b.x0).abs().max() > 1e-2


def test_a_pipeline_made_by_hand_samples(tmp_path):
    pipeline = ClassPipeline(tiny_vae(), tiny_dit(), flow_schedule(), id2label={"0": "a"}, image_size=16)
    assert pipeline([0], seeded(1), 3).images[0].size == (16, 16)


def test_texts_are_read_again_once_others_are_asked_for_or_the_weights_have_changed(reading_weights):
    pack = packs.read(reading_weights / "words")
    pipeline = loading.load(pack, "cpu")
    model, asked = pipeline.transformer, ["a red circle", ""]
    first = pipeline.read(model, asked)
    assert pipeline.read(model, list(asked)) is first
    other = pipeline.read(model, ["a blue circle", ""])
    assert not torch.equal(other.embedding, first.embedding)
    assert torch.equal(pipeline.read(model, asked).embedding, first.embedding)
    with torch.no_grad():
        model.text.embed.weight.mul_(2)
    assert not torch.equal(pipeline.read(model, asked).embedding, first.embedding)
    with torch.inference_mode():
        pipeline = loading.load(pack, "cpu")
        assert torch.equal(pipeline.read(pipeline.transformer, asked).embedding, first.embedding)
        model = pipeline.transformer
        model.text.embed.weight.mul_(2)
        assert not torch.equal(pipeline.read(model, asked).embedding, first.embedding)


def test_where_something_moves_the_models_it_says_where_they_work():
    pipeline = ClassPipeline(tiny_vae(), tiny_dit(), flow_schedule(), id2label={"0": "a"}, image_size=16)
    assert pipeline._execution_device == torch.device("cpu")
    for model in (pipeline.vae, pipeline.transformer):
        accelerate.hooks.add_hook_to_module(model, accelerate.hooks.CpuOffload("meta"))
    assert pipeline._execution_device == torch.device("meta")


def test_a_pack_is_an_ordinary_diffusers_pipeline_to_a_python_that_has_imported_nothing_else(tiny_weights):
    opened = f"ClassPipeline.from_pretrained({str(tiny_weights / 'tiny')!r}, use_safetensors=True)"
    script = f"from mmdemo.pipeline import ClassPipeline; print({opened}([1], num_inference_steps=1).images[0].size)"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0 and done.stdout == "(16, 16)\n", done.stderr
    assert "annotation" not in done.stderr
