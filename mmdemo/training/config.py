"""What a training run depends on: one frozen dataclass a model, saved into the pack. Imports nothing heavy."""

from __future__ import annotations

from dataclasses import dataclass, field


def _option(default, help: str, choices: tuple | None = None):
    return field(default=default, metadata={"help": help, "choices": choices})


@dataclass(frozen=True)
class VQVAEConfig:
    """Every option of `train vqvae` that changes the result."""

    dataset: str = _option("mnist", "mnist, fashion-mnist, cifar10, shapes, or a folder FOLDER/<class>/*.png")
    image_size: int | None = _option(None, "side in pixels; the data set's own if not given (64 for folders)")
    channels: int = _option(128, "width of the convolutions at the coarsest resolution; half of it before")
    latent_channels: int = _option(4, "numbers in a code")
    num_codes: int = _option(1024, "codes in the codebook")
    stride: int = _option(4, "pixels a token covers in each direction: a power of two")
    num_res_blocks: int = _option(1, "residual blocks at each resolution")
    steps: int = _option(6000, "optimizer steps")
    batch_size: int = _option(128, "pictures a step, over all processes")
    learning_rate: float = _option(4e-3, "AdamW's peak; warmed up, then a cosine down to zero")
    warmup: int = _option(200, "steps of warm-up")
    commitment: float = _option(0.25, "weight of the commitment loss: beta of arXiv:1711.00937, eq. 3")
    codebook_decay: float = _option(0.99, "decay of the codebook's moving averages")
    ema_decay: float = _option(0.999, "decay of the weights' moving average, which is what is saved")
    seed: int = _option(0, "seed of everything random")


@dataclass(frozen=True)
class DiTConfig:
    """Every option of `train dit` that changes the result."""

    patch_size: int = _option(2, "latent cells a transformer token covers in each direction")
    hidden_size: int = _option(192, "width")
    depth: int = _option(6, "blocks")
    num_heads: int = _option(6, "attention heads")
    prediction: str = _option(
        "flow", "what the model predicts: the noise, v, or the flow eps - x0", ("eps", "v", "flow")
    )
    schedule: str = _option(
        "cosine", "noise schedule for eps and v (arXiv:2006.11239, arXiv:2102.09672)", ("linear", "cosine")
    )
    time_sampling: str = _option(
        "logit-normal", "times drawn in training (arXiv:2403.03206, eq. 19)", ("uniform", "logit-normal")
    )
    weighting: str = _option("none", "weight of the loss over the times (arXiv:2303.09556)", ("none", "min-snr"))
    label_dropout: float = _option(0.1, "share of pictures trained without their label, for guidance")
    steps: int = _option(16_000, "optimizer steps")
    batch_size: int = _option(64, "pictures a step, over all processes")
    learning_rate: float = _option(1e-3, "AdamW's peak; warmed up, then a cosine down to zero")
    warmup: int = _option(500, "steps of warm-up")
    ema_decay: float = _option(0.9995, "decay of the weights' moving average, which is what is saved")
    seed: int = _option(0, "seed of everything random")
