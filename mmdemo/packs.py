"""A pack on disk or on the Hub: list, check, read, load, save. It knows files; what is in them is the models' business.

A pack is a diffusers pipeline folder (README, "A pack"). Listing and reading need neither torch nor diffusers, so
that a page can be shown before they are imported; loading and saving import them.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import struct
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from PIL import Image

from mmdemo.errors import ArgumentError, PackError

if TYPE_CHECKING:
    from torch import Tensor

    from mmdemo.codec import CodebookStatistics
    from mmdemo.models.dit import DiT
    from mmdemo.models.vqvae import VQVAE
    from mmdemo.pipeline import ClassPipeline

VP_SAMPLERS = ("ddim", "dpm++", "unipc", "heun", "euler", "ddpm")
FLOW_SAMPLERS = ("euler", "dpm++", "unipc", "heun", "ddim", "ddpm")
MAX_SHARD = "9MB"  # a plain push to the Hub refuses files over 10 MB


@dataclass(frozen=True)
class Pack:
    """What can be said of a pack without loading its models."""

    name: str
    path: Path
    problem: str | None  # why it cannot be used; None = it can
    stamp: int = 0  # changes when the pack is written anew
    classes: tuple[str, ...] = ()  # label names in the order of their class ids
    codes: int = 0  # K
    dim: int = 0  # numbers in a code
    stride: int = 0
    image_size: int = 0
    channels: int = 0
    samplers: tuple[str, ...] = ()  # those that fit the schedule, the default first; () = codec only
    steps: int = 0  # the default num_inference_steps
    guidance: float = 0.0  # the default guidance_scale

    @property
    def can_sample(self) -> bool:
        return bool(self.samplers)


def find(folders: Sequence[str | Path]) -> list[Pack]:
    """Every pack in the folders, damaged ones included. A name's first finder wins."""
    found: dict[str, Pack] = {}
    for folder in map(Path, folders):
        for path in sorted(folder.iterdir()) if folder.is_dir() else ():
            if path.is_dir() and not path.name.startswith("."):
                found.setdefault(path.name, read(path))
    return list(found.values())


def read(path: Path, name: str | None = None) -> Pack:
    """A pack's description, from its small files; what is wrong with it, if anything, is in `problem`."""
    name = name or path.name
    try:
        return _read(path, name)
    except PackError as error:
        return Pack(name, path, str(error))
    except (KeyError, TypeError, ValueError, AttributeError, ArithmeticError) as error:
        return Pack(name, path, f"a configuration file has an entry missing or malformed ({error})")


def read_hub(repo: str) -> Pack:
    """A Hub repository `owner/name[@revision]`, downloaded into the user's cache once."""
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError

    name, _, revision = repo.partition("@")
    try:
        folder = snapshot_download(name, revision=revision or None, allow_patterns=["*.json", "*.safetensors", "*.png"])
    except (HfHubHTTPError, HFValidationError, LocalEntryNotFoundError, OSError) as error:
        return Pack(repo, Path(name), f"it could not be fetched from the Hub: {str(error).splitlines()[0]}")
    return read(Path(folder), repo)


def _read(path: Path, name: str) -> Pack:
    index = _json(path / "model_index.json")
    vae = _json(path / "vae" / "config.json")
    _check_weights(path / "vae")
    ours = "num_codes" in vae
    labels = sorted((index.get("id2label") or {}).items(), key=lambda item: int(item[0]))
    pack = Pack(
        name=name,
        path=path,
        problem=None,
        stamp=(path / "model_index.json").stat().st_mtime_ns,
        classes=tuple(str(label) for _, label in labels),
        codes=vae["num_codes"] if ours else vae["num_vq_embeddings"],
        dim=vae["latent_channels"] if ours else vae["vq_embed_dim"] or vae["latent_channels"],
        stride=vae["stride"] if ours else 2 ** (len(vae["block_out_channels"]) - 1),
        image_size=index.get("image_size") or vae.get("sample_size") or 32,
        channels=vae["in_channels"],
    )
    if pack.image_size % pack.stride:
        raise PackError(f"image_size is {pack.image_size}, no multiple of the codec's stride, {pack.stride}")
    if (index.get("transformer") or [None])[0] is None:
        return pack

    transformer = _json(path / "transformer" / "config.json")
    _check_weights(path / "transformer")
    classes = transformer["num_classes"] if "num_classes" in transformer else transformer["num_embeds_ada_norm"]
    if not pack.classes:  # diffusers' DiTPipeline saves no names
        pack = replace(pack, classes=tuple(str(i) for i in range(classes)))
    if classes < len(pack.classes):
        raise PackError(f"transformer knows {classes} classes, but the pack names {len(pack.classes)}")
    if transformer["in_channels"] != pack.dim or transformer["sample_size"] != pack.image_size // pack.stride:
        raise PackError("transformer was made for latents of another size than the codec's")
    scheduler = _json(path / "scheduler" / "scheduler_config.json")
    samplers = FLOW_SAMPLERS if scheduler["_class_name"].startswith("FlowMatch") else VP_SAMPLERS
    sampler = index.get("sampler") or samplers[0]
    steps, guidance = index.get("num_inference_steps", 25), index.get("guidance_scale", 2.0)
    if sampler not in samplers:
        raise PackError(f"sampler is {sampler!r}; its schedule allows {', '.join(samplers)}")
    if type(steps) is not int or steps < 1:
        raise PackError(f"num_inference_steps is {steps!r}; it must be a whole number from 1")
    if type(guidance) not in (int, float) or not 0 <= guidance < float("inf"):
        raise PackError(f"guidance_scale is {guidance!r}; it must be a number from 0")
    others = tuple(name for name in samplers if name != sampler)
    return replace(pack, samplers=(sampler, *others), steps=steps, guidance=float(guidance))


def _json(path: Path) -> dict:
    where = f"{path.parent.name}/{path.name}" if path.name != "model_index.json" else path.name
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise PackError(f"{where} is missing") from None
    except (OSError, ValueError, RecursionError) as error:
        raise PackError(f"{where} cannot be read ({error})") from None
    if not isinstance(content, dict):
        raise PackError(f"{where} holds no JSON object")
    return content


def _check_weights(folder: Path) -> None:
    """The safetensors files are there and as long as their headers say, which a broken-off download is not."""
    files = sorted(folder.glob("*.safetensors"))
    index = folder / "diffusion_pytorch_model.safetensors.index.json"
    if index.is_file():
        files = sorted({folder / shard for shard in _json(index)["weight_map"].values()})
    if not files:
        raise PackError(f"{folder.name}/ has no safetensors file")
    for file in files:
        where = f"{folder.name}/{file.name}"
        try:
            with file.open("rb") as opened:
                length = struct.unpack("<Q", opened.read(8))[0]
                header = json.loads(opened.read(length)) if length < file.stat().st_size else None
        except FileNotFoundError:
            raise PackError(f"{where} is missing") from None
        except (struct.error, ValueError, OSError):
            header = None
        ends = [entry["data_offsets"][1] for key, entry in (header or {}).items() if key != "__metadata__"]
        if not ends or file.stat().st_size != 8 + length + max(ends):
            raise PackError(f"{where} is damaged or cut short")


def load(pack: Pack, device: str = "auto") -> ClassPipeline:
    """A pack's pipeline, float32, ready to run.  device: "auto", "cpu", "cuda" or "mps".

    Raises PackError if it is damaged: diffusers alone would fill missing weights with random numbers.
    """
    import torch
    from diffusers.utils import logging

    from mmdemo.pipeline import ClassPipeline

    logging.disable_progress_bar()
    logging.set_verbosity_error()  # what diffusers would warn of is checked here, and said in one sentence
    if pack.problem:
        raise PackError(f"pack {pack.name!r} cannot be used: {pack.problem}")
    try:
        parts = {"vae": _load_part(pack.path, "vae")}
        if pack.can_sample:
            parts["transformer"] = _load_part(pack.path, "transformer")
        pipeline = ClassPipeline.from_pretrained(
            pack.path, **parts, dtype=torch.float32, use_safetensors=True, local_files_only=True
        )
    except PackError as error:
        raise PackError(f"pack {pack.name!r} cannot be used: {error}") from None
    except (OSError, ValueError, RuntimeError, KeyError, TypeError, AttributeError, ImportError) as error:
        raise PackError(f"pack {pack.name!r} cannot be used: {str(error).splitlines()[0]}") from None
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


def _load_part(path: Path, part: str):
    """One model, refusing pickles, missing or left-over weights, and weights that are no numbers."""
    import torch
    from diffusers import DiTTransformer2DModel, VQModel

    from mmdemo.models.dit import DiT
    from mmdemo.models.vqvae import VQVAE

    known = {model.__name__: model for model in (VQVAE, DiT, VQModel, DiTTransformer2DModel)}
    name = _json(path / part / "config.json").get("_class_name")
    if name not in known:
        raise PackError(f"{part} is a {name}; known are {', '.join(known)}")
    model, notes = known[name].from_pretrained(
        path / part, dtype=torch.float32, use_safetensors=True, local_files_only=True, output_loading_info=True
    )
    for problem in ("missing_keys", "unexpected_keys", "mismatched_keys"):
        if notes.get(problem):
            raise PackError(f"{part} has {problem.replace('_', ' ')}: {', '.join(map(str, notes[problem][:3]))}")
    for key, weight in model.state_dict().items():
        if not weight.isfinite().all():
            raise PackError(f"{part}: the weight {key} holds numbers that are not finite")
    return model.eval().requires_grad_(False)


def read_codebook(pack: Pack) -> dict:
    """The stored description of the codebook: counts, order, columns, swatch_size, patch_size, nearest, distances.

    Raises PackError if it is missing, damaged or another codebook's.
    """
    stored = _json(pack.path / "codebook" / "codebook.json")
    for name in ("counts", "order", "nearest", "distances"):
        if not isinstance(stored.get(name), list) or len(stored[name]) != pack.codes:
            raise PackError(f"pack {pack.name!r}: codebook/codebook.json has no {name} for its {pack.codes} codes")
    for name in ("columns", "swatch_size", "patch_size", "patches_per_code"):
        if type(stored.get(name)) is not int or stored[name] < 1:
            raise PackError(f"pack {pack.name!r}: codebook/codebook.json has no {name}")
    return stored


def read_sprite(pack: Pack, name: str) -> Image.Image:
    """ "swatches" or "patches"."""
    try:
        return Image.open(pack.path / "codebook" / f"{name}.png").convert("RGB" if pack.channels == 3 else "L")
    except OSError as error:
        raise PackError(f"pack {pack.name!r} has no readable codebook/{name}.png ({error})") from None


def save_codec(pack: Path, vae: VQVAE, statistics: CodebookStatistics, classes: Sequence[str], training: dict) -> None:
    """A new codec-only pack; a pack that stood there is replaced, because a transformer fits only its own codec."""
    from mmdemo.pipeline import ClassPipeline

    def write(folder: Path) -> None:
        pipeline = ClassPipeline(
            vae=_half(vae),
            id2label={str(i): label for i, label in enumerate(classes)},
            image_size=statistics.latents.shape[-1] * vae.config.stride,
        )
        pipeline.save_pretrained(folder, max_shard_size=MAX_SHARD)
        save_codebook(folder, vae, statistics)
        _write_json(folder / "training.json", {"vqvae": training})

    _replace(pack, write)


def save_transformer(pack: Path, transformer: DiT, scheduler, training: dict) -> None:
    """Add a transformer and its schedule to a pack, or replace them there."""
    from mmdemo.pipeline import ClassPipeline

    codec = ClassPipeline.from_pretrained(pack, transformer=None, scheduler=None)

    def write(folder: Path) -> None:
        ClassPipeline(
            vae=_half(codec.vae),
            transformer=_half(transformer),
            scheduler=scheduler,
            id2label=codec.config.id2label,
            image_size=codec.config.image_size,
        ).save_pretrained(folder, max_shard_size=MAX_SHARD)
        for part in ("vae", "codebook"):  # byte for byte as they were
            shutil.rmtree(folder / part, ignore_errors=True)
            shutil.copytree(pack / part, folder / part)
        _write_json(folder / "training.json", {**read_training(pack), "dit": training})

    _replace(pack, write)


def save_codebook(pack: Path, vae: VQVAE, statistics: CodebookStatistics) -> None:
    """A pack's codebook/ folder: what the explorer shows, so that it needs no model."""
    import torch

    from mmdemo import codec
    from mmdemo.images import grid, to_images

    codes = codec.codebook(vae).cpu()
    order, columns = codec.similarity_order(statistics.swatches.flatten(1))
    distances, nearest = torch.cdist(codes, codes).fill_diagonal_(torch.inf).topk(min(8, len(codes) - 1), largest=False)
    swatches = to_images(statistics.swatches[order])
    patches = to_images(statistics.patches.flatten(0, 1))
    folder = pack / "codebook"
    folder.mkdir(exist_ok=True)
    grid(swatches, columns, gap=0).convert(swatches[0].mode).save(folder / "swatches.png", optimize=True)
    grid(patches, codec.PATCHES_PER_CODE, gap=0).convert(patches[0].mode).save(folder / "patches.png", optimize=True)
    stored = {
        "counts": statistics.counts.tolist(),
        "order": order,
        "columns": columns,
        "swatch_size": swatches[0].width,
        "patch_size": patches[0].width,
        "patches_per_code": codec.PATCHES_PER_CODE,
        "nearest": nearest.tolist(),
        "distances": [[round(d, 4) for d in row] for row in distances.tolist()],
    }
    _write_json(folder / "codebook.json", stored, indent=None)


def set_defaults(pack: Path, **defaults) -> None:
    """Write a pack's defaults (sampler, num_inference_steps, guidance_scale) into its pipeline configuration."""
    _write_json(pack / "model_index.json", {**_json(pack / "model_index.json"), **defaults})


def read_training(pack: Path) -> dict:
    """How a pack was trained: {"vqvae": {…}, "dit": {…}}, each its configuration and its minutes."""
    return _json(pack / "training.json")


def fingerprint(pack: Path) -> str:
    """A digest of a pack's codec, to tell whether latents are its own."""
    digest = hashlib.sha256()
    for file in sorted((pack / "vae").glob("*.safetensors")):
        digest.update(file.read_bytes())
    return digest.hexdigest()


def save_latents(run: Path, latents: Tensor, labels: Tensor, fingerprint: str) -> None:
    """The training split as the codec of that fingerprint sees it, for the transformer's training."""
    from safetensors.torch import save_file

    run.mkdir(parents=True, exist_ok=True)
    save_file({"latents": latents.contiguous(), "labels": labels}, run / "latents.partial", {"codec": fingerprint})
    os.replace(run / "latents.partial", run / "latents.safetensors")


def _half(model):
    """A float16 copy: half the file, and the app computes in float32 all the same."""
    import copy

    import torch

    return torch.nn.Module.half(copy.deepcopy(model).to("cpu"))


def _write_json(path: Path, content: dict, indent: int | None = 1) -> None:
    partial = path.with_suffix(".partial")
    partial.write_text(json.dumps(content, indent=indent, ensure_ascii=False) + "\n", encoding="utf-8")
    os.replace(partial, path)


def _replace(pack: Path, write: Callable[[Path], None]) -> None:
    """Write a whole folder beside `pack`, then put it in its place: never a half-written pack under that name."""
    pack.parent.mkdir(parents=True, exist_ok=True)
    new, old = pack.with_name(f".{pack.name}.new"), pack.with_name(f".{pack.name}.old")
    if old.exists() and not pack.exists():  # a run before this one was killed between the two renamings below
        os.replace(old, pack)
    for leftover in (new, old):
        shutil.rmtree(leftover, ignore_errors=True)
    new.mkdir()
    write(new)
    if pack.exists():
        if (pack / "examples").is_dir():  # what a person added stays
            shutil.copytree(pack / "examples", new / "examples")
        if (pack / "notes.md").is_file():
            shutil.copy2(pack / "notes.md", new / "notes.md")
        os.replace(pack, old)
    os.replace(new, pack)
    shutil.rmtree(old, ignore_errors=True)
