"""The numbers on a model card, measured on the test split: how well a codec reconstructs and a transformer generates.

Generated pictures are judged by a small classifier (classifier.py): whether it reads the class that was asked
for, and the Fréchet distance (Heusel et al., arXiv:1706.08500) between its features of generated and of test pictures,
as a ratio to that between training and test pictures. Where pictures have captions, a reader (reader.py) judges them
instead: whether what a caption names is there (asked.py). Pictures in colour are held against JPEG (jpeg.py). What a
pack itself says of pictures, by `describe` or `classify`, is held against what is known of them.
"""

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from torch import Tensor, nn
from torchmetrics.image import PeakSignalNoiseRatio, StructuralSimilarityIndexMeasure
from torchmetrics.image.fid import FrechetInceptionDistance  # not exported where torch-fidelity is absent

from mmdemo import classifying, codec, data, describing, jpeg, packs
from mmdemo.arguments import EVALUATED, SETTINGS, Recipe
from mmdemo.asked import Asked, copies, named_right, variety
from mmdemo.captions import Lexicon
from mmdemo.classifier import Judge, accuracy_of_tokens, load_classifier
from mmdemo.data import LabelledImages
from mmdemo.datasets import padding
from mmdemo.errors import DataError
from mmdemo.images import enlarge, from_bytes, grid, to_bytes, to_images
from mmdemo.pipeline import ClassPipeline, Label
from mmdemo.reader import Attributes, Reader, load_reader, shares
from mmdemo.segmenting import overlaps

BATCH = 250
PROMPTS, SEEDS = 100, 4  # captions that are drawn several times, and how often
ALIKE = 8  # real pictures that are compared where a caption fits them all
NEAREST = 2000  # pictures that are looked for among the training pictures
TOKENS = 100_000  # training pictures, at most, whose class is learned from their tokens
SHEET = 112_000  # pixels of pictures in one picture for the card: as a PNG of photographs, some 300 KB


def evaluate(
    pack: Path,
    runs: Path,
    data_dir: str | Path | None = None,
    samples: int = 10_000,  # generated for the Fréchet distance; of classes the first fifth, at least 200 each, is read
    asked: Mapping[str, Any] | None = None,  # settings of a drawing, by name; None = the pack's own, each and all
    report: Callable[[str], None] = lambda line: None,
    show: Callable[[str, Image.Image], None] = lambda file, picture: None,  # takes the card's pictures
    described: int = 100,  # test pictures that a pack that reads is to describe, a second or more each
    segments: str | Path | None = None,  # a folder of pictures with masks, which a pack that reads is to find
    classified: int | None = None,  # those that one of classes is to classify; None = a tenth of `samples`
) -> dict:
    """Every number of a pack's card.  Raises PackError and DataError.

    PSNR, SSIM and detail are over what was not padded: 28 × 28 of MNIST's 32 × 32. Bits are those of the token ids,
    entropy-coded, over all pixels. JPEG is given as many or more.
    """
    asks, described = EVALUATED["described"].check("described", described, None), packs.read(pack)
    samples = EVALUATED["samples"].check("samples", samples, None)
    classified = samples // 10 if classified is None else EVALUATED["classified"].check("classified", classified, None)
    if described.can_sample:
        given = {name: value for name, value in (asked or {}).items() if value is not None}
        checked = {name: SETTINGS[name].check(name, value, described) for name, value in given.items()}
        settings = Recipe.of(described, checked).to_store()
    pipeline = packs.load(described)
    uses = torch.tensor(packs.read_codebook(described)["counts"])
    dataset, split = splits(described, data_dir)
    test = split("test")
    if described.classes and described.can_sample and test.classes and len(test.classes) != len(described.classes):
        raise DataError(
            f"{dataset} has {len(test.classes)} classes and pack {pack.name!r} {len(described.classes)}; "
            f"what it draws can be judged only on the data set it was trained on"
        )
    if described.words and not test.captions:
        raise DataError(f"{dataset} has no captions to draw by, and pack {pack.name!r} is asked by text")
    started = time.perf_counter()

    report("reconstructing the test split")
    ids = tokens_of(pipeline, test.pixels)
    rebuilt = torch.cat([to_bytes(codec.decode_ids(pipeline.vae, part)).cpu() for part in ids.split(BATCH)])
    counts = ids.flatten().bincount(minlength=described.codes)
    rows = [unpadded(described, pixels) for pixels in (test.pixels, rebuilt)]
    numbers = {
        "dataset": dataset,
        "test_images": len(test),
        **likeness(rows[1], rows[0]),
        "detail": detail(rows[1], rows[0]),
        "bits_per_pixel": token_bits(ids, uses) * ids[0].numel() / test.pixels[0, 0].numel(),
        "codes": described.codes,
        "codes_used": int((counts > 0).sum()),
        "perplexity": codec.perplexity(counts),
    }
    if described.channels == 3:
        report("compressing it by JPEG")
        by_scan, by_file = jpeg.at_bits(test.pixels, numbers["bits_per_pixel"])
        numbers |= _jpeg("jpeg", by_scan, test.pixels) | _jpeg("jpeg_file", by_file, test.pixels)
        rows.append(by_scan.pixels)
    show("comparison.png", sheet([spread(pixels, columns_of(pixels, len(rows))) for pixels in rows]))
    captioned = described.words or bool(test.captions and not test.classes)
    if not captioned and (not test.classes or bool((test.labels < 0).any())):
        return numbers | {"minutes": minutes_since(started)}

    train = split("train")
    if captioned:
        reader = load_reader(train, runs / "classifiers", report)
        numbers |= _read(reader, train, test, rebuilt) if reader else {}
        if described.words:
            lexicon = packs.read_words(described).lexicon
            judge, draw = CaptionJudge(reader, lexicon), partial(generate, pipeline, report=report, **settings)
            numbers |= settings | judge.test(draw, train, test, rebuilt, samples, show)
            if asks and lexicon.phrases:
                some = data.permuted(len(test), 0, min(asks, len(test)), seed=1).tolist()
                records = [test.records[i] for i in some]
                right = describing.accuracy(pipeline, described, test.pixels[some], records, report)
                numbers |= {"described_right": right, "described_right_of": len(some)}
            if segments:
                _, beside = splits(described, Path(segments).parent)
                masked = beside(Path(segments).name)
                numbers["segments"] = overlaps(pipeline, lexicon, masked, Path(segments), report)
            try:
                novel = split("novel")
            except DataError as error:
                report(f"combinations that were not trained are not drawn: {error}")
            else:
                asked = judge.asked(novel, min(samples, len(novel)))
                numbers |= judge.named("novel", asked, draw([one.caption for one in asked]))
        if "frechet_generated_test" in numbers:
            numbers["frechet_ratio"] = numbers["frechet_generated_test"] / numbers["frechet_train_test"]
        return numbers | {"minutes": minutes_since(started)}

    classifier = load_classifier(train, runs / "classifiers", report)
    numbers |= {
        "accuracy_test": accuracy(classifier, test.pixels, test.labels),
        "accuracy_reconstructed": accuracy(classifier, rebuilt, test.labels),
    }
    some = data.permuted(len(train), 0, min(len(test), len(train)), seed=0)
    numbers |= {
        "frechet_train_test": frechet_distance(classifier, train.pixels[some], test.pixels),
        "frechet_reconstructed_test": frechet_distance(classifier, rebuilt, test.pixels),
    }
    if described.can_sample:
        classes = len(test.classes)
        labels = torch.arange(samples) % classes
        generated = generate(pipeline, labels, report, **settings)
        columns = min(columns_of(generated, classes), max(1, samples // classes))
        show("samples.png", sheet([generated[label::classes][:columns] for label in range(min(classes, samples))]))
        numbers |= settings | {"generated": samples, **judged_by_class(classifier, test, labels, generated)}
        numbers["frechet_ratio"] = numbers["frechet_generated_test"] / numbers["frechet_train_test"]
        if classified and classes > 1:
            numbers |= _classified(pipeline, described, test, classified, report)
            report("reading tokens")
            named = train.labelled()
            every = -(-len(named) // TOKENS)
            known = tokens_of(pipeline, named.pixels[::every]), named.labels[::every]
            numbers["accuracy_tokens"] = accuracy_of_tokens(*known, ids, test.labels)
    return numbers | {"features": classifier.num_features, "minutes": minutes_since(started)}


def splits(described: packs.Pack, data_dir: str | Path | None) -> tuple[str, Callable[[str], LabelledImages]]:
    """The data set that a pack was trained on: its name, and a split's pictures as the pack sees them."""
    training = packs.read_training(described.path)["vqvae"]
    dataset, size = training["dataset"], training["image_size"]
    return Path(dataset).name, lambda split: data.load(dataset, split, data_dir, size, described.channels)


def unpadded(described: packs.Pack, pixels: Tensor) -> Tensor:
    """What of a pack's pictures (N, C, H, W) is no padding: 28 × 28 of MNIST's 32 × 32."""
    training = packs.read_training(described.path)["vqvae"]
    edge = padding(training["dataset"], training["image_size"])
    inner = slice(edge, described.image_size - edge)
    return pixels[..., inner, inner]


def tokens_of(pipeline: ClassPipeline, pixels: Tensor) -> Tensor:
    """uint8 pictures (N, C, H, W) -> ids (N, h, w)."""
    return torch.cat([codec.encode_ids(pipeline.vae, from_bytes(part)).cpu() for part in pixels.split(BATCH)])


def _classified(
    pipeline: ClassPipeline, described: packs.Pack, test: LabelledImages, count: int, report: Callable[[str], None]
) -> dict:
    """How well, and how fast, the pack itself classifies test pictures in a random order."""
    some, started = data.permuted(len(test), 0, min(count, len(test)), seed=1), time.perf_counter()
    right = classifying.accuracy(pipeline, described, test.pixels[some], test.labels[some], report)
    seconds = (time.perf_counter() - started) / len(some)
    return {"classified_right": right, "classified_right_of": len(some), "classified_seconds": round(seconds, 3)}


def _read(reader: Reader, train: LabelledImages, test: LabelledImages, rebuilt: Tensor) -> dict:
    """What the reader makes of test pictures, and of their reconstructions."""
    some = data.permuted(len(train), 0, min(len(test), len(train)), seed=0)
    places, others = _places(reader, test), _places(reader, train)
    features = reader.features(test.pixels, places)
    return {
        **{
            f"read_{name}": shares(reader.read(pixels, places), reader.attributes, test.records)
            for name, pixels in (("test", test.pixels), ("reconstructed", rebuilt))
        },
        "frechet_train_test": frechet(reader.features(train.pixels[some], [others[i] for i in some]), features),
        "frechet_reconstructed_test": frechet(reader.features(rebuilt, places), features),
        "features": reader.num_features,
    }


def _places(reader: Reader, images: LabelledImages) -> list[tuple[str, ...]]:
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
        distance = frechet(features, self.reader.features(test.pixels, _places(self.reader, test)))
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


def judged_by_class(classifier: Judge, test: LabelledImages, labels: Sequence[int], drawn: Tensor) -> dict:
    """Whether pictures drawn by classes are read as these, of the first fifth of them or 200 of each, and the distance
    to the test pictures."""
    read = min(len(drawn), max(200 * len(test.classes), len(drawn) // 5))
    return {
        "accuracy_generated": accuracy(classifier, drawn[:read], torch.as_tensor(labels[:read])),
        "accuracy_generated_of": read,
        "frechet_generated_test": frechet_distance(classifier, drawn, test.pixels),
    }


def token_bits(ids: Tensor, uses: Tensor) -> float:
    """Bits a token costs on average, entropy-coded: what a static arithmetic coder spends that has the training
    split's uses of every code, and one more of each, as its table.  ids: any shape; uses: (K,)."""
    probabilities = (uses.double() + 1) / (uses.sum() + len(uses))
    return float(-probabilities.log2()[ids].mean())


def detail(a: Tensor, b: Tensor) -> float:
    """Energy of a's gradients over that of b's, of uint8 pictures (N, C, H, W): 1 = as sharp, less = blurred."""
    return _gradient_energy(a) / max(_gradient_energy(b), 1.0)


def _gradient_energy(pixels: Tensor) -> float:
    return sum(
        float(part.float().diff(dim=dim).double().square().sum()) for part in pixels.split(BATCH) for dim in (2, 3)
    )


@torch.inference_mode()
def accuracy(classifier: Judge, pixels: Tensor, labels: Tensor) -> float:
    """Share of uint8 pictures read as their labels, in [0, 1]; on the classifier's device."""
    read = torch.cat([classifier(from_bytes(part)).argmax(1) for part in pixels.split(BATCH)])
    return float((read == labels).double().mean())


@torch.inference_mode()
def frechet_distance(classifier: Judge, a: Tensor, b: Tensor) -> float:
    """Between two sets of uint8 pictures, in the classifier's features."""
    return frechet(*(torch.cat([classifier.features(from_bytes(x)) for x in one.split(BATCH)]) for one in (a, b)))


def frechet(a: Tensor, b: Tensor) -> float:
    """The Fréchet distance between two sets of features (N, n)."""
    metric = FrechetInceptionDistance(feature=_Given(a.shape[1]))
    for part in a.split(BATCH):
        metric.update(part, real=True)
    for part in b.split(BATCH):
        metric.update(part, real=False)
    return float(metric.compute())


def generate(
    pipeline: ClassPipeline,
    labels: Sequence[Label] | Tensor,
    report: Callable[[str], None] = lambda line: None,
    seed: int = 0,
    **settings,
) -> Tensor:
    """One uint8 picture a label; picture i has seed `seed` + i.  labels: N of them -> (N, C, H, W)."""
    pictures = []
    for start in range(0, len(labels), BATCH):
        part = labels[start : start + BATCH]
        generators = [torch.Generator().manual_seed(seed + start + i) for i in range(len(part))]
        pictures.append(to_bytes(pipeline(part, generators, output_type="pt", **settings).images).cpu())
        report(f"generating: {start + len(part)}/{len(labels)}")
    return torch.cat(pictures)


class _Given(nn.Module):
    """What torchmetrics' Fréchet distance asks of a feature extractor, for what are features already."""

    def __init__(self, num_features: int):
        super().__init__()
        self.num_features = num_features

    def forward(self, x: Tensor) -> Tensor:
        return x


def spread(pixels: Tensor, count: int) -> Tensor:
    """Up to that many pictures, from the first to the last at even distances: a split is often sorted by class."""
    return pixels[torch.linspace(0, len(pixels) - 1, min(count, len(pixels))).round().long()]


def sheet(rows: Sequence[Tensor]) -> Image.Image:
    """Rows of uint8 pictures (n, C, H, W) as one, enlarged."""
    return enlarge(grid([image for row in rows for image in to_images(row)], len(rows[0])), 1200)


def columns_of(pixels: Tensor, rows: int) -> int:
    """How many pictures a row may have: ten, or as many as keep a sheet small."""
    return max(1, min(10, SHEET // (rows * pixels.shape[-2] * pixels.shape[-1])))


def minutes_since(started: float) -> float:
    return round((time.perf_counter() - started) / 60, 1)


def _jpeg(name: str, compressed: jpeg.Compressed, originals: Tensor) -> dict:
    alike = likeness(compressed.pixels, originals)
    return {
        f"{name}_quality": compressed.quality,
        f"{name}_subsampling": compressed.subsampling,
        f"{name}_bits_per_pixel": compressed.bits_per_pixel,
        f"{name}_psnr": alike["psnr"],
        f"{name}_ssim": alike["ssim"],
    }


def likeness(a: Tensor, b: Tensor) -> dict[str, float]:
    """PSNR as the mean over pictures and of the pooled error, and SSIM, between uint8 pictures (N, C, H, W)."""
    each = PeakSignalNoiseRatio(data_range=1.0, dim=(1, 2, 3), reduction="none")
    pooled, ssim = PeakSignalNoiseRatio(data_range=1.0), StructuralSimilarityIndexMeasure(data_range=1.0)
    for pair in zip(a.split(BATCH), b.split(BATCH), strict=True):
        for metric in (each, pooled, ssim):
            metric.update(*(part / 255 for part in pair))
    return {
        "psnr": float(each.compute().clamp(max=100).mean()),  # a picture without error has infinitely many dB
        "psnr_pooled": min(float(pooled.compute()), 100.0),
        "ssim": float(ssim.compute()),
    }
