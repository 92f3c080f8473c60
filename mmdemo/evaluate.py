"""The numbers on a model card, measured on the test split: how well a codec reconstructs and a transformer generates.

Generated pictures are judged by a small classifier, trained here once on the same data set and kept in the run's
folder: whether it reads the class that was asked for, and the Fréchet distance (Heusel et al., arXiv:1706.08500)
between its features of generated and of test pictures, as a ratio to that between training and test pictures.
"""

import os
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import torch
import torch.nn.functional as F
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torchmetrics.image import PeakSignalNoiseRatio, StructuralSimilarityIndexMeasure
from torchmetrics.image.fid import FrechetInceptionDistance  # not exported where torch-fidelity is absent

from mmdemo import codec, data, packs
from mmdemo.arguments import choice, number, whole
from mmdemo.data import LabelledImages
from mmdemo.images import from_bytes, to_bytes
from mmdemo.pipeline import ClassPipeline
from mmdemo.training.loop import learning_rate_factor

FEATURES = 128
BATCH = 250


class Classifier(nn.Module):
    """Reads a picture's class.  x: (B, C, H, W) in [-1, 1] -> (B, num_classes); `features`: (B, FEATURES)."""

    def __init__(self, channels: int, num_classes: int, width: int = 32):
        super().__init__()
        self.body = nn.Sequential(
            nn.Conv2d(channels, width, 5, stride=2, padding=2), nn.BatchNorm2d(width), nn.ReLU(),
            nn.Conv2d(width, 2 * width, 3, padding=1), nn.BatchNorm2d(2 * width), nn.ReLU(), nn.MaxPool2d(2),
            nn.Conv2d(2 * width, 4 * width, 3, padding=1), nn.BatchNorm2d(4 * width), nn.ReLU(), nn.MaxPool2d(2),
            nn.AdaptiveAvgPool2d(4), nn.Flatten(),
            nn.Linear(64 * width, FEATURES), nn.ReLU(),
        )  # fmt: skip
        self.head = nn.Sequential(nn.Dropout(0.3), nn.Linear(FEATURES, num_classes))

    def features(self, x: Tensor) -> Tensor:
        return self.body(x.contiguous(memory_format=torch.channels_last))

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.features(x))


class _Features(nn.Module):
    """What torchmetrics' Fréchet distance asks of a feature extractor: uint8 or float pictures in, (B, n) out."""

    num_features = FEATURES

    def __init__(self, classifier: Classifier):
        super().__init__()
        self.classifier = classifier

    def forward(self, x: Tensor) -> Tensor:
        return self.classifier.features(from_bytes(x))


def train_classifier(
    images: LabelledImages, seed: int = 0, epochs: int = 6, batch_size: int = 128
) -> Iterator[tuple[int, int, Classifier]]:
    """Yields (step, steps, classifier) after every step; pictures are shifted by up to two pixels."""
    torch.manual_seed(seed)
    classifier = Classifier(images.pixels.shape[1], len(images.classes)).to(memory_format=torch.channels_last)
    optimizer = torch.optim.AdamW(classifier.parameters(), lr=2e-3, weight_decay=0.01)
    steps = max(1, epochs * len(images) // batch_size)
    for step in range(steps):
        for group in optimizer.param_groups:
            group["lr"] = 2e-3 * learning_rate_factor(step, steps, max(1, steps // 10))
        places = data.permuted(len(images), step * batch_size, (step + 1) * batch_size, seed)
        x = from_bytes(images.pixels[places])
        down, right = torch.randint(-2, 3, (2,)).tolist()
        x = F.pad(x, (2, 2, 2, 2), value=-1.0)[
            ..., 2 + down : 2 + down + x.shape[-2], 2 + right : 2 + right + x.shape[-1]
        ]
        loss = F.cross_entropy(classifier.train()(x), images.labels[places])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        yield step + 1, steps, classifier.eval()


def load_classifier(
    dataset: str, image_size: int | None, channels: int, folder: Path, data_dir: str | Path | None,
    report: Callable[[str], None], seed: int = 0,
) -> Classifier:  # fmt: skip
    """The classifier of a data set: read from `folder`, or trained and put there."""
    images = data.load(dataset, "train", data_dir, image_size, channels)
    labelled = images.labels >= 0
    images = LabelledImages(images.pixels[labelled], images.labels[labelled], images.classes)
    kind = f"{Path(dataset).name}-{images.pixels.shape[-1]}-{channels}-{len(images.classes)}"
    file = folder / f"{kind}-seed{seed}.safetensors"
    if file.is_file():
        classifier = Classifier(channels, len(images.classes))
        classifier.load_state_dict(load_file(file))
        return classifier.eval().to(memory_format=torch.channels_last)
    for step, steps, trained in train_classifier(images, seed):
        classifier = trained
        if step % max(1, steps // 10) == 0:
            report(f"training the classifier: {step}/{steps}")
    folder.mkdir(parents=True, exist_ok=True)
    save_file({name: w.contiguous() for name, w in classifier.state_dict().items()}, file.with_suffix(".partial"))
    os.replace(file.with_suffix(".partial"), file)
    return classifier


@torch.inference_mode()
def accuracy(classifier: Classifier, pixels: Tensor, labels: Tensor) -> float:
    """Share of uint8 pictures read as their labels, in [0, 1]."""
    read = torch.cat([classifier(from_bytes(part)).argmax(1) for part in pixels.split(BATCH)])
    return float((read == labels).double().mean())


@torch.inference_mode()
def frechet_distance(classifier: Classifier, a: Tensor, b: Tensor) -> float:
    """Between two sets of uint8 pictures, in the classifier's features."""
    size = tuple(a.shape[1:])
    metric = FrechetInceptionDistance(feature=_Features(classifier), input_img_size=size)
    for part in a.split(BATCH):
        metric.update(part, real=True)
    for part in b.split(BATCH):
        metric.update(part, real=False)
    return float(metric.compute())


def generate(
    pipeline: ClassPipeline,
    labels: Tensor,
    report: Callable[[str], None] = lambda line: None,
    seed: int = 0,
    **settings,
) -> Tensor:
    """One uint8 picture a label; picture i has seed `seed` + i.  labels: (N,) -> (N, C, H, W)."""
    pictures = []
    for start in range(0, len(labels), BATCH):
        part = labels[start : start + BATCH]
        generators = [torch.Generator().manual_seed(seed + start + i) for i in range(len(part))]
        pictures.append(to_bytes(pipeline(part, generators, output_type="pt", **settings).images).cpu())
        report(f"generating: {start + len(part)}/{len(labels)}")
    return torch.cat(pictures)


def evaluate(
    pack: Path,
    runs: Path,
    data_dir: str | Path | None = None,
    samples: int = 10_000,  # generated for the Fréchet distance; the first fifth, at least 200 a class, is read
    num_inference_steps: int | None = None,  # None = the pack's default, here and below
    guidance_scale: float | None = None,
    sampler: str | None = None,
    report: Callable[[str], None] = lambda line: None,
) -> dict:
    """Every number of a pack's card.  Raises PackError and DataError.

    PSNR and SSIM are over what was not padded: 28 × 28 of MNIST's 32 × 32.
    """
    described = packs.read(pack)
    samples = whole("samples", samples, 100, 1_000_000)
    if described.can_sample:
        steps = described.steps if num_inference_steps is None else num_inference_steps
        settings = {
            "num_inference_steps": whole("steps", steps, 1, 1000),
            "guidance_scale": number(
                "guidance", described.guidance if guidance_scale is None else guidance_scale, 0, 20
            ),
            "sampler": choice("sampler", described.samplers[0] if sampler is None else sampler, described.samplers),
        }
    pipeline = packs.load(described)
    training = packs.read_training(pack)["vqvae"]
    dataset, size, channels = training["dataset"], training["image_size"], described.channels
    test = data.load(dataset, "test", data_dir, size, channels)
    started = time.perf_counter()

    report("reconstructing the test split")
    ids = torch.cat([codec.encode_ids(pipeline.vae, from_bytes(part)).cpu() for part in test.pixels.split(BATCH)])
    rebuilt = torch.cat([to_bytes(codec.decode_ids(pipeline.vae, part)).cpu() for part in ids.split(BATCH)])
    counts = ids.flatten().bincount(minlength=described.codes)
    edge = data.PADDING.get(dataset, 0) if size is None else 0
    inner = slice(edge, described.image_size - edge)
    numbers = {
        "dataset": Path(dataset).name,
        "test_images": len(test),
        **_likeness(rebuilt[..., inner, inner], test.pixels[..., inner, inner]),
        "codes": described.codes,
        "codes_used": int((counts > 0).sum()),
        "perplexity": codec.perplexity(counts),
    }
    if not test.classes or bool((test.labels < 0).any()):
        return numbers | {"minutes": _minutes_since(started)}

    classifier = load_classifier(dataset, size, channels, runs / "classifiers", data_dir, report)
    numbers |= {
        "accuracy_test": accuracy(classifier, test.pixels, test.labels),
        "accuracy_reconstructed": accuracy(classifier, rebuilt, test.labels),
    }
    train = data.load(dataset, "train", data_dir, size, channels)
    some = data.permuted(len(train), 0, min(len(test), len(train)), seed=0)
    numbers |= {
        "frechet_train_test": frechet_distance(classifier, train.pixels[some], test.pixels),
        "frechet_reconstructed_test": frechet_distance(classifier, rebuilt, test.pixels),
    }
    if described.can_sample:
        labels = torch.arange(samples) % len(test.classes)
        generated = generate(pipeline, labels, report, **settings)
        read = min(samples, max(200 * len(test.classes), samples // 5))
        frechet = frechet_distance(classifier, generated, test.pixels)
        numbers |= settings | {
            "generated": samples,
            "accuracy_generated": accuracy(classifier, generated[:read], labels[:read]),
            "accuracy_generated_of": read,
            "frechet_generated_test": frechet,
            "frechet_ratio": frechet / numbers["frechet_train_test"],
        }
    return numbers | {"features": FEATURES, "minutes": _minutes_since(started)}


def _minutes_since(started: float) -> float:
    return round((time.perf_counter() - started) / 60, 1)


def _likeness(a: Tensor, b: Tensor) -> dict[str, float]:
    """PSNR as the mean over pictures and of the pooled error, and SSIM, between uint8 pictures (N, C, H, W)."""
    each = PeakSignalNoiseRatio(data_range=1.0, dim=(1, 2, 3), reduction="elementwise_mean")
    pooled, ssim = PeakSignalNoiseRatio(data_range=1.0), StructuralSimilarityIndexMeasure(data_range=1.0)
    for pair in zip(a.split(BATCH), b.split(BATCH), strict=True):
        for metric in (each, pooled, ssim):
            metric.update(*(part / 255 for part in pair))
    return {"psnr": float(each.compute()), "psnr_pooled": float(pooled.compute()), "ssim": float(ssim.compute())}
