"""A pack on disk: list and read. It knows what the files mean; checks.py, whether they may be opened.

A pack is a diffusers pipeline folder (README, "A pack"), or a codec alone. Nothing here needs torch or diffusers, so
that a page can be shown before they are imported; loading.py imports them. training/export.py writes packs.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from math import isfinite
from pathlib import Path

from mmdemo import checks, provenance, samplers
from mmdemo.arguments import MAX_STEPS, Recipe
from mmdemo.checks import read_json
from mmdemo.errors import MmdemoError, PackError
from mmdemo.kinds import MAX_PROMPT, MAX_SIDE, number, whole
from mmdemo.words import Words

HUB = "hub.txt"  # in a folder of packs: repositories on the Hub to open beside them, one a line
# The models that may be in a pack: the name in a configuration -> the module it is of and its name there.
CODECS = {
    "VQVAE": ("mmdemo.models.vqvae", "VQVAE"),
    "VQModel": ("diffusers", "VQModel"),
    "AutoencoderKL": ("diffusers", "AutoencoderKL"),
}
TRANSFORMERS = {
    "DiT": ("mmdemo.models.dit", "DiT"),
    "DiTTransformer2DModel": ("diffusers", "DiTTransformer2DModel"),
    "Transformer2DModel": ("diffusers", "DiTTransformer2DModel"),  # what it was called when DiT-XL was published
}
DRAWING = ("ClassPipeline", "DiTPipeline")  # of any other pipeline the codec alone is opened
CODEC_FOLDERS = ("vae", "vqvae", "movq")  # ours and DiT's; latent diffusion's and aMUSEd's; Kandinsky's
MAX_GRID = 64  # patches of a side: a transformer's memory grows with their number, whatever its file's size
MAX_CODEBOOK = 2**24  # numbers in a codebook: it is read as a whole to be shown


@dataclass(frozen=True)
class Pack:
    """What can be said of a pack without loading its models."""

    name: str
    path: Path
    problem: str | None = None  # why it cannot be used; None = it can
    stamp: int = 0  # changes when the pack is written anew, so what was made of it can be told to be old
    classes: tuple[str, ...] = ()  # label names in the order of their class ids; () = none, or it reads words
    codec: Path = Path()  # the folder of its codec
    codes: int = 0  # K; 0 = its codec has no codebook
    dim: int = 0  # d, the numbers in a code, or else in a latent
    stride: int = 0  # pixels a token covers in each direction
    image_size: int = 0  # pixels of a side
    channels: int = 0
    patches: int = 0  # that its transformer sees of a picture; 0 = codec only
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
    """A pack's description, from its small files; what is wrong with it, if anything, is in `problem`.

    They are read again once a file of the pack has changed.
    """
    name = name or path.name
    try:
        with checks.in_one_sentence("a configuration file has an entry missing or malformed"):
            return _read(path, name, checks.folder(path))
    except MmdemoError as error:
        return Pack(name, path, str(error))


def wanted(index: Mapping) -> list[str]:
    """What is fetched and pushed of a pack with this model_index.json, as patterns of file names."""
    models = ["", *CODEC_FOLDERS, *(["transformer", "student"] if index.get("_class_name") in DRAWING else [])]
    weights = [checks.WEIGHTS, checks.WEIGHTS.replace(".", "-?????-of-?????.")]
    of_models = [f"{folder}/{file}".removeprefix("/") for folder in models for file in weights]
    return ["*.json", "*.jsonl", "*.png", "*.jpg", "README.md", "notes.md", "LICENSE", *of_models]


def place(folder: str | Path, name: str) -> Path:
    """Where in the folder the pack of that name is, or would be.  Raises PackError unless the name is a plain one."""
    if not name or name.startswith(".") or Path(name).name != name:
        raise PackError(f"pack is {name!r}; it must be a plain folder name such as digits")
    return Path(folder) / name


@lru_cache(maxsize=4096)
def _read(path: Path, name: str, files: tuple) -> Pack:
    alone = (path / "config.json").is_file() and not (path / "model_index.json").is_file()
    index = {} if alone else read_json(path / "model_index.json")
    checks.bounded(index, "model_index.json")
    folders = [path] if alone else [path / one for one in CODEC_FOLDERS if (path / one / "config.json").is_file()]
    codec = folders[0] if folders else path / CODEC_FOLDERS[0]
    vae, came = checks.configuration(codec, CODECS), provenance.source(path)
    ours, continuous = vae["_class_name"] == "VQVAE", vae["_class_name"] == "AutoencoderKL"
    stride = vae["stride"] if ours else 2 ** (len(vae["block_out_channels"]) - 1)
    pack = Pack(
        name=name,
        path=path,
        stamp=stamp(path / ("config.json" if alone else "model_index.json"), *sorted(path.glob("**/*.safetensors"))),
        classes=_classes(index),
        codec=codec,
        codes=0 if continuous else vae["num_codes"] if ours else vae["num_vq_embeddings"],
        dim=vae.get("vq_embed_dim") or vae["latent_channels"],
        stride=stride,
        image_size=whole("image_size", index.get("image_size") or _side(vae.get("sample_size"), stride), 1, 1024),
        channels=vae["in_channels"],
        source=f"{came['repo']}@{came['commit']}" if came else "",
    )
    if pack.channels not in (1, 3) or vae.get("out_channels", pack.channels) != pack.channels:
        raise PackError(f"its codec has {pack.channels} channels; pictures have 1 or 3, before and after")
    if pack.codes * pack.dim > MAX_CODEBOOK:
        raise PackError(f"its codebook of {pack.codes}×{pack.dim} numbers is larger than the {MAX_CODEBOOK} allowed")
    if pack.codes and (path / "codebook").exists():
        _codebook(*_codebook_file(path), pack.codes)
    if pack.image_size % pack.stride:
        raise PackError(f"image_size is {pack.image_size}, no multiple of the codec's stride, {pack.stride}")
    draws = index.get("_class_name") in DRAWING and (index.get("transformer") or [None])[0] is not None
    return _drawing(pack, index) if draws else pack


def _classes(index: dict) -> tuple[str, ...]:
    """The names in id2label, in the order of their ids. Of two alike the later has its id added: ImageNet has two
    cranes, a bird and a machine."""
    labels = index.get("id2label") or {}
    if sorted(labels, key=int) != [str(i) for i in range(len(labels))]:
        raise PackError("id2label must name the classes 0, 1, 2 … without a gap")
    names = [str(labels[str(i)]) for i in range(len(labels))]
    first = {name: i for i, name in reversed([*enumerate(names)])}
    return tuple(name if first[name] == i else f"{name} ({i})" for i, name in enumerate(names))


def _side(sample_size: int | Sequence[int] | None, stride: int) -> int:
    """The side of pictures for a codec whose pack does not say: its sample_size, but at least 8 tokens, for often that
    is no more than diffusers' default of 32; and no more than is quick to look at."""
    side = min(sample_size) if isinstance(sample_size, list) else sample_size or 32
    return max(min(side, MAX_SIDE) // stride, 8) * stride


def _drawing(pack: Pack, index: dict) -> Pack:
    """The pack, with a transformer that draws."""
    for part, allowed in (("vae", CODECS), ("transformer", TRANSFORMERS)):
        checks.known(index[part][1], allowed, f"{part} in model_index.json")
    transformer = checks.configuration(pack.path / "transformer", TRANSFORMERS)
    if transformer.get("norm_type", "ada_norm_zero") != "ada_norm_zero":
        raise PackError(f"transformer is conditioned by {transformer['norm_type']!r}; only ada_norm_zero is known")
    side = transformer["sample_size"]
    if not index.get("image_size"):  # DiTPipeline's codec is the same for pictures of any size
        pack = replace(pack, image_size=side * pack.stride)
    grid = whole("sample_size / patch_size", side // transformer.get("patch_size", 2), 1, MAX_GRID)
    if transformer["in_channels"] != pack.dim or side != pack.image_size // pack.stride:
        raise PackError("transformer was made for latents of another size than the codec's")
    if transformer.get("out_channels") not in (None, pack.dim, 2 * pack.dim):  # twice: it has learned sigma as well
        raise PackError(f"transformer gives {transformer['out_channels']} channels; {pack.dim} or twice that are known")
    if transformer.get("vocab_size"):
        pack = _reading(pack, index)
    else:
        classes = transformer["num_classes"] if "num_classes" in transformer else transformer["num_embeds_ada_norm"]
        if not pack.classes:  # diffusers' DiTPipeline saves no names
            pack = replace(pack, classes=tuple(str(i) for i in range(classes)))
        if not 0 < len(pack.classes) <= classes:
            raise PackError(f"transformer knows {classes} classes, but the pack names {len(pack.classes)}")
    fitting = tuple(samplers.fitting(*schedule(pack.path)))
    if (index.get("student") or [None])[0] is not None:
        _check_student(pack.path / "student", transformer)
        fitting += (samplers.FAST,)
    pack = replace(pack, samplers=fitting, patches=grid**2)
    defaults = Recipe.stored(index, pack)
    first = (defaults.sampler, *(other for other in fitting if other != defaults.sampler))
    return replace(pack, samplers=first, defaults=defaults)


def _check_student(folder: Path, teacher: dict) -> None:
    """A student is as large as its transformer, and knows when it may stop.  Raises PackError."""
    student = checks.configuration(folder, {"DiT": TRANSFORMERS["DiT"]})
    for name in ("sample_size", "in_channels", "num_classes", "vocab_size"):
        if student.get(name, 0) != teacher.get(name, 0):
            raise PackError(f"student was made for another {name} than the transformer's")
    times = student.get("times")
    if not isinstance(times, list) or not samplers.MAX_JUMPS < len(times) <= MAX_STEPS + 1 or times[-1] != 0:
        raise PackError(
            f"student/config.json has no times from noise down to 0, {samplers.MAX_JUMPS} or more before it"
        )
    for before, after in zip(times, times[1:], strict=False):
        if not number("times", before, 0, 1000) > number("times", after, 0, 1000):
            raise PackError("student/config.json has times that do not go down")


def schedule(pack: Path) -> tuple[str, dict]:
    """The scheduler that a pack was saved with: its class, one of those in samplers.py, and its options."""
    where = "scheduler/scheduler_config.json"
    config = read_json(pack / where)
    checks.bounded(config, where)
    return checks.known(config.get("_class_name"), samplers.SCHEDULERS, where), config


def _reading(pack: Pack, index: dict) -> Pack:
    """The pack, whose transformer reads texts."""
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
        if not all(type(distance) in (int, float) and isfinite(distance) for distance in far):
            raise PackError("codebook/codebook.json has distances that are no numbers")
    for name in ("columns", "swatch_size", "patch_size", "patches_per_code"):
        whole(name, stored.get(name), 1, 4096)
    return stored


def usual_psnr(pack: Pack) -> float | None:
    """How closely its codec gives back the pictures it was made for, in dB; None = `evaluate` has not measured it."""
    file = pack.path / "metrics.json"
    measured = read_json(file).get("psnr") if file.is_file() else None
    return None if measured is None else number("psnr", measured, 0, 100)
