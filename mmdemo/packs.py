"""A pack on disk: list, check, read, load. It knows files; what is in them is the models' business.

A pack is a diffusers pipeline folder (README, "A pack"). Listing and reading need neither torch nor diffusers, so
that a page can be shown before they are imported; loading imports them. training/export.py writes packs.
"""

from __future__ import annotations

import hashlib
import json
import logging
import struct
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING

from mmdemo import samplers
from mmdemo.arguments import MAX_PROMPT, Recipe, number, whole
from mmdemo.errors import ArgumentError, MmdemoError, PackError
from mmdemo.words import Words

if TYPE_CHECKING:
    from mmdemo.pipeline import ClassPipeline

HUB = "hub.txt"  # in a folder of packs: repositories on the Hub to open beside them, one a line
SOURCE = "source.json"  # where a pack came from that was pulled from the Hub
# What a pack is made of. The rest of a folder or repository, pickles above all, is neither fetched nor pushed.
FILES = ["*.json", "*.jsonl", "*.safetensors", "*.png", "*.jpg", "README.md", "notes.md", "LICENSE"]
log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Pack:
    """What can be said of a pack without loading its models."""

    name: str
    path: Path
    problem: str | None = None  # why it cannot be used; None = it can
    stamp: int = 0  # changes when the pack is written anew, so what was made of it can be told to be old
    classes: tuple[str, ...] = ()  # label names in the order of their class ids; () = none, or it reads words
    codes: int = 0  # K
    dim: int = 0  # d, the numbers in a code
    stride: int = 0  # pixels a token covers in each direction
    image_size: int = 0  # pixels of a side
    channels: int = 0
    samplers: tuple[str, ...] = ()  # those that fit the schedule, the default first; () = codec only
    defaults: Recipe | None = None  # how it draws unless asked otherwise; None = codec only
    words: bool = False  # whether a label is a text
    prompts: tuple[str, ...] = ()  # of such a pack, examples of what may be asked for
    source: str = ""  # where on the Hub it came from, as owner/name@commit; "" = it did not

    @property
    def can_sample(self) -> bool:
        return self.defaults is not None

    def json(self) -> dict:
        """An entry in the list of packs."""
        listed = ("name", "classes", "codes", "image_size", "can_sample", "samplers", "words", "source")
        entry = {name: getattr(self, name) for name in listed}
        entry |= {"classes": list(self.classes), "samplers": list(self.samplers)}
        return entry | ({"problem": self.problem} if self.problem else {})


def find(folders: Sequence[str | Path], name: str | None = None) -> list[Pack]:
    """Every pack in the folders, or those of one name; damaged ones included. A name's first finder wins."""
    found: dict[str, Path] = {}
    for folder in map(Path, folders):
        for path in sorted(folder.iterdir()) if folder.is_dir() else ():
            if path.is_dir() and not path.name.startswith(".") and name in (None, path.name):
                found.setdefault(path.name, path)
    return [read(path) for path in found.values()]


def repositories(folders: Iterable[Path]) -> list[str]:
    """What is to be opened from the Hub, by the HUB files of folders of packs."""
    files = (folder / HUB for folder in folders)
    return [line for file in files if file.is_file() for line in file.read_text(encoding="utf-8").split()]


def read(path: Path, name: str | None = None) -> Pack:
    """A pack's description, from its small files; what is wrong with it, if anything, is in `problem`."""
    name = name or path.name
    try:
        with _in_one_sentence("a configuration file has an entry missing or malformed"):
            return _read(path, name)
    except MmdemoError as error:
        return Pack(name, path, str(error))


def wanted(index: Mapping) -> list[str]:
    """What is fetched and pushed of a pack with this model_index.json, as patterns of file names."""
    return FILES


def place(folder: str | Path, name: str) -> Path:
    """Where in the folder the pack of that name is, or would be.  Raises PackError unless the name is a plain one."""
    if not name or name.startswith(".") or Path(name).name != name:
        raise PackError(f"pack is {name!r}; it must be a plain folder name such as digits")
    return Path(folder) / name


def source(path: Path) -> dict:
    """Where on the Hub a pack came from: {"repo", "commit", …}; {} = it did not.

    Raises PackError if what says so cannot be read.
    """
    if path.parent.name == "snapshots" and path.parent.parent.name.startswith("models--"):  # it lies in the Hub's cache
        owner_and_name = path.parent.parent.name.split("--")[1:]
        return {"repo": "/".join(owner_and_name), "commit": path.name}
    return read_json(path / SOURCE) if (path / SOURCE).is_file() else {}


@contextmanager
def _in_one_sentence(what: str) -> Iterator[None]:
    """The border to a stranger's files, which can make the libraries that read them raise anything: it becomes one
    PackError, so that one pack never hides the others, and its cause goes to the log."""
    try:
        yield
    except MmdemoError:
        raise
    except Exception as error:
        log.info("%s", what, exc_info=error)
        reason = " ".join(str(error).split())[:200]
        raise PackError(f"{what} ({type(error).__name__}: {reason})") from error


def _read(path: Path, name: str) -> Pack:
    index, vae = read_json(path / "model_index.json"), read_json(path / "vae" / "config.json")
    _check_weights(path / "vae")
    ours = "num_codes" in vae
    labels = index.get("id2label") or {}
    came = source(path)
    if sorted(labels, key=int) != [str(i) for i in range(len(labels))]:
        raise PackError("id2label must name the classes 0, 1, 2 … without a gap")
    pack = Pack(
        name=name,
        path=path,
        stamp=stamp(path / "model_index.json", *sorted(path.glob("*/*.safetensors"))),
        classes=tuple(str(labels[str(i)]) for i in range(len(labels))),
        codes=whole("num_codes", vae["num_codes"] if ours else vae["num_vq_embeddings"], 2, 2**20),
        dim=whole("latent_channels", vae.get("vq_embed_dim") or vae["latent_channels"], 1, 4096),
        stride=whole("stride", vae["stride"] if ours else 2 ** (len(vae["block_out_channels"]) - 1), 1, 256),
        image_size=whole("image_size", index.get("image_size") or vae.get("sample_size") or 32, 1, 1024),
        channels=whole("in_channels", vae["in_channels"], 1, 3),
        source=f"{came['repo']}@{came['commit']}" if came else "",
    )
    number("latent_std", vae["latent_std"] if ours else vae["scaling_factor"], 1e-6, 1e6)
    if pack.image_size % pack.stride:
        raise PackError(f"image_size is {pack.image_size}, no multiple of the codec's stride, {pack.stride}")
    if (path / "codebook").exists():
        _check_codebook(*_codebook_file(path), pack.codes)
    if (index.get("transformer") or [None])[0] is None:
        return pack

    transformer = read_json(path / "transformer" / "config.json")
    _check_weights(path / "transformer")
    for option in ("patch_size", "depth", "num_heads", "num_layers", "num_attention_heads"):
        whole(option, transformer.get(option, 1), 1, 256)
    if whole("vocab_size", transformer.get("vocab_size", 0), 0, 2**17):
        pack = _reading(pack, index, transformer)
    else:
        known = transformer["num_classes"] if "num_classes" in transformer else transformer["num_embeds_ada_norm"]
        classes = whole("num_classes", known, 1, 100_000)
        if not pack.classes:  # diffusers' DiTPipeline saves no names
            pack = replace(pack, classes=tuple(str(i) for i in range(classes)))
        if classes < len(pack.classes):
            raise PackError(f"transformer knows {classes} classes, but the pack names {len(pack.classes)}")
    side = whole("sample_size", transformer["sample_size"], 1, 1024)
    if transformer["in_channels"] != pack.dim or side != pack.image_size // pack.stride:
        raise PackError("transformer was made for latents of another size than the codec's")
    scheduler = read_json(path / "scheduler" / "scheduler_config.json")
    whole("num_train_timesteps", scheduler.get("num_train_timesteps", 1000), 10, 10_000)
    number("shift", scheduler.get("shift", 1.0), 0.01, 100)
    fitting = tuple(samplers.fitting(scheduler["_class_name"], scheduler))
    pack = replace(pack, samplers=fitting)
    defaults = Recipe.stored(index, pack)
    first = (defaults.sampler, *(other for other in fitting if other != defaults.sampler))
    return replace(pack, samplers=first, defaults=defaults)


def _reading(pack: Pack, index: dict, transformer: dict) -> Pack:
    """The pack, whose transformer reads texts."""
    whole("text_depth", transformer.get("text_depth", 1), 1, 64)
    for name in ("tokenizer.json", "words.json"):
        if not (pack.path / "tokenizer" / name).is_file():
            raise PackError(f"tokenizer/{name} is missing")
    prompts = index.get("prompts") or []
    if not isinstance(prompts, list) or not all(isinstance(one, str) and len(one) <= MAX_PROMPT for one in prompts):
        raise PackError(f"prompts in model_index.json is no list of texts of at most {MAX_PROMPT} characters")
    return replace(pack, words=True, classes=(), prompts=tuple(prompts[:32]))


def read_words(pack: Pack) -> Words:
    """What a pack's transformer can read.  Raises PackError if its tokenizer/ is damaged, or there is none."""
    if not pack.words:
        raise PackError(f"pack {pack.name!r} reads no words: it draws classes")
    return _words(pack.path / "tokenizer", pack.stamp)


@lru_cache(maxsize=16)
def _words(folder: Path, stamp: int) -> Words:
    return Words.load(folder)


def stamp(*files: Path) -> int:
    """Changes when one of the files is written anew, also by a copy that keeps its time."""
    known = [file.stat() for file in files]
    return hash(tuple((one.st_ino, one.st_ctime_ns, one.st_mtime_ns, one.st_size) for one in known))


def read_json(path: Path) -> dict:
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
        files = sorted({folder / shard for shard in read_json(index)["weight_map"].values()})
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
        with _in_one_sentence("its models cannot be made of its files"):
            parts = {"vae": _load_part(pack.path, "vae")}
            if pack.can_sample:
                parts["transformer"] = _load_part(pack.path, "transformer")
            pipeline = ClassPipeline.from_pretrained(
                pack.path, **parts, dtype=torch.float32, use_safetensors=True, local_files_only=True
            )
            if pack.words and pipeline.words.size > pipeline.transformer.config.vocab_size:
                raise PackError("tokenizer/ has more tokens than the transformer knows")
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


def _load_part(path: Path, part: str):
    """One model, refusing pickles, missing or left-over weights, and weights that are no numbers."""
    import torch
    from diffusers import DiTTransformer2DModel, VQModel

    from mmdemo.models.dit import DiT
    from mmdemo.models.vqvae import VQVAE

    known = {model.__name__: model for model in (VQVAE, DiT, VQModel, DiTTransformer2DModel)}
    name = read_json(path / part / "config.json").get("_class_name")
    if name not in known:
        raise PackError(f"{part} is a {name}; known are {', '.join(known)}")
    # Else accelerate changes how every thread makes its models, and of two at once leaves it changed for good.
    own = {"low_cpu_mem_usage": False}
    model, notes = known[name].from_pretrained(
        path / part, dtype=torch.float32, use_safetensors=True, local_files_only=True, output_loading_info=True, **own
    )
    for problem in ("missing_keys", "unexpected_keys", "mismatched_keys"):
        if notes.get(problem):
            raise PackError(f"{part} has {problem.replace('_', ' ')}: {', '.join(map(str, notes[problem][:3]))}")
    for key, weight in model.state_dict().items():
        if not weight.isfinite().all():
            raise PackError(f"{part}: the weight {key} holds numbers that are not finite")
    if isinstance(model, VQVAE) and not model.fits_its_grid():
        raise PackError(f"{part}: the weight codebook is not the grid of its levels")
    return model.eval().requires_grad_(False)


def read_codebook(pack: Pack) -> dict:
    """The stored description of the codebook: counts, order, columns, swatch_size, patch_size, nearest, distances.

    Raises PackError if it is missing, damaged or another codebook's.
    """
    return _codebook(*_codebook_file(pack.path), pack.codes)


def _codebook_file(path: Path) -> tuple[Path, int]:
    """Where it is, and a stamp that changes when it is written anew."""
    file = path / "codebook" / "codebook.json"
    try:
        return file, stamp(file)
    except (FileNotFoundError, NotADirectoryError):
        raise PackError("codebook/codebook.json is missing, so there are no statistics to show") from None


@lru_cache(maxsize=4096)  # a list of many packs would push each other's content out of the cache below
def _check_codebook(file: Path, stamp: int, codes: int) -> None:
    _codebook(file, stamp, codes)


@lru_cache(maxsize=32)
def _codebook(file: Path, stamp: int, codes: int) -> dict:
    stored = read_json(file)
    for name in ("counts", "order", "nearest", "distances"):
        if not isinstance(stored.get(name), list) or len(stored[name]) != codes:
            raise PackError(f"codebook/codebook.json has no {name} for the {codes} codes")
    if sorted(stored["order"]) != list(range(codes)):
        raise PackError("codebook/codebook.json has an order that does not hold every code once")
    for count in stored["counts"]:
        whole("counts", count, 0, 2**53)
    places = set(range(codes))
    for near, far in zip(stored["nearest"], stored["distances"], strict=True):
        if len(near) != len(far) or not places.issuperset(near):
            raise PackError("codebook/codebook.json names nearest codes that there are not")
        if not all(type(distance) in (int, float) for distance in far):
            raise PackError("codebook/codebook.json has distances that are no numbers")
    for name in ("columns", "swatch_size", "patch_size", "patches_per_code"):
        whole(name, stored.get(name), 1, 4096)
    return stored


def read_training(pack: Path) -> dict:
    """How a pack was trained: {"vqvae": {…}, "dit": {…}, "decoder": {…}}, each its configuration and its minutes.

    Raises PackError if it does not say on which pictures: a data set's name, and their side or None for its own.
    """
    training = read_json(pack / "training.json")
    codec = training.get("vqvae")
    if not isinstance(codec, dict) or not isinstance(codec.get("dataset"), str):
        raise PackError(f"pack {pack.name!r} does not say what its codec was trained on: training.json has no dataset")
    if codec.setdefault("image_size", None) is not None:
        try:
            whole("image_size", codec["image_size"], 1, 4096)
        except ArgumentError as error:
            raise PackError(f"pack {pack.name!r} has a training.json that cannot be used: {error}") from None
    return training


def fingerprint(pack: Path) -> str:
    """A digest of what makes a pack's latents and tokens, to tell whether some are its own: all but the decoder."""
    import torch
    from safetensors import safe_open

    digest = hashlib.sha256()
    for file in sorted((pack / "vae").glob("*.safetensors")):
        with safe_open(file, "pt") as tensors:
            for name in sorted(tensors.keys()):
                if not name.startswith(("decoder.", "post_quant_conv.")):
                    digest.update(name.encode())
                    digest.update(tensors.get_tensor(name).contiguous().view(torch.uint8).numpy())
    return digest.hexdigest()
