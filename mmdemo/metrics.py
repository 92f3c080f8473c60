"""What is measured of pictures: likeness to what they were made from, what a judge reads, how two sets differ.

Pictures are uint8 (N, C, H, W) throughout.
"""

import torch
from torch import Tensor, nn
from torchmetrics.image import PeakSignalNoiseRatio, StructuralSimilarityIndexMeasure
from torchmetrics.image.fid import FrechetInceptionDistance  # not exported where torch-fidelity is absent

from mmdemo.classifier import Judge
from mmdemo.images import from_bytes

BATCH = 250


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


class _Given(nn.Module):
    """What torchmetrics' Fréchet distance asks of a feature extractor, for what are features already."""

    def __init__(self, num_features: int):
        super().__init__()
        self.num_features = num_features

    def forward(self, x: Tensor) -> Tensor:
        return x
