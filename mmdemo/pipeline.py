"""ClassPipeline: the only denoising loop. It knows a codec, a transformer, words and a schedule; not packs or pages.

`steps()` is a generator of Steps, so the caller owns progress, stopping and drawing; `__call__` drains it. The
transformer denoises the codec's continuous latents z divided by their standard deviation; decoding snaps them to the
nearest codes, so every step's guess of x0 is also a grid of tokens.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cache, partial
from pathlib import Path

import torch
import torch.nn.functional as F
from diffusers import DiffusionPipeline
from diffusers.pipelines.pipeline_utils import ImagePipelineOutput
from torch import Tensor

from mmdemo import codec, samplers, schedules
from mmdemo.images import to_images
from mmdemo.models import dit, vqvae  # noqa: F401  diffusers opens only packs whose models have been imported
from mmdemo.words import PAD_ID, Words

Label = int | str  # a class id, or a text where the transformer reads


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
    x0_label: Tensor | None  # the prediction by the label alone; None where it was not computed
    x0_null: Tensor | None  # the prediction without a label, or by the negative one; None where it was not computed


class ClassPipeline(DiffusionPipeline):
    """Images by class, or by text: a diffusers pipeline.

    vae: VQVAE, VQModel or AutoencoderKL.  transformer: DiT or DiTTransformer2DModel; None = codec only.  scheduler: any
    of samplers.py, read for its configuration and never stepped itself.  student: a DiT that draws in a few jumps, by
    the sampler `fast`; None = there is none.  id2label: {"0": name, …}.  image_size: side in pixels.  words: what a
    transformer that reads can read, kept in tokenizer/; None = it knows classes.  prompts: examples of what it was
    trained on.
    sampler, num_inference_steps, guidance_scale, guidance_interval: what a call uses where it says nothing.
    """

    _optional_components = ["transformer", "scheduler", "student"]
    model_cpu_offload_seq = "transformer->student->vae"

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
        guidance_interval: list[float] | None = None,  # None = at every noise level
        prompts: list[str] | None = None,
        words: Words | None = None,
        student=None,
    ):
        super().__init__()
        self.words = words
        self._last_read = None  # see `read`
        self.register_modules(vae=vae, transformer=transformer, scheduler=scheduler, student=student)
        self.register_to_config(
            id2label=id2label or {},
            image_size=image_size,
            sampler=sampler,
            num_inference_steps=num_inference_steps,
            guidance_scale=guidance_scale,
            guidance_interval=guidance_interval or [0.0, 1.0],
            prompts=prompts or [],
        )

    @classmethod
    def from_pretrained(cls, folder, **options):
        """As diffusers' own; and with what the transformer reads, where the folder holds a tokenizer/."""
        pipeline = super().from_pretrained(folder, **options)
        if pipeline.transformer is not None and (Path(folder) / "tokenizer").is_dir():
            pipeline.words = Words.load(Path(folder) / "tokenizer")
        return pipeline

    def save_pretrained(self, folder, *arguments, **options):
        super().save_pretrained(folder, *arguments, **options)
        if self.words:
            self.words.save(Path(folder) / "tokenizer")

    def __call__(
        self,
        class_labels: Sequence[Label],
        generator: Sequence[torch.Generator] | None = None,
        num_inference_steps: int | None = None,
        guidance_scale: float | None = None,
        sampler: str | None = None,
        output_type: str = "pil",
        return_dict: bool = True,
        guidance_interval: Sequence[float] | None = None,
        negative_label: Label | None = None,
    ) -> ImagePipelineOutput | tuple:
        """One image a label.  Arguments as in `steps`; output_type: "pil", or "pt" for (B, C, H, W) in [-1, 1]."""
        settings = (num_inference_steps, guidance_scale, sampler)
        guidance = {"guidance_interval": guidance_interval, "negative_label": negative_label}
        *_, last = self.steps(class_labels, generator, *settings, **guidance)
        images = self.decode(last.latents)
        if output_type == "pil":
            images = to_images(images)
        return ImagePipelineOutput(images=images) if return_dict else (images,)

    @property
    def _execution_device(self) -> torch.device:
        """Where the transformer works. diffusers looks through every module for it, 3 ms at each drawing, and is asked
        only where something moves the models."""
        if any(hasattr(self.transformer, hook) for hook in ("_hf_hook", "_diffusers_hook")):
            return super()._execution_device
        return next(self.transformer.parameters()).device

    @property
    def null_label(self) -> Label:
        """What stands for no label."""
        return null_class(self.transformer) if self.words is None else ""

    def label_ids(self, labels: Sequence[Label]) -> Tensor:
        """What the transformer takes for labels: class ids (B,), or of texts the ids of their tokens (B, L)."""
        if self.words is None:
            return torch.as_tensor(labels)
        return padded([self.words.encode(text) for text in labels])

    def read(self, model: dit.DiT, labels: Sequence[Label]) -> dit.Label:
        """What labels mean to the transformer or the student, which is the same at every time.

        Of texts the last answer is kept until others are asked for, or the weights change: reading four captions takes
        as long as a step, and a picture that follows a hand asks for the same ones many times a second.
        """
        weights, kept, asked = list(model.parameters()) if self.words else (), self._last_read, None
        if weights and not any(one.is_inference() for one in weights):  # torch counts no changes of those
            asked = (model, self._execution_device, [one._version for one in weights], list(labels))
        if asked is None or kept is None or kept[0] != asked:
            with torch.no_grad():
                kept = asked, model.read(self.label_ids(labels).to(self._execution_device))
            self._last_read = kept if asked else None
        return kept[1]

    def decode(self, latents: Tensor) -> Tensor:
        """Latents of a Step -> pictures (B, C, H, W) in [-1, 1]."""
        return codec.decode(self.vae, latents * codec.latent_std(self.vae))

    def tokens(self, latents: Tensor) -> Tensor:
        """Latents of a Step -> ids (B, h, w) of their nearest codes.  Raises PackError if the codec has none."""
        return codec.nearest_ids(self.vae, latents * codec.latent_std(self.vae))

    def steps(
        self,
        class_labels: Sequence[Label],  # class ids, or texts; one an image, if `mix` says nothing else
        generator: Sequence[torch.Generator] | None = None,  # one an image, on the CPU; None = fresh ones
        num_inference_steps: int | None = None,  # None = the pack's default, here and below; of `fast` USUAL_JUMPS
        guidance_scale: float | None = None,  # w of arXiv:2207.12598 plus one: 1 = the label alone, 0 = no label
        sampler: str | None = None,  # a name in samplers.py
        *,
        guidance_interval: Sequence[float] | None = None,  # the two noise levels to guide between
        negative_label: Label | None = None,  # what to guide away from; None = the null class, or the empty text
        mix: Sequence[Sequence[float]] | None = None,  # an image's shares of all labels, which add up to 1; B of them
        latents: Tensor | None = None,  # (B, d, h, w) standard normal noise to start from; None = the generators'
        x0: Tensor | None = None,  # (B, d, h, w) clean latents to noise and denoise again, in units of latent_std
        strength: float = 1.0,  # with x0: share of the steps to take, in (0, 1]; 1 = from pure noise
        compare: bool = False,  # fill in every Step's x0_label and x0_null, whatever the guidance
        agree: Callable[[Tensor, Tensor, Tensor, Tensor], Tensor]
        | None = None,  # (x0, with its gradient in x_t, x_t, a, s) -> x0 as what was seen would have it, without
    ) -> Iterator[Step]:
        """Denoise, one Step a model evaluation.  Raises ValueError without a transformer.

        From pure noise; or, given x0, from where noise at the first step taken leaves it (SDEdit, arXiv:2108.01073).
        guidance_interval: outside of it the label alone decides (arXiv:2404.07724).  agree: changes a prediction of x0
        so that it agrees with what was seen of the picture; each step makes that change, and what follows from it.
        """
        if self.transformer is None:
            raise ValueError("this pipeline has no transformer, so it cannot sample")
        if generator is None:
            generator = [torch.Generator() for _ in mix or class_labels]
            for fresh in generator:
                fresh.seed()
        device, sampler = self._execution_device, sampler or self.config.sampler
        jumps = sampler == samplers.FAST
        away = self.null_label if negative_label is None else negative_label
        every = [*class_labels, away]
        shares = torch.eye(len(class_labels)) if mix is None else torch.tensor(mix, dtype=torch.float32)
        # (2, B, every label): what decides with the label, and without
        shares = torch.stack([F.pad(shares, (0, 1)), torch.eye(len(every))[-1:].expand(len(shares), -1)]).to(device)

        if jumps:
            if self.student is None:
                raise ValueError("this pipeline has no student, so there is no sampler 'fast'")
            count = num_inference_steps or samplers.USUAL_JUMPS
            model, scheduler = self.student, schedules.Jumps(self.student.config.times, count, device)
            schedule, w, stochastic, compare = self.scheduler, 1.0, {}, False  # guidance is in the student
        else:
            count = num_inference_steps or self.config.num_inference_steps
            w = self.config.guidance_scale if guidance_scale is None else guidance_scale
            model, schedule = self.transformer, schedules.make_scheduler(self.scheduler, sampler)
            scheduler = schedule
            schedules.set_timesteps(scheduler, count, device)
            stochastic = {"generator": list(generator)} if schedules.scheduler_is_stochastic(scheduler) else {}
        low, high = guidance_interval or self.config.guidance_interval

        @cache  # what labels mean is the same at every step
        def predictor(labels: bool, away: bool) -> Callable:
            asked = shares[[labels, away]].flatten(0, 1)
            if not hasattr(model, "read"):
                return partial(mixed_predictions, model, self.label_ids(every).to(device), asked)
            with torch.no_grad():
                return partial(model, class_labels=self.read(model, every).mixed(asked), return_dict=False)

        if latents is None:
            size = (self.transformer.config.in_channels, *(2 * [self.transformer.config.sample_size]))
            latents = torch.stack([torch.randn(size, generator=g) for g in generator])
        eps = latents.to(device)
        timesteps = scheduler.timesteps
        if x0 is None:
            x = eps * scheduler.init_noise_sigma if hasattr(scheduler, "init_noise_sigma") else eps
        else:
            begin = schedules.first_step(count, strength) * scheduler.order
            if hasattr(scheduler, "set_begin_index"):  # DDIM and DDPM keep no place in their timesteps
                scheduler.set_begin_index(begin)
            timesteps = timesteps[begin:]
            x = schedules.noised(schedule, x0.to(device), eps, timesteps[0])
        for index, t in enumerate(timesteps):
            # Entered anew each step: a generator may wake up in another thread.
            with torch.inference_mode() if agree is None else torch.no_grad():
                x_t = scheduler.scale_model_input(x, t) if hasattr(scheduler, "scale_model_input") else x
                a, s = schedules.noise_level(schedule, t)
                level = float(s / (a + s))
                scale = w if low <= level <= high else 1.0
                until = {"until": scheduler.until(t)} if jumps else {}
                kind = "flow" if jumps else schedules.prediction_type(schedule)
                guess = partial(schedules.x0_from_prediction, kind, a=a, s=s)
                if agree is not None:
                    x_t = x_t.detach().requires_grad_()
                with torch.set_grad_enabled(agree is not None):
                    with_label, without = _predict(predictor, x_t, t, scale, compare, **until)
                    prediction = guided(with_label, without, scale)
                    x0 = guess(prediction, x_t)
                if agree is not None:
                    x0 = agree(x0, x_t, a, s)
                    x_t = x_t.detach()
                    prediction = schedules.prediction_of_x0(kind, x0, x_t, a, s)
                x = scheduler.step(prediction, t, x, **stochastic, return_dict=False)[0]
                step = Step(
                    index=index,
                    total=len(timesteps),
                    timestep=float(t),
                    noise_level=level,
                    x_t=x_t,
                    x0=x0,
                    latents=x,
                    x0_label=None if with_label is None else guess(with_label, x_t),
                    x0_null=None if without is None else guess(without, x_t),
                )
            yield step

    @torch.inference_mode()
    def pulls(self, step: Step, text: str, places: Sequence[int]) -> Tensor:
        """How much words of a text pull at the prediction of a step, and where: (words, h, w), the change of the
        prediction by the text alone when each is left out, as a mean over the channels.

        places: of the words among `words.words(text)`.
        """
        texts = [self.words.encode(text), *(self.words.encode(text, without=place) for place in places)]
        x_t = step.x_t[:1].expand(len(texts), -1, -1, -1)
        labels, t = padded(texts).to(x_t.device), torch.tensor(step.timestep, device=x_t.device)
        outputs = self.transformer(x_t, timestep=t.expand(len(texts)), class_labels=labels).sample[:, : x_t.shape[1]]
        return (outputs[1:] - outputs[:1]).abs().mean(1)


def _predict(predictor, x_t, t, scale, both, **more) -> tuple[Tensor | None, Tensor | None]:
    """The prediction with the label, and by what to guide away from; what this scale has no use for is None.

    In one batch.  predictor(labels, away): what predicts those of the two that are asked for, in that order.
    """
    labels, away = both or scale != 0, both or scale != 1
    inputs = x_t.repeat(labels + away, 1, 1, 1)
    (outputs,) = predictor(labels, away)(inputs, timestep=t.expand(len(inputs)), **more)
    parts = outputs[:, : x_t.shape[1]].unflatten(0, (-1, len(x_t)))  # (1 or 2, B, d, h, w)
    return parts[0] if labels else None, parts[-1] if away else None


def mixed_predictions(transformer, ids: Tensor, shares: Tensor, x: Tensor, timestep: Tensor) -> tuple[Tensor]:
    """The predictions of a transformer that cannot mix labels: it is asked for each, and its answers are mixed.

    ids: (L,) classes.  shares: (B, L), of every class in each of B predictions.  x: (B, d, h, w).  timestep: (B,).
    """
    rows, classes = shares.nonzero(as_tuple=True)
    parts = transformer(x[rows], timestep=timestep[rows], class_labels=ids[classes]).sample
    parts = parts * shares[rows, classes][:, None, None, None]
    return (parts.new_zeros(len(x), *parts.shape[1:]).index_add(0, rows, parts),)


def guided(with_label: Tensor | None, without: Tensor | None, w: float) -> Tensor:
    """Classifier-free guidance (arXiv:2207.12598, eq. 6): null + w (label - null)."""
    if w == 1:
        return with_label
    return without if w == 0 else without + w * (with_label - without)


def padded(rows: Sequence[Sequence[int]]) -> Tensor:
    """Token ids of several texts, the shorter ones filled up: (B, L) int64."""
    length = max(map(len, rows))
    return torch.tensor([[*row, *[PAD_ID] * (length - len(row))] for row in rows])


def null_class(transformer) -> int:
    """The class id that stands for no class: one past the last, in our DiT and in diffusers'."""
    config = transformer.config
    return config.num_classes if "num_classes" in config else config.num_embeds_ada_norm


def slerp(a: Tensor, b: Tensor, share: float) -> Tensor:
    """Between two draws of normal noise, along the sphere: a straight line would shrink it (Shoemake, 1985)."""
    cosine = torch.nn.functional.cosine_similarity(a.flatten(), b.flatten(), dim=0).clamp(-1, 1)
    angle = cosine.arccos()
    if angle.sin() < 1e-4:  # the same noise, or the very opposite
        return torch.lerp(a, b, share)
    return torch.sin((1 - share) * angle) / angle.sin() * a + torch.sin(share * angle) / angle.sin() * b
