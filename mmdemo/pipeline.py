"""ClassPipeline: the only denoising loop. It knows a codec, a transformer and a schedule; not packs, pages or files.

`steps()` is a generator of Steps, so the caller owns progress, stopping and drawing; `__call__` drains it. The
transformer denoises the codec's continuous latents z divided by their standard deviation; decoding snaps them to the
nearest codes, so every step's guess of x0 is also a grid of tokens.

Along every schedule x_t = a x0 + s eps, with (a, s) = (sqrt(alphabar_t), sqrt(1 - alphabar_t)) for the
variance-preserving ones (DDPM, arXiv:2006.11239, eq. 4) and (1 - sigma, sigma) for the straight one (rectified flow,
arXiv:2209.03003).
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from diffusers import (
    DDIMScheduler,
    DDPMScheduler,
    DiffusionPipeline,
    DPMSolverMultistepScheduler,
    EulerDiscreteScheduler,
    FlowMatchEulerDiscreteScheduler,
    FlowMatchHeunDiscreteScheduler,
    HeunDiscreteScheduler,
    UniPCMultistepScheduler,
)
from diffusers.pipelines.pipeline_utils import ImagePipelineOutput
from torch import Tensor

from mmdemo import codec
from mmdemo.images import to_images

_FLOW = {"use_flow_sigmas": True, "prediction_type": "flow_prediction"}
_FIRST_ORDER = {**_FLOW, "solver_order": 1, "lower_order_final": True}
SAMPLERS = {
    "vp": {
        "ddim": (DDIMScheduler, {}),
        "ddpm": (DDPMScheduler, {}),
        "dpm++": (DPMSolverMultistepScheduler, {}),
        "unipc": (UniPCMultistepScheduler, {}),
        "euler": (EulerDiscreteScheduler, {}),
        "heun": (HeunDiscreteScheduler, {}),
    },
    # On the straight path DDIM is first-order DPM-Solver++, and DDPM its stochastic twin (arXiv:2211.01095, section 4).
    "flow": {
        "ddim": (DPMSolverMultistepScheduler, {**_FIRST_ORDER, "algorithm_type": "dpmsolver++"}),
        "ddpm": (DPMSolverMultistepScheduler, {**_FIRST_ORDER, "algorithm_type": "sde-dpmsolver++"}),
        "dpm++": (DPMSolverMultistepScheduler, _FLOW),
        "unipc": (UniPCMultistepScheduler, _FLOW),
        "euler": (FlowMatchEulerDiscreteScheduler, {}),
        "heun": (FlowMatchHeunDiscreteScheduler, {}),
    },
}


@dataclass(frozen=True)
class Step:
    """One denoising step, as seen before it is taken."""

    index: int  # from 0
    total: int
    timestep: float  # in [0, 1000]
    noise_level: float  # s / (a + s): 1 = pure noise, 0 = clean
    x_t: Tensor  # (B, d, h, w) noisy latents on the schedule, in units of latent_std
    x0: Tensor  # (B, d, h, w) the prediction of the clean latents, same units
    latents: Tensor  # (B, d, h, w) what the sampler made of it; after the last step, the result


class ClassPipeline(DiffusionPipeline):
    """Images by class: a diffusers pipeline.

    vae: VQVAE or VQModel.  transformer: DiT or DiTTransformer2DModel; None = codec only.  scheduler: any of SAMPLERS,
    read for its configuration and never stepped itself.  id2label: {"0": name, …}.  image_size: side in pixels.
    sampler, num_inference_steps, guidance_scale: what a call uses where it says nothing.
    """

    _optional_components = ["transformer", "scheduler"]
    model_cpu_offload_seq = "transformer->vae"

    def __init__(
        self,
        vae,
        transformer=None,
        scheduler=None,
        id2label: dict[str, str] | None = None,
        image_size: int = 32,
        sampler: str | None = None,
        num_inference_steps: int = 25,
        guidance_scale: float = 2.0,
    ):
        super().__init__()
        self.register_modules(vae=vae, transformer=transformer, scheduler=scheduler)
        self.register_to_config(
            id2label=id2label or {},
            image_size=image_size,
            sampler=sampler,
            num_inference_steps=num_inference_steps,
            guidance_scale=guidance_scale,
        )

    def __call__(
        self,
        class_labels: Sequence[int],
        generator: Sequence[torch.Generator] | None = None,
        num_inference_steps: int | None = None,
        guidance_scale: float | None = None,
        sampler: str | None = None,
        output_type: str = "pil",
        return_dict: bool = True,
    ) -> ImagePipelineOutput | tuple:
        """One image a label.  Arguments as in `steps`; output_type: "pil", or "pt" for (B, C, H, W) in [-1, 1]."""
        *_, last = self.steps(class_labels, generator, num_inference_steps, guidance_scale, sampler)
        images = self.decode(last.latents)
        if output_type == "pil":
            images = to_images(images)
        return ImagePipelineOutput(images=images) if return_dict else (images,)

    def decode(self, latents: Tensor) -> Tensor:
        """Latents of a Step -> pictures (B, C, H, W) in [-1, 1]."""
        return codec.decode(self.vae, latents * codec.latent_std(self.vae))

    def tokens(self, latents: Tensor) -> Tensor:
        """Latents of a Step -> ids (B, h, w) of their nearest codes."""
        return codec.nearest_ids(self.vae, latents * codec.latent_std(self.vae))

    def steps(
        self,
        class_labels: Sequence[int],  # B class ids
        generator: Sequence[torch.Generator] | None = None,  # one an image, on the CPU; None = fresh ones
        num_inference_steps: int | None = None,  # None = the pack's default, here and below
        guidance_scale: float | None = None,  # w of arXiv:2207.12598 plus one: 1 = the label alone, 0 = no label
        sampler: str | None = None,  # a name in SAMPLERS
    ) -> Iterator[Step]:
        """Denoise from pure noise, one Step a model evaluation.  Raises ValueError without a transformer."""
        if self.transformer is None:
            raise ValueError("this pipeline has no transformer, so it cannot sample")
        if generator is None:
            generator = [torch.Generator() for _ in class_labels]
            for fresh in generator:
                fresh.seed()
        w = self.config.guidance_scale if guidance_scale is None else guidance_scale
        scheduler = make_scheduler(self.scheduler, sampler or self.config.sampler)
        set_timesteps(scheduler, num_inference_steps or self.config.num_inference_steps, self._execution_device)
        labels = torch.as_tensor(class_labels, device=self._execution_device)
        stochastic = {"generator": list(generator)} if scheduler_is_stochastic(scheduler) else {}

        size = (self.transformer.config.in_channels, *(2 * [self.transformer.config.sample_size]))
        noise = torch.stack([torch.randn(size, generator=g) for g in generator]).to(self._execution_device)
        x = noise * scheduler.init_noise_sigma if hasattr(scheduler, "init_noise_sigma") else noise
        for index, t in enumerate(scheduler.timesteps):
            with torch.inference_mode():  # entered anew each step: a generator may wake up in another thread
                x_t = scheduler.scale_model_input(x, t) if hasattr(scheduler, "scale_model_input") else x
                prediction = self._guided(x_t, t, labels, w)
                a, s = noise_level(scheduler, t)
                x0 = x0_from_prediction(prediction_type(scheduler), prediction, x_t, a, s)
                x = scheduler.step(prediction, t, x, **stochastic, return_dict=False)[0]
            yield Step(index, len(scheduler.timesteps), float(t), float(s / (a + s)), x_t, x0, x)

    def _guided(self, x_t: Tensor, t: Tensor, labels: Tensor, w: float) -> Tensor:
        """Classifier-free guidance (arXiv:2207.12598, eq. 6): null + w (label - null)."""

        def predict(x: Tensor, classes: Tensor) -> Tensor:
            return self.transformer(x, timestep=t.expand(len(x)), class_labels=classes).sample[:, : x.shape[1]]

        if w == 1:
            return predict(x_t, labels)
        null = torch.full_like(labels, null_class(self.transformer))
        if w == 0:
            return predict(x_t, null)
        with_label, without = predict(torch.cat([x_t, x_t]), torch.cat([labels, null])).chunk(2)
        return without + w * (with_label - without)


def null_class(transformer) -> int:
    """The class id that stands for no class: one past the last, in our DiT and in diffusers'."""
    config = transformer.config
    return config.num_classes if "num_classes" in config else config.num_embeds_ada_norm


def is_flow(scheduler) -> bool:
    """Whether the schedule is the straight path rather than a variance-preserving one."""
    return "FlowMatch" in type(scheduler).__name__ or bool(scheduler.config.get("use_flow_sigmas"))


def prediction_type(scheduler) -> str:
    """ "epsilon", "v_prediction", "sample" or "flow"."""
    return "flow" if is_flow(scheduler) else scheduler.config.prediction_type


def make_scheduler(schedule, sampler: str | None = None):
    """A fresh scheduler on the same schedule: they keep state, so every request has its own.

    sampler: a name in SAMPLERS; None = as the pack saved it.  Raises ValueError for an unknown name.
    """
    samplers = SAMPLERS["flow" if is_flow(schedule) else "vp"]
    if sampler is None:
        return type(schedule).from_config(schedule.config)
    if sampler not in samplers:
        raise ValueError(f"sampler is {sampler!r}; this schedule allows {', '.join(samplers)}")
    scheduler, options = samplers[sampler]
    return scheduler.from_config(dict(schedule.config), **options)


def set_timesteps(scheduler, count: int, device: torch.device) -> None:
    """`count` steps from pure noise to clean."""
    if isinstance(scheduler, FlowMatchEulerDiscreteScheduler):
        # Left alone it spends its last step between sigma 0.001 and 0, where nothing happens.
        scheduler.set_timesteps(sigmas=torch.linspace(1, 1 / count, count).tolist(), device=device)
    else:
        scheduler.set_timesteps(count, device=device)


def scheduler_is_stochastic(scheduler) -> bool:
    """Whether it draws noise at every step, and so needs the generators."""
    return isinstance(scheduler, DDPMScheduler) or scheduler.config.get("algorithm_type", "").startswith("sde-")


def noise_level(scheduler, t: Tensor) -> tuple[Tensor, Tensor]:
    """(a, s) at time t, so that x_t = a x0 + s eps."""
    if is_flow(scheduler):
        s = t / scheduler.config.num_train_timesteps
        return 1 - s, s
    alphabar = scheduler.alphas_cumprod.to(t.device)[t.long()]
    return alphabar.sqrt(), (1 - alphabar).sqrt()


def x0_from_prediction(kind: str, prediction: Tensor, x_t: Tensor, a: Tensor, s: Tensor) -> Tensor:
    """The clean latents that a prediction implies.  v is of Salimans & Ho, arXiv:2202.00512; flow is eps - x0."""
    if kind == "epsilon":
        return (x_t - s * prediction) / a
    if kind == "v_prediction":
        return a * x_t - s * prediction
    if kind == "flow":
        return x_t - s * prediction
    return prediction
