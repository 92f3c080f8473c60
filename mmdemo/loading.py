"""A pack's models, from its files: what diffusers' own from_pretrained would do, without believing what it is given."""

from __future__ import annotations

import importlib
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from mmdemo import checks, packs, samplers
from mmdemo.errors import ArgumentError, MmdemoError, PackError

if TYPE_CHECKING:
    from mmdemo.pipeline import ClassPipeline


def load(pack: packs.Pack, device: str = "auto") -> ClassPipeline:
    """A pack's pipeline, float32, ready to run.  device: "auto", "cpu", "cuda" or "mps".

    Raises PackError if it is damaged: diffusers alone would fill missing weights with random numbers.
    """
    import diffusers
    from diffusers.utils import logging

    from mmdemo.pipeline import ClassPipeline

    logging.disable_progress_bar()
    logging.set_verbosity_error()  # what diffusers would warn of is checked here, and said in one sentence
    if pack.problem:
        raise PackError(f"pack {pack.name!r} cannot be used: {pack.problem}")
    try:
        with checks.in_one_sentence("its models cannot be made of its files"):
            # Not by diffusers' own from_pretrained, which imports whatever model_index.json names.
            parts = {"vae": _load_part(pack.codec, packs.CODECS), "image_size": pack.image_size}
            parts["id2label"] = {str(i): name for i, name in enumerate(pack.classes)}
            if pack.can_sample:
                scheduler, options = packs.schedule(pack.path)
                parts |= pack.defaults.to_store() | {"prompts": list(pack.prompts)}
                parts["transformer"] = _load_part(pack.path / "transformer", packs.TRANSFORMERS)
                parts["scheduler"] = getattr(diffusers, scheduler).from_config(options)
                if samplers.FAST in pack.samplers:
                    parts["student"] = _load_part(pack.path / "student", packs.TRANSFORMERS)
            if pack.words:
                parts["words"] = packs.read_words(pack)
                if parts["words"].size > parts["transformer"].config.vocab_size:
                    raise PackError("tokenizer/ has more tokens than the transformer knows")
            pipeline = ClassPipeline(**parts)
    except MmdemoError as error:
        raise PackError(f"pack {pack.name!r} cannot be used: {error}") from error
    return pipeline.to(pick_device(device))


def pick_device(device: str) -> str:
    """ "auto" -> the fastest device there is.  Raises ArgumentError for one that is not."""
    import torch

    there = {"cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available(), "cpu": True}
    if device == "auto":
        return next(name for name, usable in there.items() if usable)
    if not there[device]:
        raise ArgumentError(f"device is {device!r}, which this machine lacks; use auto or cpu")
    return device


def _load_part(folder: Path, allowed: Mapping[str, tuple[str, str]]):
    """One model, float32, whose weights are all there, of the right shapes, no others, and finite.

    Seen from their headers and a model without memory, before anything is allocated.
    """
    import torch

    config = checks.configuration(folder, allowed)
    module, name = allowed[config["_class_name"]]
    kind, found = getattr(importlib.import_module(module), name), checks.tensors(folder)
    with torch.device("meta"):
        blank = kind.from_config(config)
    if not (folder / checks.INDEX).is_file():
        blank._fix_state_dict_keys_on_load(found)  # names of diffusers' first years, which it still reads
    checks.fit({key: weight.shape for key, weight in blank.state_dict().items()}, found)
    model = kind.from_pretrained(
        folder,
        dtype=torch.float32,
        use_safetensors=True,
        local_files_only=True,
        # Else accelerate changes how every thread makes its models, and of two at once leaves it changed for good.
        low_cpu_mem_usage=False,
    )
    for key, weight in model.state_dict().items():
        if not weight.isfinite().all():
            raise PackError(f"{found[key][0]}: the tensor {key} holds numbers that are not finite")
    if hasattr(model, "fits_its_grid") and not model.fits_its_grid():
        raise PackError(f"{folder.name}: the weight codebook is not the grid of its levels")
    return model.eval().requires_grad_(False)
