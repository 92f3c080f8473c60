"""What all measures of a pack need: its data set, pictures that it draws, who judges them, sheets of them for its card.

Drawn pictures are judged by a small classifier (classifier.py): whether it reads the class that was asked for, and the
Fréchet distance (Heusel et al., arXiv:1706.08500) between its features of generated and of test pictures, as a ratio to
that between training and test pictures. Where pictures have captions, a reader (reader.py) judges them instead: whether
what a caption names is there (asked.py).
"""

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from torch import Tensor

from mmdemo import codec, data, loading, packs, provenance
from mmdemo.arguments import SETTINGS, Recipe
from mmdemo.asked import Asked, copies, named_right, variety
from mmdemo.captions import Lexicon
from mmdemo.classifier import Judge, load_classifier
from mmdemo.data import LabelledImages
from mmdemo.datasets import padding
from mmdemo.errors import DataError
from mmdemo.images import enlarge, from_bytes, grid, to_bytes, to_images
from mmdemo.metrics import BATCH, accuracy, frechet, frechet_distance
from mmdemo.pipeline import ClassPipeline, Label
from mmdemo.reader import Attributes, Reader, load_reader
from mmdemo.unfinished import AT_ONCE, Unfinished

PROMPTS, SEEDS = 100, 4  # captions that are drawn several times, and how often
ALIKE = 8  # real pictures that are compared where a caption fits them all
NEAREST = 2000  # pictures that are looked for among the training pictures
SHEET = 112_000  # pixels of pictures in one picture for the card: as a PNG of photographs, some 300 KB


@dataclass(frozen=True)
class Evaluation:
    """A pack that is measured, and what each of its measures needs: the one below, and those in other files."""

    folder: Path  # the pack's
    runs: Path  # where the models that judge pictures are kept
    data_dir: str | Path | None = None
    report: Callable[[str], None] = lambda line: None
    show: Callable[[str, Image.Image], None] = lambda file, picture: None  # takes the card's pictures
    unfinished: Unfinished = AT_ONCE
    started: float = field(default_factory=time.perf_counter)

    @cached_property
    def pack(self) -> packs.Pack:
        return packs.read(self.folder)

    @cached_property
    def pipeline(self) -> ClassPipeline:
        return loading.load(self.pack)

    @property
    def minutes(self) -> float:
        """Those that it took until now, in earlier sittings too, with reading the pictures."""
        return round((time.perf_counter() - self.started + self.unfinished.seconds) / 60, 1)

    @property
    def dataset(self) -> str:
        """The name of the data set that the pack was trained on."""
        return Path(self._trained["dataset"]).name

    @cached_property
    def _trained(self) -> dict:
        return provenance.read_training(self.folder)["vqvae"]

    def split(self, name: str, data_dir: str | Path | None = None) -> LabelledImages:
        """A part of that data set, its pictures as the pack sees them.  data_dir: another than the evaluation's."""
        dataset, size = self._trained["dataset"], self._trained["image_size"]
        return data.load(dataset, name, data_dir or self.data_dir, size, self.pack.channels)

    def of_classes(self) -> tuple[LabelledImages, LabelledImages]:
        """Training and test pictures.  Raises DataError unless they have the classes that the pack draws."""
        train, test = self.split("train"), self.split("test")
        classes = len(self.pack.classes)
        if len(test.classes) != classes or bool((test.labels < 0).any()):
            raise DataError(f"{self.dataset} has not the {classes} classes of pack {self.folder.name!r}")
        return train, test

    def unpadded(self, pixels: Tensor) -> Tensor:
        """What of the pack's pictures (N, C, H, W) is no padding: 28 × 28 of MNIST's 32 × 32."""
        edge = padding(self._trained["dataset"], self._trained["image_size"])
        inner = slice(edge, self.pack.image_size - edge)
        return pixels[..., inner, inner]

    def recipe(self, asked: Mapping[str, Any]) -> Recipe:
        """How pictures are drawn.  asked: settings by name; the others are the pack's own."""
        checked = {name: SETTINGS[name].check(name, value, self.pack) for name, value in asked.items()}
        return Recipe.of(self.pack, checked)

    def drawn(self, labels: Sequence[Label] | Tensor, seed: int = 0, **settings) -> Tensor:
        return generate(self.pipeline, labels, self.report, seed, self.unfinished, **settings)

    def classifier(self, train: LabelledImages) -> Judge:
        return load_classifier(train, self.runs / "classifiers", self.report)

    def reader(self, train: LabelledImages) -> Reader | None:
        return load_reader(train, self.runs / "classifiers", self.report)


def judged_by_class(classifier: Judge, test: LabelledImages, labels: Sequence[int], drawn: Tensor) -> dict:
    """Whether pictures drawn by classes are read as these, of the first fifth of them or 200 of each, and the distance
    to the test pictures."""
    read = min(len(drawn), max(200 * len(test.classes), len(drawn) // 5))
    return {
        "accuracy_generated": accuracy(classifier, drawn[:read], torch.as_tensor(labels[:read])),
        "accuracy_generated_of": read,
        "frechet_generated_test": frechet_distance(classifier, drawn, test.pixels),
    }


def places_of(reader: Reader, images: LabelledImages) -> list[tuple[str, ...]]:
    """Where the attributes of each picture are to be read."""
    return [reader.attributes.places(record) for record in images.records]


@dataclass(frozen=True)
class CaptionJudge:
    """Looks whether pictures drawn by captions are what was asked for."""

    reader: Reader | None  # None = nothing is known of pictures but their captions
    lexicon: Lexicon

    def asked(self, images: LabelledImages, count: int) -> list[Asked]:
        """One caption of each picture, in a random order; their first ones, their second ones … in turn."""
        attributes = self.reader.attributes if self.reader else Attributes({}, {})
        asked = []
        for k, i in enumerate(data.permuted(len(images), 0, count, seed=0).tolist()):
            captions = images.captions[i]
            asked.append(Asked.of(captions[k % len(captions)], images.records[i], self.lexicon, attributes))
        return asked

    def named(self, split: str, asked: Sequence[Asked], drawn: Tensor) -> dict:
        """How much of what the captions name is in the pictures."""
        if not self.reader:
            return {}
        return named_right(asked, self.reader.read(drawn, [one.places for one in asked]), split)

    def judged(self, test: LabelledImages, asked: Sequence[Asked], drawn: Tensor) -> dict:
        """That of test captions, and the distance to the test pictures."""
        if not self.reader:
            return {}
        features = self.reader.features(drawn, [one.places for one in asked])
        distance = frechet(features, self.reader.features(test.pixels, places_of(self.reader, test)))
        return self.named("test", asked, drawn) | {"frechet_generated_test": distance}

    def test(
        self,
        draw: Callable[[Sequence[Label]], Tensor],  # one uint8 picture a caption
        train: LabelledImages,
        test: LabelledImages,
        rebuilt: Tensor,
        samples: int,
        show: Callable[[str, Image.Image], None],
    ) -> dict:
        """All that is measured of pictures drawn by test captions."""
        asked = self.asked(test, samples)
        drawn = draw([one.caption for one in asked])
        some = asked[: min(PROMPTS, samples // SEEDS)]
        repeated = draw([one.caption for one in some for _ in range(SEEDS)]).unflatten(0, (len(some), SEEDS))
        rows = min(8, len(some), max(1, SHEET // repeated[0, :, 0].numel()))
        show("samples.png", sheet(list(repeated[:rows])))
        numbers = {
            "generated": samples,
            "captions": [one.caption for one in some[:rows]],
            **self.judged(test, asked, drawn),
            "copies": copies(drawn[:NEAREST], spread(rebuilt, NEAREST), train.pixels),
        }
        if not self.reader:
            return numbers
        truths = [self.reader.attributes.truth(record) for record in train.records]
        fitting = [[i for i, truth in enumerate(truths) if one.fits(truth)] for one in some]
        pairs = [
            (ours, spread(train.pixels[i], ALIKE)) for ours, i in zip(repeated, fitting, strict=True) if len(i) > 1
        ]
        if pairs:
            numbers |= {"variety": variety(*zip(*pairs, strict=True)), "variety_of": len(pairs)}
        return numbers


def generate(
    pipeline: ClassPipeline,
    labels: Sequence[Label] | Tensor,
    report: Callable[[str], None] = lambda line: None,
    seed: int = 0,
    unfinished: Unfinished = AT_ONCE,
    **settings,
) -> Tensor:
    """One uint8 picture a label; picture i has seed `seed` + i.  labels: N of them -> (N, C, H, W)."""
    pictures, labels = [], labels.tolist() if isinstance(labels, Tensor) else list(labels)
    for start in range(0, len(labels), BATCH):
        part = labels[start : start + BATCH]

        def drawn(seed: int = seed + start, part: Sequence[Label] = part) -> Tensor:
            generators = [torch.Generator().manual_seed(seed + i) for i in range(len(part))]
            return to_bytes(pipeline(part, generators, output_type="pt", **settings).images).cpu()

        pictures.append(unfinished.part(drawn, ("drawn", seed + start, part, settings)))
        report(f"generating: {start + len(part)}/{len(labels)}")
    return torch.cat(pictures)


def tokens_of(pipeline: ClassPipeline, pixels: Tensor) -> Tensor:
    """uint8 pictures (N, C, H, W) -> ids (N, h, w)."""
    return torch.cat([codec.encode_ids(pipeline.vae, from_bytes(part)).cpu() for part in pixels.split(BATCH)])


def spread(pixels: Tensor, count: int) -> Tensor:
    """Up to that many pictures, from the first to the last at even distances: a split is often sorted by class."""
    return pixels[torch.linspace(0, len(pixels) - 1, min(count, len(pixels))).round().long()]


def sheet(rows: Sequence[Tensor]) -> Image.Image:
    """Rows of uint8 pictures (n, C, H, W) as one, enlarged."""
    return enlarge(grid([image for row in rows for image in to_images(row)], len(rows[0])), 1200)


def columns_of(pixels: Tensor, rows: int) -> int:
    """How many pictures a row may have: ten, or as many as keep a sheet small."""
    return max(1, min(10, SHEET // (rows * pixels.shape[-2] * pixels.shape[-1])))
