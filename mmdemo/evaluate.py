"""The first numbers of a model card, measured on the test split: how well a codec reconstructs, a transformer draws.

Pictures in colour are held against JPEG (jpeg.py). What a pack itself says of pictures, by `describe`, is held against
what is known of them. How pictures are drawn and judged is in judging.py; what else can be measured is a file a way.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from mmdemo import codec, data, describing, jpeg, packs
from mmdemo.arguments import DESCRIBED, EVALUATED, SAMPLES
from mmdemo.data import LabelledImages
from mmdemo.errors import ArgumentError, DataError
from mmdemo.images import to_bytes
from mmdemo.judging import CaptionJudge, Evaluation, columns_of, judged_by_class, places_of, sheet, spread, tokens_of
from mmdemo.metrics import BATCH, accuracy, detail, frechet, frechet_distance, likeness, token_bits
from mmdemo.pipeline import Label
from mmdemo.reader import Reader, shares
from mmdemo.segmenting import overlaps


def evaluate(
    evaluation: Evaluation,
    samples: int = SAMPLES,  # drawn for the Fréchet distance; of classes the first fifth, at least 200 each, is read
    asked: Mapping[str, Any] = {},  # settings of a drawing, by name; the others are the pack's own
    described: int = DESCRIBED,  # test pictures that a pack that reads is to describe, a second or more each
    segments: str | Path | None = None,  # a folder of pictures with masks, which a pack that reads is to find
) -> dict:
    """Every number of a pack's card.  Raises PackError and DataError.

    PSNR, SSIM and detail are over what was not padded: 28 × 28 of MNIST's 32 × 32. Bits are those of the token ids,
    entropy-coded, over all pixels. JPEG is given as many or more.
    """
    described = EVALUATED["described"].check("described", described, None)
    samples = EVALUATED["samples"].check("samples", samples, None)
    pack, dataset = evaluation.pack, evaluation.dataset
    if segments and not pack.words:
        raise ArgumentError(f"segments are found by words, and pack {pack.name!r} reads none; leave it out")
    settings = evaluation.recipe(asked).to_store() if pack.can_sample else {}
    test = evaluation.split("test")
    if pack.classes and pack.can_sample and test.classes and len(test.classes) != len(pack.classes):
        raise DataError(
            f"{dataset} has {len(test.classes)} classes and pack {pack.name!r} {len(pack.classes)}; "
            f"what it draws can be judged only on the data set it was trained on"
        )
    if pack.words and not test.captions:
        raise DataError(f"{dataset} has no captions to draw by, and pack {pack.name!r} is asked by text")
    run = _Run(evaluation, settings, test)
    numbers, rebuilt = run.reconstructed()
    if pack.words or (test.captions and not test.classes):
        numbers |= run.of_captions(rebuilt, samples, described, segments and Path(segments))
    elif test.classes and not bool((test.labels < 0).any()):
        numbers |= run.of_classes(rebuilt, samples)
    if "frechet_generated_test" in numbers:
        numbers["frechet_ratio"] = numbers["frechet_generated_test"] / numbers["frechet_train_test"]
    return {"dataset": dataset, **numbers, "minutes": evaluation.minutes}


@dataclass(frozen=True)
class _Run:
    """The three parts of `evaluate`, and what they share."""

    evaluation: Evaluation
    settings: Mapping[str, Any]  # of every drawing
    test: LabelledImages

    def reconstructed(self) -> tuple[dict, Tensor]:
        """What the codec makes of the test pictures: its numbers, and the pictures (N, C, H, W)."""
        evaluation, pack, pixels = self.evaluation, self.evaluation.pack, self.test.pixels
        evaluation.report("reconstructing the test split")
        ids, vae = tokens_of(evaluation.pipeline, pixels), evaluation.pipeline.vae
        rebuilt = torch.cat([to_bytes(codec.decode_ids(vae, part)).cpu() for part in ids.split(BATCH)])
        counts = ids.flatten().bincount(minlength=pack.codes)
        uses = torch.tensor(packs.read_codebook(pack)["counts"])
        rows = [evaluation.unpadded(some) for some in (pixels, rebuilt)]
        numbers = {
            "test_images": len(pixels),
            **likeness(rows[1], rows[0]),
            "detail": detail(rows[1], rows[0]),
            "bits_per_pixel": token_bits(ids, uses) * ids[0].numel() / pixels[0, 0].numel(),
            "codes": pack.codes,
            "codes_used": int((counts > 0).sum()),
            "perplexity": codec.perplexity(counts),
        }
        if pack.channels == 3:
            evaluation.report("compressing it by JPEG")
            by_scan, by_file = jpeg.at_bits(pixels, numbers["bits_per_pixel"])
            numbers |= _jpeg("jpeg", by_scan, pixels) | _jpeg("jpeg_file", by_file, pixels)
            rows.append(by_scan.pixels)
        evaluation.show("comparison.png", sheet([spread(some, columns_of(some, len(rows))) for some in rows]))
        return numbers, rebuilt

    def of_captions(self, rebuilt: Tensor, samples: int, described: int, segments: Path | None) -> dict:
        """Whether what captions name is in the pictures, and what the pack itself says of pictures."""
        evaluation, pack = self.evaluation, self.evaluation.pack
        train, test = evaluation.split("train"), self.test
        reader = evaluation.reader(train)
        numbers = _read(reader, train, test, rebuilt) if reader else {}
        if not pack.words:
            return numbers
        lexicon = packs.read_words(pack).lexicon
        judge = CaptionJudge(reader, lexicon)
        numbers |= self.settings | judge.test(self.drawn, train, test, rebuilt, samples, evaluation.show)
        if described and lexicon.phrases:
            some = data.permuted(len(test), 0, min(described, len(test)), seed=1).tolist()
            records = [test.records[i] for i in some]
            right = describing.accuracy(evaluation.pipeline, pack, test.pixels[some], records, evaluation.report)
            numbers |= {"described_right": right, "described_right_of": len(some)}
        if segments:
            images = evaluation.split(segments.name, segments.parent)
            numbers["segments"] = overlaps(evaluation.pipeline, lexicon, images, segments, evaluation.report)
        try:
            novel = evaluation.split("novel")
        except DataError as error:
            evaluation.report(f"combinations that were not trained are not drawn: {error}")
        else:
            asked = judge.asked(novel, min(samples, len(novel)))
            numbers |= judge.named("novel", asked, self.drawn([one.caption for one in asked]))
        return numbers

    def of_classes(self, rebuilt: Tensor, samples: int) -> dict:
        """What a classifier reads of the pictures, and of drawn ones."""
        train, test = self.evaluation.split("train"), self.test
        judge = self.evaluation.classifier(train)
        some = data.permuted(len(train), 0, min(len(test), len(train)), seed=0)
        numbers = {
            "accuracy_test": accuracy(judge, test.pixels, test.labels),
            "accuracy_reconstructed": accuracy(judge, rebuilt, test.labels),
            "frechet_train_test": frechet_distance(judge, train.pixels[some], test.pixels),
            "frechet_reconstructed_test": frechet_distance(judge, rebuilt, test.pixels),
        }
        if self.evaluation.pack.can_sample:
            classes = len(test.classes)
            labels = torch.arange(samples) % classes
            drawn = self.drawn(labels)
            columns = min(columns_of(drawn, classes), max(1, samples // classes))
            rows = [drawn[label::classes][:columns] for label in range(min(classes, samples))]
            self.evaluation.show("samples.png", sheet(rows))
            numbers |= self.settings | {"generated": samples, **judged_by_class(judge, test, labels, drawn)}
        return numbers | {"features": judge.num_features}

    def drawn(self, labels: Sequence[Label] | Tensor) -> Tensor:
        """One picture a label, uint8 (N, C, H, W)."""
        return self.evaluation.drawn(labels, **self.settings)


def _read(reader: Reader, train: LabelledImages, test: LabelledImages, rebuilt: Tensor) -> dict:
    """What the reader makes of test pictures, and of their reconstructions."""
    some = data.permuted(len(train), 0, min(len(test), len(train)), seed=0)
    places, others = places_of(reader, test), places_of(reader, train)
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


def _jpeg(name: str, compressed: jpeg.Compressed, originals: Tensor) -> dict:
    alike = likeness(compressed.pixels, originals)
    return {
        f"{name}_quality": compressed.quality,
        f"{name}_subsampling": compressed.subsampling,
        f"{name}_bits_per_pixel": compressed.bits_per_pixel,
        f"{name}_psnr": alike["psnr"],
        f"{name}_ssim": alike["ssim"],
    }
