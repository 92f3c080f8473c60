"""Where in a picture its words are: the evidence for a word, thresholded, held against true masks, for `evaluate`.

Beside it stand two thresholds on colour alone: how near a pixel is to the colour that the word names, and how near to
what pixels under the true masks of other pictures look like, which is more than the evidence is told.
"""

from collections import defaultdict
from collections.abc import Callable, Sequence
from pathlib import Path

import torch
import torch.nn.functional as F
from PIL import ImageColor
from torch import Tensor

from mmdemo import describing
from mmdemo.captions import Lexicon
from mmdemo.data import LabelledImages
from mmdemo.errors import DataError
from mmdemo.evidence import Evidence
from mmdemo.images import fit_square, image_bytes, open_image, to_images
from mmdemo.pipeline import ClassPipeline
from mmdemo.sampling import latents_of

THRESHOLDS = torch.linspace(0.005, 0.995, 199)
FURTHEST = 3**0.5 * 255  # that two colours can be from each other


def overlaps(
    pipeline: ClassPipeline,
    lexicon: Lexicon,
    images: LabelledImages,
    folder: Path,
    report: Callable[[str], None] = lambda line: None,
) -> dict[str, dict[str, float]]:
    """Of each attribute that has masks: {"of", "evidence", "named", "learned"}, the last three a mean IoU in [0, 1].

    images: those of `folder`, whose records name a file for the mask of an attribute, under "masks". A picture whose
    attribute has no word (no hat), or an empty mask, is left out.  of: pictures; every second one has a share in
    choosing the threshold, and the IoU is of the others.  "named" is there where some value is a colour's name.
    Raises DataError if no picture has a mask.
    """
    found = defaultdict(list)  # attribute -> (value, colours, scores, mask) of each picture
    for i, (picture, record) in enumerate(zip(to_images(images.pixels), images.records, strict=True)):
        evidence = Evidence(pipeline, latents_of(pipeline, picture), describing.NOISES)
        told = {(None, name): record[name] for name in lexicon.values if name in record}
        colours = images.pixels[i].float()
        masks = record.get("masks")
        for name, file in masks.items() if isinstance(masks, dict) else ():
            value = record.get(name)
            if not lexicon.phrases.get(name, {}).get(value):
                continue
            mask = image_bytes(fit_square(open_image(folder / str(file)), colours.shape[-1], 1))[0] > 127
            if not mask.any():
                continue
            gain = describing.gain(evidence, lexicon, told, (None, name))
            scores = F.interpolate(gain[None, None], colours.shape[1:], mode="bicubic")[0, 0]
            found[name].append((value, colours, scores / scores.max().clamp(min=1e-9), mask))
        report(f"segmenting: {i + 1}/{len(images)}")
    if not found:
        raise DataError(f"{str(folder)!r} has no masks of anything that there is a word for")
    return {name: {"of": len(pictures)} | _compared(pictures) for name, pictures in found.items()}


def _compared(pictures: Sequence[tuple[str, Tensor, Tensor, Tensor]]) -> dict[str, float]:
    values, colours, scores, masks = zip(*pictures, strict=True)
    seen = defaultdict(list)  # value -> the colours of its pixels, (C, n) of each picture that chooses
    for value, colour, mask in list(zip(values, colours, masks, strict=True))[::2]:
        seen[value].append(colour[:, mask])
    learned = {value: torch.cat(some, 1).median(1).values for value, some in seen.items()}
    told = {"evidence": overlap(scores, masks)}
    named = {value: _named(value) for value in values if len(colours[0]) == 3}
    for name, known in (("named", named), ("learned", learned)):
        some = [i for i, value in enumerate(values) if known.get(value) is not None]
        if len(some) > 1:
            near = [1 - (colours[i] - known[values[i]].view(-1, 1, 1)).norm(dim=0) / FURTHEST for i in some]
            told[name] = overlap(near, [masks[i] for i in some])
    return told


def _named(value: str) -> Tensor | None:
    """A colour by its name; None = it is none."""
    try:
        return torch.tensor(ImageColor.getrgb(value)[:3]).float()
    except ValueError:
        return None


def overlap(scores: Sequence[Tensor], masks: Sequence[Tensor]) -> float:
    """Mean IoU of scores over a threshold and masks, (h, w) each: the best one on the first, third, fifth …, of the
    others."""
    each = torch.stack([_ious(one, mask) for one, mask in zip(scores, masks, strict=True)])  # (N, thresholds)
    return float(each[1::2, each[::2].mean(0).argmax()].mean())


def _ious(scores: Tensor, mask: Tensor) -> Tensor:
    chosen = scores > THRESHOLDS.view(-1, 1, 1)
    return (chosen & mask).sum((1, 2)) / (chosen | mask).sum((1, 2)).clamp(min=1)
