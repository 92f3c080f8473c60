"""A pack's model card: README.md, its pictures and metrics.json, from what training and `evaluate` left. It measures
nothing.

What a person has to add (data licence, comparisons) goes into the pack's notes.md, which the card ends with.
"""

import json
from collections.abc import Sequence
from contextlib import suppress
from itertools import chain
from pathlib import Path

from PIL import Image

from mmdemo import measured, packs, provenance
from mmdemo.arguments import STORED
from mmdemo.datasets import NAMED
from mmdemo.errors import PackError
from mmdemo.packs import Pack
from mmdemo.samplers import FAST
from mmdemo.training.config import DecoderConfig, DiTConfig, StudentConfig, VQVAEConfig

METRICS = {  # what the Hub is told of the numbers: by which name it knows them, and what they are
    "psnr": ("psnr", "PSNR of reconstructions, dB"),
    "ssim": ("ssim", "SSIM of reconstructions"),
    "accuracy_generated": ("accuracy", "generated pictures read as asked"),
    "named_right_test": ("accuracy", "values named by test captions that are there"),
    "frechet_ratio": ("frechet_ratio", "Fréchet ratio: distance(generated, test) / distance(training, test)"),
}
PICTURES = ("comparison.png", "samples.png", "student.png", "restored.png")  # that a card may show
BESIDES = {  # what `evaluate` can measure besides -> how the names of its numbers and of its picture begin
    "classify": ("classified", "accuracy_tokens"), "restore": ("restored",), "synthetic": ("synthetic",),
    "student": ("student",), "segments": ("segments",),
}  # fmt: skip
CONFIGS = {  # in the order of their trainings
    "vqvae": VQVAEConfig, "dit": DiTConfig, "decoder": DecoderConfig, "student": StudentConfig
}  # fmt: skip
NEEDS = """# In a checkout of mmdemo, or where one was installed by pip: diffusers alone has not these models.
# From the Hub it comes by: python -m mmdemo pull owner/name"""


def write(pack: Path, numbers: dict, pictures: dict[str, Image.Image] | None = None, kept: Sequence[str] = ()) -> None:
    """All its files.  numbers: what `evaluate` returned; pictures: what it showed, by file name; kept: those of the
    pictures there that it is to go on showing."""
    pictures = pictures or {}
    for file, picture in pictures.items():
        picture.save(pack / file, optimize=True)
    (pack / "metrics.json").write_text(json.dumps(numbers, indent=1) + "\n", encoding="utf-8")
    notes = pack / "notes.md"
    extra = "\n" + notes.read_text(encoding="utf-8").lstrip("\n") if notes.is_file() else ""
    (pack / "README.md").write_text(_text(pack, numbers, {*pictures, *kept}) + extra, encoding="utf-8")


def add(pack: Path, numbers: dict, pictures: dict[str, Image.Image]) -> None:
    """What was measured besides, on the card of a pack that `evaluate` wrote.  Raises PackError if there is none."""
    write(pack, read(pack) | numbers, pictures, _pictures(pack))


def renew(pack: Path, numbers: dict, pictures: dict[str, Image.Image], changed: bool) -> list[str]:
    """The card of the same weights measured anew. What was measured besides stays on it, but for what is no longer
    true beside it: that is named in BESIDES and returned.

    changed: whether the pack draws by other settings from now on.
    """
    known = {}
    with suppress(PackError):  # none, or damaged
        known = read(pack)
    now = json.loads(json.dumps(numbers))
    drawn = ("dataset", "generated", *STORED.values())  # what a student's drawings are held against
    gone = ["restore"] * changed
    gone += ["student"] * (changed or any(known.get(name) != now.get(name) for name in drawn))
    stay = tuple(chain(*(begins for way, begins in BESIDES.items() if way not in gone)))
    for way in gone:
        _remove_pictures(pack, way)
    write(
        pack,
        {name: value for name, value in known.items() if name.startswith(stay)} | numbers,
        pictures,
        _pictures(pack),
    )
    return [way for way in gone if any(name.startswith(BESIDES[way]) for name in known)]


def without_student(pack: Path) -> None:
    """The card without what was measured of the pack's last student, which is another now, and of what that drew."""
    _remove_pictures(pack, "student")
    if (pack / "metrics.json").is_file():
        known = read(pack)
        its = known.get("synthetic_settings", {}).get(STORED["sampler"]) == FAST
        gone = (*BESIDES["student"], *(BESIDES["synthetic"] if its else ()))
        write(pack, {name: value for name, value in known.items() if not name.startswith(gone)}, kept=_pictures(pack))


def _remove_pictures(pack: Path, way: str) -> None:
    for file in _pictures(pack):
        if file.startswith(BESIDES[way]):
            (pack / file).unlink()


def _pictures(pack: Path) -> list[str]:
    return [file for file in PICTURES if (pack / file).is_file()]


def read(pack: Path) -> dict:
    """The numbers on a pack's card.  Raises PackError if there are none."""
    if not (pack / "metrics.json").is_file():
        raise PackError(f"{pack.name!r} is not measured yet; first: python -m mmdemo evaluate --pack {pack.name}")
    return packs.read_json(pack / "metrics.json")


def _text(pack: Path, numbers: dict, pictures: set[str]) -> str:
    described, training = packs.read(pack), provenance.read_training(pack)
    dataset, size = training["vqvae"]["dataset"], described.image_size
    data = NAMED[dataset].licence if dataset in NAMED else _folder(dataset, described)
    does = "a diffusion transformer that reads" if described.words else "no transformer"
    if described.can_sample and not described.words:
        does = f"a diffusion transformer for {len(described.classes)} classes"
    return f"""---
{_front_matter(described, dataset, numbers)}
---
# {pack.name}

A VQ-VAE with {described.codes} codes of {described.dim} numbers{_grid(training["vqvae"])} ({size}×{size} pixels,
one token for {described.stride}×{described.stride} of them) and {does}, trained by mmdemo.

```python
{_use(pack.name, described)}
```

## Data
{data}. The weights are under Apache-2.0.

## Training
{_trained(pack.name, training)}
{measured.text(pack.name, numbers, training, pictures)}{_codebook(described)}"""


def _front_matter(described: Pack, dataset: str, numbers: dict) -> str:
    """What the Hub reads of a card: the task, the data set, the measured numbers."""
    from huggingface_hub import EvalResult, ModelCardData

    task, tags = "image-feature-extraction", ["vq-vae", "mmdemo"]
    if described.can_sample:
        task = "text-to-image" if described.words else "unconditional-image-generation"  # the Hub has none of classes
        tags += ["diffusion", "dit"] + ["class-conditional"] * (not described.words)
    name = dataset if dataset in NAMED else Path(dataset).name
    on_hub = NAMED[dataset].hub if dataset in NAMED else None
    results = [
        EvalResult(
            task_type=task,
            dataset_type=on_hub or name,
            dataset_name=name,
            dataset_split="test",
            metric_type=kind,
            metric_name=words,
            metric_value=round(numbers[key], 4),
        )
        for key, (kind, words) in METRICS.items()
        if key in numbers
    ]
    return ModelCardData(
        library_name="diffusers",
        pipeline_tag=task,
        license="apache-2.0",
        datasets=[on_hub] if on_hub else None,
        tags=tags,
        model_name=described.name,
        eval_results=results,
    ).to_yaml()


def _codebook(described: Pack) -> str:
    if not (described.path / "codebook" / "swatches.png").is_file():
        return ""
    return "\nThe codebook, by likeness.\n\n![Every code as a picture](codebook/swatches.png)\n"


def _folder(dataset: str, described: Pack) -> str:
    """What a folder of pictures held; every training picture used a code for each of its places."""
    count = sum(packs.read_codebook(described)["counts"]) // (described.image_size // described.stride) ** 2
    pictures = "pictures with captions" if described.words else "pictures"
    return f"`{Path(dataset).name}`, a folder of {pictures}, {count} of them to train on"


def _grid(training: dict) -> str:
    """What kind of codes they are, where they were not learned."""
    if training.get("quantizer", "vq") == "vq":
        return ""
    return f" rounded to {' · '.join(map(str, training['levels']))} levels (finite scalar quantization)"


def _use(name: str, described: Pack) -> str:
    """Code that draws, or reconstructs. DiffusionPipeline and its `custom_pipeline` cannot: a pack holds no code, and
    would have to hold that of its models."""
    if described.can_sample:
        drawing = f"\npictures = pipeline({json.dumps(described.prompts[:1], ensure_ascii=False)}).images"
        drawing = drawing if described.prompts else ""
        return f"""{NEEDS}
from mmdemo.pipeline import ClassPipeline

pipeline = ClassPipeline.from_pretrained("weights/{name}", use_safetensors=True){drawing}"""
    return f"""{NEEDS}
from mmdemo.studio import Studio

Studio().reconstruct("{name}", "picture.jpg").image.save("rebuilt.png")"""


def _trained(name: str, training: dict) -> str:
    """Every command that trained it, in order, and what each cost."""
    return "".join(
        f"""
```
{_command(model, name, record)}{measured.where(training) if model == "decoder" else ""}
```
{_cost(record)}
"""
        for model in CONFIGS
        for record in provenance.in_order(training.get(model))
    )


def _command(model: str, name: str, training: dict) -> str:
    """The command that trains it: only the options that differ from the defaults."""
    command = f"python -m mmdemo train {model} --pack {name}"
    if model == "vqvae":
        command += f" --dataset {training['dataset']}"
    made = ("num_codes", "latent_channels") if training.get("levels") else ()  # by the levels
    for option, field in CONFIGS[model].__dataclass_fields__.items():
        value = training.get(option, field.default)
        if option not in ("dataset", *made) and value != field.default:
            command += measured.option(option, value)
    return f"{command} --overwrite" if training.get("start_from") == name else command


def _cost(training: dict) -> str:
    size = f"{training['steps']} steps of {training['batch_size']}"
    return f"{size} in {training['minutes']} minutes on {training['machine']}."
