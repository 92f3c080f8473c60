"""A pack's model card: README.md and metrics.json, written from what training and `evaluate` left. It measures nothing.

What a person has to add (data licence, comparisons) goes into the pack's notes.md, which the card ends with.
"""

import json
from pathlib import Path

from mmdemo import packs
from mmdemo.evaluate import FEATURES
from mmdemo.training.config import DiTConfig, VQVAEConfig

LICENCES = {
    "mnist": "MNIST (LeCun, Cortes and Burges), CC BY-SA 3.0",
    "fashion-mnist": "Fashion-MNIST (Zalando Research), MIT",
    "cifar10": "CIFAR-10 (Krizhevsky, 2009), no licence stated; for research",
    "shapes": "`shapes`, drawn by mmdemo itself, Apache-2.0",
}


def write(pack: Path, numbers: dict) -> None:
    """Both files.  numbers: what `evaluate` returned."""
    (pack / "metrics.json").write_text(json.dumps(numbers, indent=1) + "\n", encoding="utf-8")
    notes = pack / "notes.md"
    extra = notes.read_text(encoding="utf-8") if notes.is_file() else ""
    (pack / "README.md").write_text(_text(pack, numbers) + extra, encoding="utf-8")


def _text(pack: Path, numbers: dict) -> str:
    described, training = packs.read(pack), packs.read_training(pack)
    dataset = training["vqvae"]["dataset"]
    does = f"a diffusion transformer for {len(described.classes)} classes" if described.can_sample else "no transformer"
    return f"""---
library_name: diffusers
license: apache-2.0
tags: [vq-vae, diffusion, dit, class-conditional, mmdemo]
---
# {pack.name}

A VQ-VAE with {described.codes} codes of {described.dim} numbers ({described.image_size}×{described.image_size} pixels,
one token for {described.stride}×{described.stride} of them) and {does}, trained by mmdemo.

```python
from mmdemo.pipeline import ClassPipeline

pipeline = ClassPipeline.from_pretrained("weights/{pack.name}", use_safetensors=True)
```

## Data
{LICENCES.get(dataset, f"`{Path(dataset).name}`, a folder of pictures")}. The weights are under Apache-2.0.

## Training
```
{_command("vqvae", pack.name, training["vqvae"], VQVAEConfig)}
```
{_cost(training["vqvae"])}
{_transformer(pack.name, training) if described.can_sample else ""}
## Measured
By `{_evaluation(pack.name, numbers)}`
on {numbers["test_images"]} test pictures, in {numbers["minutes"]} minutes.

{_table(numbers)}

PSNR and SSIM are means over pictures, without padding. Pictures are read by a small classifier that `evaluate` trains
once on the training split. The Fréchet distance is taken between the {FEATURES} numbers of its last hidden layer; its
ratio is to the same distance between training and test pictures, so 1 is as close as real data.
"""


def _transformer(name: str, training: dict) -> str:
    return f"""
```
{_command("dit", name, training["dit"], DiTConfig)}
```
{_cost(training["dit"])}
"""


def _command(model: str, name: str, training: dict, config) -> str:
    """The command that trains it: only the options that differ from the defaults."""
    command = f"python -m mmdemo train {model} --pack {name}"
    if model == "vqvae":
        command += f" --dataset {training['dataset']}"
    for option, field in config.__dataclass_fields__.items():
        if option != "dataset" and training.get(option, field.default) != field.default:
            command += f" --{option.replace('_', '-')} {training[option]}"
    return command


def _evaluation(name: str, numbers: dict) -> str:
    """The command that measured them, with every setting written out."""
    command = f"python -m mmdemo evaluate --pack {name}"
    if "generated" in numbers:
        command += f" --samples {numbers['generated']} --steps {numbers['num_inference_steps']}"
        command += f" --guidance {numbers['guidance_scale']:g} --sampler {numbers['sampler']}"
    return command


def _cost(training: dict) -> str:
    size = f"{training['steps']} steps of {training['batch_size']}"
    return f"{size} in {training['minutes']} minutes on {training['machine']}."


def _table(numbers: dict) -> str:
    rows = [
        ("PSNR", f"{numbers['psnr']:.2f} dB"),
        ("PSNR of the mean squared error over all pictures", f"{numbers['psnr_pooled']:.2f} dB"),
        ("SSIM", f"{numbers['ssim']:.4f}"),
        (
            "codes used",
            f"{numbers['codes_used']} of {numbers['codes']} ({numbers['codes_used'] / numbers['codes']:.1%})",
        ),
        ("perplexity", f"{numbers['perplexity']:.0f}"),
    ]
    if "accuracy_test" in numbers:
        rows += [
            ("test pictures read right", f"{numbers['accuracy_test']:.2%}"),
            ("reconstructions read right", f"{numbers['accuracy_reconstructed']:.2%}"),
            ("Fréchet distance, training – test", f"{numbers['frechet_train_test']:.3f}"),
            ("Fréchet distance, reconstructions – test", f"{numbers['frechet_reconstructed_test']:.3f}"),
        ]
    if "accuracy_generated" in numbers:
        how = f"{numbers['sampler']}, {numbers['num_inference_steps']} steps, guidance {numbers['guidance_scale']:g}"
        rows += [
            (f"generated ({how}) read as asked, of {numbers['accuracy_generated_of']}",
             f"{numbers['accuracy_generated']:.2%}"),
            (f"Fréchet distance, {numbers['generated']} generated – test", f"{numbers['frechet_generated_test']:.3f}"),
            ("**Fréchet ratio**", f"**{numbers['frechet_ratio']:.2f}**"),
        ]  # fmt: skip
    return "\n".join(["| | |", "|---|---|", *(f"| {name} | {value} |" for name, value in rows)])
