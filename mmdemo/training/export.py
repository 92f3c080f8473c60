"""What a training leaves: a pack, written whole or not at all, and the latents for the next training."""

import copy
import json
import os
import shutil
from collections.abc import Callable, Sequence
from io import BytesIO
from pathlib import Path

import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from mmdemo import codec, packs, provenance
from mmdemo.codec import CodebookStatistics
from mmdemo.data import LabelledImages
from mmdemo.errors import PackError
from mmdemo.files import replacing, writing
from mmdemo.images import grid, to_images
from mmdemo.models.dit import DiT
from mmdemo.models.vqvae import VQVAE
from mmdemo.pipeline import ClassPipeline
from mmdemo.words import Words

MAX_SHARD = "9MB"  # a plain push to the Hub refuses files over 10 MB
DISTANCES = 2**24  # between codes, computed at a time: 67 MB
MAX_JPEG = 65_535  # pixels a side, by the format
OWN = ("examples", "notes.md", "cover.png", "LICENSE")  # what a person added to a pack, and every training leaves
LATENTS = "latents.safetensors"  # of the training split, in a run's folder


def save_codec(
    pack: Path,
    vae: VQVAE,
    statistics: CodebookStatistics,
    classes: Sequence[str],
    training: dict,
    resumed: bool = False,
) -> None:
    """A new codec-only pack; a pack that stood there is replaced, because a transformer fits only its own codec."""
    training = _with_earlier(pack, "vqvae", training, resumed)

    def write(folder: Path) -> None:
        pipeline = ClassPipeline(
            vae=_stored(vae),
            id2label={str(i): label for i, label in enumerate(classes)},
            image_size=statistics.latents.shape[-1] * vae.config.stride,
        )
        pipeline.save_pretrained(folder, max_shard_size=MAX_SHARD)
        save_codebook(folder, vae, statistics)
        _write_json(folder / provenance.TRAINING, {"vqvae": training})

    _replace(pack, write)


def save_transformer(
    pack: Path,
    transformer: DiT,
    scheduler,
    training: dict,
    words: Words | None = None,
    prompts: Sequence[str] = (),
    resumed: bool = False,
) -> None:
    """Add a transformer and its schedule to a pack, or replace them there.  words, prompts: of one that reads."""
    codec = ClassPipeline.from_pretrained(pack, transformer=None, scheduler=None)
    training = _with_earlier(pack, "dit", training, resumed)

    def write(folder: Path) -> None:
        ClassPipeline(
            vae=_stored(codec.vae),
            transformer=_stored(transformer),
            scheduler=scheduler,
            id2label=codec.config.id2label if words is None else {},
            image_size=codec.config.image_size,
            prompts=list(prompts),
            words=words,
        ).save_pretrained(folder, max_shard_size=MAX_SHARD)
        shutil.rmtree(folder / "vae")
        _copy(pack, folder, "vae", "codebook")
        before = provenance.read_training(pack)
        before.pop("student", None)  # it had learned from the last transformer, and is gone
        _write_json(folder / provenance.TRAINING, before | {"dit": training})

    _replace(pack, write)


def save_student(pack: Path, student: DiT, training: dict) -> None:
    """Add a student to a pack, or replace it there. What was measured stays: nothing else has changed."""
    training = _with_earlier(pack, "student", training)

    def write(folder: Path) -> None:
        brought = shutil.ignore_patterns("student", *OWN)
        shutil.copytree(pack, folder, dirs_exist_ok=True, ignore=brought)
        _stored(student).save_pretrained(folder / "student", max_shard_size=MAX_SHARD)
        index = packs.read_json(folder / "model_index.json")
        _write_json(folder / "model_index.json", index | {"student": [DiT.__module__, DiT.__name__]})
        _write_json(folder / provenance.TRAINING, {**provenance.read_training(pack), "student": training})

    _replace(pack, write)


def remove_student(pack: Path, **defaults) -> None:
    """Takes a pack's student out of it, and writes other defaults, which that has not learned."""

    def write(folder: Path) -> None:
        shutil.copytree(pack, folder, dirs_exist_ok=True, ignore=shutil.ignore_patterns("student", *OWN))
        for name, more in (("model_index.json", defaults), (provenance.TRAINING, {})):
            stored = packs.read_json(folder / name)
            stored.pop("student", None)
            _write_json(folder / name, stored | more)

    _replace(pack, write)


def save_decoder(pack: Path, vae: VQVAE, statistics: CodebookStatistics, training: dict) -> None:
    """The pack with another decoder, and the explorer's pictures painted by it. What was measured on the old one goes;
    models, schedule and defaults stay as they were."""

    def write(folder: Path) -> None:
        _stored(vae, _dtype(pack / "vae")).save_pretrained(folder / "vae", max_shard_size=MAX_SHARD)
        _copy(pack, folder, "model_index.json", "vae/config.json", "transformer", "student", "scheduler", "tokenizer")
        save_codebook(folder, vae, statistics)
        _write_json(folder / provenance.TRAINING, {**provenance.read_training(pack), "decoder": training})

    _replace(pack, write)


def save_codebook(pack: Path, vae: VQVAE, statistics: CodebookStatistics) -> None:
    """A pack's codebook/ folder: what the explorer shows, so that it needs no model."""
    codes = codec.codebook(vae).cpu()
    order, columns = codec.similarity_order(statistics.swatches.flatten(1))
    distances, nearest = neighbours(codes, min(8, len(codes) - 1))
    swatches = to_images(statistics.swatches[order])
    patches = to_images(statistics.patches.flatten(0, 1))
    folder = pack / "codebook"
    folder.mkdir(exist_ok=True)
    grid(swatches, columns, gap=0).convert(swatches[0].mode).save(folder / "swatches.png", optimize=True)
    sprite = grid(patches, codec.PATCHES_PER_CODE, gap=0).convert(patches[0].mode)
    if sprite.mode == "L" or sprite.height > MAX_JPEG:
        sprite.save(folder / "patches.png", optimize=True)
    else:  # photographs would take ten times as much, and a file may have 10 MB
        encoded = BytesIO()  # Pillow writes half a JPEG to a full disk and says nothing
        sprite.save(encoded, "JPEG", quality=90, subsampling=0, optimize=True)
        (folder / "patches.jpg").write_bytes(encoded.getvalue())
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


def neighbours(codes: Tensor, count: int) -> tuple[Tensor, Tensor]:
    """Every code's nearest others and how far they are, nearest first.  codes: (K, d) -> two of (K, count)."""
    found = []
    for places in torch.arange(len(codes)).split(max(1, DISTANCES // len(codes))):  # all at once: 17 GB of 65 536 codes
        distances = torch.cdist(codes[places], codes)
        distances[torch.arange(len(places)), places] = torch.inf  # itself
        found.append(distances.topk(count, largest=False))
    return torch.cat([part.values for part in found]), torch.cat([part.indices for part in found])


def set_defaults(pack: Path, **defaults) -> None:
    """Write a pack's defaults (sampler, num_inference_steps, …) into its pipeline configuration."""
    index = {**packs.read_json(pack / "model_index.json"), **defaults}
    with replacing(pack / "model_index.json") as partial:
        _write_json(partial, index)


def _with_earlier(pack: Path, model: str, training: dict, resumed: bool = False) -> dict:
    """A training's record; if it went on from the pack's own weights, with the records of what made those."""
    if training.get("start_from") != pack.name and training.get("teacher") != "student":
        return training
    before = provenance.in_order(provenance.read_training(pack).get(model))
    if resumed and before[-1:] == [training]:  # it had finished already, and is written once more
        before.pop()
    return training | {"earlier": before}


def save_latents(file: Path, latents: Tensor, images: LabelledImages, fingerprint: str) -> None:
    """The training split as the codec of that fingerprint sees it, for the transformer's training.

    told: classes, captions and records as JSON, in bytes, so that all is in one file.
    """
    told = json.dumps({"classes": images.classes, "captions": images.captions, "records": images.records})
    tensors = {"latents": latents.contiguous(), "labels": images.labels}
    tensors["told"] = torch.frombuffer(bytearray(told, "utf-8"), dtype=torch.uint8)
    with replacing(file) as partial:
        save_file(tensors, partial, {"codec": fingerprint, "pictures": images.digest})


def _stored(model: nn.Module, dtype: torch.dtype = torch.float16):
    """A copy for the file: half precision is half the file, and the app computes in float32 all the same."""
    stored = nn.Module.to(copy.deepcopy(model), "cpu", dtype)
    for name, weight in stored.state_dict().items():
        if not weight.isfinite().all():
            raise PackError(
                f"the training diverged: the weight {name} is not finite in {dtype}, so nothing was written; "
                f"train again with a lower learning_rate"
            )
    return stored


def _dtype(part: Path) -> torch.dtype:
    """The precision a model is stored in; a pack from elsewhere may have another than ours."""
    with safe_open(next(part.glob("*.safetensors")), "pt") as tensors:
        return tensors.get_tensor(next(iter(tensors.keys()))).dtype


def _write_json(path: Path, content: dict, indent: int | None = 1) -> None:
    path.write_text(json.dumps(content, indent=indent, ensure_ascii=False) + "\n", encoding="utf-8")


def _copy(pack: Path, folder: Path, *parts: str) -> None:
    """Those parts of a pack that there are, folders or files, byte for byte."""
    for part in parts:
        if (pack / part).is_dir():
            shutil.copytree(pack / part, folder / part)
        elif (pack / part).is_file():
            shutil.copy2(pack / part, folder / part)


def _replace(pack: Path, write: Callable[[Path], None]) -> None:
    """Write a whole folder beside `pack`, then put it in its place: never a half-written pack under that name."""
    pack.parent.mkdir(parents=True, exist_ok=True)
    new, old = pack.with_name(f".{pack.name}.new"), pack.with_name(f".{pack.name}.old")

    def tidy() -> None:
        if old.exists() and not pack.exists():  # ended between the two renamings below
            os.replace(old, pack)
        for leftover in (new, old):
            shutil.rmtree(leftover, ignore_errors=True)

    tidy()  # what a run before this one left when it was killed
    try:
        with writing(pack):
            new.mkdir()
            write(new)
            if pack.exists():
                _copy(pack, new, *OWN)
                os.replace(pack, old)
            os.replace(new, pack)
    finally:
        tidy()
