"""What a training run depends on: one frozen dataclass a model, saved into the pack. Imports nothing heavy."""

from __future__ import annotations

from dataclasses import dataclass, field, fields
from math import log, prod

from mmdemo.datasets import NAMED
from mmdemo.errors import ArgumentError
from mmdemo.kinds import choice, number, whole


def _option(default, help: str, low: float = 0, high: float = 1, choices: tuple | None = None):
    return field(default=default, metadata={"help": help, "low": low, "high": high, "choices": choices})


class _Checked:
    """Refuses, by ArgumentError, what is out of an option's range or not among its choices."""

    def __post_init__(self):
        for option in fields(self):
            name, value, rules = option.name, getattr(self, option.name), option.metadata
            if rules["choices"]:
                choice(name, value, rules["choices"])
            elif option.type.startswith("int") and value is not None:
                self._set(name, whole(name, value, rules["low"], rules["high"]))
            elif option.type == "float":
                self._set(name, number(name, value, rules["low"], rules["high"]))
            elif option.type.startswith("tuple[int") and value is not None:
                several = value if isinstance(value, (list, tuple)) else [value]
                self._set(name, tuple(whole(name, one, rules["low"], rules["high"]) for one in several))

    def _set(self, name: str, value) -> None:
        object.__setattr__(self, name, value)  # frozen from here on


# For about 2^8, 2^10 … 2^16 codes, as the paper recommends (FSQ, arXiv:2309.15505, table 1).
LEVELS = ((8, 6, 5), (8, 5, 5, 5), (7, 5, 5, 5, 5), (8, 8, 8, 6, 5), (8, 8, 8, 5, 5, 5))


@dataclass(frozen=True)
class VQVAEConfig(_Checked):
    """Every option of `train vqvae` that changes the result.

    With fsq, num_codes and latent_channels become what levels make of them; where levels are not given, they become
    those of the paper that make about num_codes. Raises ArgumentError for an option that its quantizer does not have.
    """

    dataset: str = _option(
        "mnist", f"{', '.join(NAMED)}, or a folder FOLDER/<class>/*.png, or one of pictures and a metadata.jsonl"
    )
    image_size: int | None = _option(None, "side in pixels; the data set's own if not given (64 for folders)", 8, 512)
    channels: int = _option(128, "width of the convolutions at the coarsest resolution; half of it before", 4, 4096)
    latent_channels: int = _option(4, "numbers in a code", 1, 256)
    num_codes: int = _option(1024, "codes in the codebook", 2, 65536)
    quantizer: str = _option(
        "vq", "how a latent becomes a code: the nearest of learned ones (vq) or its numbers rounded (fsq)",
        choices=("vq", "fsq"),
    )  # fmt: skip
    levels: tuple[int, ...] | None = _option(
        None, "levels of each number in a code, for fsq; if not given, the paper's for about --num-codes", 2, 256
    )
    stride: int = _option(4, "pixels a token covers in each direction: a power of two", 2, 64)
    num_res_blocks: int = _option(1, "residual blocks at each resolution", 0, 16)
    steps: int = _option(6000, "optimizer steps", 1, 100_000_000)
    batch_size: int = _option(128, "pictures a step, over all processes", 1, 65536)
    learning_rate: float = _option(4e-3, "AdamW's peak; warmed up, then a cosine down to zero")
    warmup: int = _option(200, "steps of warm-up", 0, 1_000_000)
    commitment: float = _option(0.25, "weight of the commitment loss, for vq: beta of arXiv:1711.00937, eq. 3", 0, 100)
    codebook_decay: float = _option(0.99, "decay of the codebook's moving averages, for vq")
    ema_decay: float = _option(0.999, "decay of the weights' moving average, which is what is saved")
    seed: int = _option(0, "seed of everything random", 0, 2**31 - 1)
    start_from: str | None = _option(None, "a pack beside this one whose codec, of the same sizes, to start from")

    def __post_init__(self):
        super().__post_init__()
        if self.quantizer == "vq":
            if self.levels:
                raise ArgumentError(f"levels is {_spaced(self.levels)}, but quantizer is 'vq'; only fsq has levels")
            return
        if not self.levels:
            self._set("levels", _levels_for(self.num_codes))
            self._set("num_codes", prod(self.levels))
        made = {"num_codes": prod(self.levels), "latent_channels": len(self.levels)}
        for name in ("num_codes", "latent_channels", "commitment", "codebook_decay"):
            default, value = self.__dataclass_fields__[name].default, getattr(self, name)
            if value not in (default, made.get(name)):
                raise ArgumentError(
                    f"{name} is {value}, but quantizer is 'fsq' with levels {_spaced(self.levels)}: "
                    f"{made['num_codes']} codes of {made['latent_channels']} numbers, which do not move; leave it out"
                )
            self._set(name, made.get(name, default))
        whole("num_codes", self.num_codes, 2, 65536)


def _levels_for(num_codes: int) -> tuple[int, ...]:
    levels = min(LEVELS, key=lambda levels: abs(log(prod(levels) / num_codes)))
    if not 0.5 < prod(levels) / num_codes < 2:
        raise ArgumentError(
            f"num_codes is {num_codes}, for which fsq has no levels of its own; give levels such as 4 4 4"
        )
    return levels


def _spaced(levels: tuple[int, ...]) -> str:
    return " ".join(map(str, levels))


@dataclass(frozen=True)
class DecoderConfig(_Checked):
    """Every option of `train decoder` that changes the result."""

    weight: float = _option(0.01, "weight of the adversarial loss next to the mean squared error", 0, 100)
    channels: int = _option(64, "width of the discriminator's first layer; twice it after", 1, 4096)
    steps: int = _option(4000, "optimizer steps", 1, 100_000_000)
    batch_size: int = _option(32, "pictures a step, over all processes", 1, 65536)
    learning_rate: float = _option(5e-4, "AdamW's peak, for both sides; warmed up, then a cosine down to zero")
    warmup: int = _option(100, "steps of warm-up", 0, 1_000_000)
    ema_decay: float = _option(0.999, "decay of the decoder's moving average, which is what is saved")
    seed: int = _option(0, "seed of everything random", 0, 2**31 - 1)


@dataclass(frozen=True)
class DiTConfig(_Checked):
    """Every option of `train dit` that changes the result."""

    patch_size: int = _option(2, "latent cells a transformer token covers in each direction", 1, 64)
    hidden_size: int = _option(192, "width", 4, 8192)
    depth: int = _option(6, "blocks", 1, 128)
    num_heads: int = _option(6, "attention heads", 1, 128)
    prediction: str = _option(
        "flow", "what the model predicts: the noise, v, or the flow eps - x0", choices=("eps", "v", "flow")
    )
    schedule: str = _option(
        "cosine", "noise schedule for eps and v (arXiv:2006.11239, arXiv:2102.09672)", choices=("linear", "cosine")
    )
    time_sampling: str = _option(
        "logit-normal", "times drawn in training (arXiv:2403.03206, eq. 19)", choices=("uniform", "logit-normal")
    )
    time_mean: float = _option(
        0.0, "m of logit-normal: above 0 there is more noise, where it is decided what is where", -4, 4
    )
    weighting: str = _option(
        "none", "weight of the loss over the times (arXiv:2303.09556)", choices=("none", "min-snr")
    )
    condition: str = _option(
        "auto", "what is drawn by: classes, captions, or whichever the data set has", choices=("auto", "class", "text")
    )
    text_depth: int = _option(2, "blocks of the text encoder", 1, 64)
    long_skips: bool = _option(
        False, "let blocks of the second half see what those of the first gave (arXiv:2209.12152)"
    )
    mirrored: float = _option(0.0, "share of the pictures shown in a mirror, where left and right mean nothing")
    max_length: int = _option(64, "tokens read of a text", 8, 512)
    start_from: str | None = _option(
        None, "a pack beside this one whose transformer to start from: what fits of it, words by their text"
    )
    longest_first: float = _option(
        0.0, "share of the steps in which only a picture's longest captions are drawn, which name most"
    )
    label_dropout: float = _option(0.1, "share of pictures trained without their label, for guidance")
    steps: int = _option(16_000, "optimizer steps", 1, 100_000_000)
    batch_size: int = _option(64, "pictures a step, over all processes", 1, 65536)
    learning_rate: float = _option(1e-3, "AdamW's peak; warmed up, then a cosine down to zero")
    warmup: int = _option(500, "steps of warm-up", 0, 1_000_000)
    ema_decay: float = _option(0.9995, "decay of the weights' moving average, which is what is saved")
    seed: int = _option(0, "seed of everything random", 0, 2**31 - 1)

    def __post_init__(self):
        super().__post_init__()
        if self.prediction == "eps" and self.schedule == "cosine":
            # x0 = (x_t - s eps) / a, and the cosine schedule ends at a = 0.00005: the smallest error of eps explodes.
            raise ArgumentError("schedule is 'cosine', which ends in pure noise; to predict eps it must be linear")


@dataclass(frozen=True)
class StudentConfig(_Checked):
    """Every option of `train student` that changes the result."""

    trajectories: int = _option(20_000, "drawings to learn from", 1, 10_000_000)
    teacher: str = _option(
        "transformer",
        "what draws them: the pack's transformer, or the student that it has, to teach one of fewer blocks",
        choices=("transformer", "student"),
    )
    depth: int | None = _option(None, "blocks, at most the teacher's; if not given, as many", 1, 128)
    steps: int = _option(10_000, "optimizer steps", 1, 100_000_000)
    batch_size: int = _option(128, "jumps a step, over all processes", 1, 65536)
    learning_rate: float = _option(5e-4, "AdamW's peak; warmed up, then a cosine down to zero")
    warmup: int = _option(200, "steps of warm-up", 0, 1_000_000)
    ema_decay: float = _option(0.9995, "decay of the weights' moving average, which is what is saved")
    seed: int = _option(0, "seed of everything random", 0, 2**31 - 1)
