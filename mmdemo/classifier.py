"""The small classifier that judges pictures for `evaluate`: trained once on a training split, and kept in a folder.

Marks and shapes take a plain one. Photographs take a fast recipe after Jordan (arXiv:2404.00498): a first layer that
whitens and is not trained, convolutions that start as the identity, large batches at a high rate, mirroring.
It knows pictures and their labels; no packs, codecs or transformers.
"""

import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from functools import partial
from itertools import pairwise
from pathlib import Path

import torch
import torch.nn.functional as F
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from mmdemo import data, files
from mmdemo.data import LabelledImages
from mmdemo.errors import PackError
from mmdemo.images import from_bytes
from mmdemo.training.loop import CHECKPOINT_SECONDS, learning_rate_factor, load_checkpoint, save_checkpoint

VERSION = 1  # to be raised when the same pictures would make another classifier: those kept are no longer read
MANY = 20_000  # pictures in colour from which on they are taken for photographs, and there are enough to learn from
SIDE = 32  # pixels to which larger photographs are made smaller before they are read
SHIFT = 2  # pixels by which training pictures are moved about
EPOCHS = {"marks": 6, "photographs": 12}
WIDTHS = (64, 256, 256)  # of the layers that read photographs


class Judge(nn.Module):
    """Scores what a picture may show.  x: (B, C, H, W) in [-1, 1] -> (B, scores); `features`: (B, num_features)."""

    num_features: int
    body: nn.Module  # x -> features
    head: nn.Module  # features -> scores

    def features(self, x: Tensor) -> Tensor:
        return self.body(x.contiguous(memory_format=torch.channels_last))

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.features(x))


class Classifier(Judge):
    """Reads a picture's class."""

    num_features = 128

    def __init__(self, channels: int, num_classes: int, width: int = 32):
        super().__init__()
        self.body = nn.Sequential(
            nn.Conv2d(channels, width, 5, stride=2, padding=2), nn.BatchNorm2d(width), nn.ReLU(),
            nn.Conv2d(width, 2 * width, 3, padding=1), nn.BatchNorm2d(2 * width), nn.ReLU(), nn.MaxPool2d(2),
            nn.Conv2d(2 * width, 4 * width, 3, padding=1), nn.BatchNorm2d(4 * width), nn.ReLU(), nn.MaxPool2d(2),
            nn.AdaptiveAvgPool2d(4), nn.Flatten(),
            nn.Linear(64 * width, self.num_features), nn.ReLU(),
        )  # fmt: skip
        self.head = nn.Sequential(nn.Dropout(0.3), nn.Linear(self.num_features, num_classes))


class PhotoClassifier(Judge):
    """The same for photographs. Once trained it reads a picture and its mirror image together."""

    def __init__(self, channels: int, num_classes: int, widths: tuple[int, ...] = WIDTHS):
        super().__init__()
        self.num_features = widths[-1]
        whitening = nn.Conv2d(channels, 2 * 4 * channels, 2)
        whitening.weight.requires_grad_(False)
        nn.init.zeros_(whitening.bias)
        layers = [whitening, nn.GELU()]
        for before, width in pairwise((len(whitening.weight), *widths)):
            layers += [
                _identity_conv(before, width), nn.MaxPool2d(2), _unscaled_norm(width), nn.GELU(),
                _identity_conv(width, width), _unscaled_norm(width), nn.GELU(),
            ]  # fmt: skip
        self.body = nn.Sequential(*layers, nn.AdaptiveMaxPool2d(1), nn.Flatten())
        self.head = nn.Linear(self.num_features, num_classes, bias=False)

    def whiten(self, x: Tensor) -> None:
        """Sets the first layer so that its outputs on these pictures are uncorrelated and of one size."""
        patches = _shrunk(x).unfold(2, 2, 1).unfold(3, 2, 1).movedim(1, 3).flatten(3).flatten(0, 2)  # (n, 4 C)
        sizes, directions = torch.linalg.eigh(patches.T @ patches / len(patches))
        filters = (directions / (sizes + 5e-4).sqrt()).T.view(-1, x.shape[1], 2, 2)
        self.body[0].weight.copy_(torch.cat([filters, -filters]))

    def features(self, x: Tensor) -> Tensor:
        return super().features(_shrunk(x))

    def forward(self, x: Tensor) -> Tensor:
        if self.training:
            return self.head(self.features(x)) / 9
        return (self.head(self.features(x)) + self.head(self.features(x.flip(-1)))) / 18


def _shrunk(x: Tensor) -> Tensor:
    return F.adaptive_avg_pool2d(x, SIDE) if x.shape[-1] > SIDE else x


def _identity_conv(before: int, width: int) -> nn.Conv2d:
    conv = nn.Conv2d(before, width, 3, padding=1, bias=False)
    nn.init.dirac_(conv.weight.data[:before])
    return conv


def _unscaled_norm(width: int) -> nn.BatchNorm2d:
    norm = nn.BatchNorm2d(width, momentum=0.4)
    norm.weight.requires_grad_(False)
    return norm


def train_classifier(
    images: LabelledImages,
    seed: int = 0,
    photographs: bool | None = None,  # None = as they look
    steps: int | None = None,  # None = some epochs
    checkpoint: Path | None = None,  # where a training that was stopped is kept, and goes on; None = nowhere
    widths: tuple[int, ...] = WIDTHS,  # of what reads photographs
) -> Iterator[tuple[int, int, Judge]]:
    """Yields (step, steps, classifier) after every step, on the device of the pictures.  They are shifted; photographs
    are mirrored too, which would make another digit or letter of one."""
    torch.manual_seed(seed)
    photographs = are_photographs(images) if photographs is None else photographs
    if photographs:
        return _train_on_photographs(images, seed, steps, checkpoint, widths)
    return _train_on_marks(images, seed, steps, checkpoint)


def accuracy_of_tokens(train: Tensor, labels: Tensor, test: Tensor, truths: Tensor) -> float:
    """Share of test pictures of which a logistic regression reads the class off nothing but which token is where.

    train, test: ids (N, h, w); labels, truths: (N,).  It has a weight for every class, place and code.
    """
    import numpy as np
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import OneHotEncoder

    codes = OneHotEncoder(
        handle_unknown="ignore", dtype=np.float32
    )  # some code is at some place in test pictures alone
    reader = make_pipeline(codes, LogisticRegression(C=0.1, max_iter=200))
    reader.fit(train.flatten(1).numpy(), labels.numpy())
    return float(reader.score(test.flatten(1).numpy(), truths.numpy()))


def _train_on_marks(
    images: LabelledImages,
    seed: int,
    steps: int | None,
    checkpoint: Path | None,
    batch_size: int = 128,
    rate: float = 2e-3,
):
    classifier = _make(images, photographs=False, widths=WIDTHS)
    optimizer = torch.optim.AdamW(classifier.parameters(), lr=rate, weight_decay=0.01)
    steps = steps or max(1, EPOCHS["marks"] * len(images) // batch_size)
    for step in _still_to_do(steps, classifier, optimizer, checkpoint):
        for group in optimizer.param_groups:
            group["lr"] = rate * learning_rate_factor(step, steps, max(1, steps // 10))
        x, y = _batch(images, step, batch_size, seed, background=-1.0)
        descend(optimizer, F.cross_entropy(classifier.train()(x), y))
        yield step + 1, steps, classifier.eval()


def _train_on_photographs(
    images: LabelledImages, seed: int, steps: int | None, checkpoint: Path | None, widths: tuple[int, ...]
):
    classifier = _make(images, photographs=True, widths=widths)
    classifier.whiten(from_bytes(images.pixels[:5000]))
    trained = [parameter for parameter in classifier.parameters() if parameter.requires_grad]
    batch_size = min(1024, len(images) if steps else max(1, len(images) // 16))
    scale = batch_size / 1024  # of rate and decay
    # By a parameter's dimensions: biases learn fastest.
    peaks, decay = {1: 96.0 * scale, 2: 1.5 * scale, 4: 1.5 * scale}, 0.002 * scale
    groups = [{"params": [p], "lr": peaks[p.ndim], "weight_decay": decay / peaks[p.ndim]} for p in trained]
    optimizer = torch.optim.SGD(groups, momentum=0.85, nesterov=True)
    steps = steps or max(1, EPOCHS["photographs"] * len(images) // batch_size)
    first_mirrored = torch.rand(len(images)) < 0.5  # then every other time
    for step in _still_to_do(steps, classifier, optimizer, checkpoint):
        for group, parameter in zip(optimizer.param_groups, trained, strict=True):
            group["lr"] = peaks[parameter.ndim] * _triangle(step / steps)
        x, y = _batch(images, step, batch_size, seed, background=None)
        places = data.permuted(len(images), step * batch_size, (step + 1) * batch_size, seed)
        mirrored = (first_mirrored[places] ^ (step * batch_size // len(images) % 2 == 1)).to(x.device)
        x = torch.where(mirrored[:, None, None, None], x.flip(-1), x)
        descend(optimizer, F.cross_entropy(classifier.train()(x), y, label_smoothing=0.2))
        yield step + 1, steps, classifier.eval()


def _still_to_do(
    steps: int, classifier: Judge, optimizer: torch.optim.Optimizer, checkpoint: Path | None
) -> Iterator[int]:
    """All steps, or those that a training which was stopped has left; what it had learnt is learnt."""
    done, saved = 0, time.monotonic()
    if checkpoint:
        with suppress(PackError):  # there is none, or it is damaged
            state = load_checkpoint(checkpoint, {})
            classifier.load_state_dict(state["model"])
            optimizer.load_state_dict(state["optimizer"])
            torch.set_rng_state(state["rng"])
            done = state["step"]
    for step in range(done, steps):
        yield step
        if checkpoint and step + 1 < steps and time.monotonic() - saved > CHECKPOINT_SECONDS:
            learnt = {"model": classifier.state_dict(), "optimizer": optimizer.state_dict()}
            save_checkpoint(checkpoint, learnt | {"config": {}, "rng": torch.get_rng_state(), "step": step + 1})
            saved = time.monotonic()


def _batch(images: LabelledImages, step: int, size: int, seed: int, background: float | None) -> tuple[Tensor, Tensor]:
    """The step's pictures, all shifted alike, and their labels.  background: what comes in from beyond the edge; None =
    the picture mirrored."""
    places = data.permuted(len(images), step * size, (step + 1) * size, seed)
    x, (height, width) = from_bytes(images.pixels[places]), images.pixels.shape[-2:]
    down, right = torch.randint(-SHIFT, SHIFT + 1, (2,)).add(SHIFT).tolist()
    edge = {"mode": "reflect"} if background is None else {"value": background}
    x = F.pad(x, (SHIFT,) * 4, **edge)[..., down : down + height, right : right + width]
    return x, images.labels[places]


def descend(optimizer: torch.optim.Optimizer, loss: Tensor) -> None:
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()


def _triangle(done: float, start: float = 0.2, peak_at: float = 0.23, end: float = 0.07) -> float:
    if done < peak_at:
        return start + (1 - start) * done / peak_at
    return end + (1 - end) * (1 - done) / (1 - peak_at)


def _make(images: LabelledImages, photographs: bool, widths: tuple[int, ...]) -> Judge:
    sizes = images.pixels.shape[1], len(images.classes)
    made = PhotoClassifier(*sizes, widths) if photographs else Classifier(*sizes)
    return made.to(device=images.pixels.device, memory_format=torch.channels_last)


def are_photographs(images: LabelledImages) -> bool:
    """Whether they look like photographs, and enough of them: in colour, not tiny, and many."""
    return images.pixels.shape[1] == 3 and images.pixels.shape[-1] >= 16 and len(images) >= MANY


def load_classifier(
    images: LabelledImages,  # the training split; pictures without a label are left out
    folder: Path,
    report: Callable[[str], None],
    seed: int = 0,
) -> Judge:
    """The classifier of these pictures: read from `folder`, or trained and put there."""
    images = images.labelled()
    key = repr((VERSION, seed, are_photographs(images), tuple(images.pixels.shape))) + repr(images.classes)
    file = folder / f"{files.digest(key, images.labels, images.pixels)}.safetensors"
    return kept(
        file,
        lambda: _make(images, are_photographs(images), WIDTHS),
        partial(train_classifier, images, seed),
        "classifier",
        report,
    )


def kept(
    file: Path,
    make: Callable[[], nn.Module],  # a blank one
    train: Callable[..., Iterator[tuple[int, int, nn.Module]]],  # (checkpoint) -> (step, steps, model), step by step
    what: str,
    report: Callable[[str], None],
) -> nn.Module:
    """A model that judges pictures: read from its file, or trained and put there, if need be in several sittings."""
    if file.is_file():
        model = make()
        model.load_state_dict(load_file(file))
        return model.eval()
    checkpoint = file.with_suffix(".checkpoint")
    for step, steps, trained in train(checkpoint=checkpoint):
        model = trained
        if step % max(1, steps // 10) == 0:
            report(f"training the {what}: {step}/{steps}")
    with files.replacing(file) as new:
        save_file({name: w.contiguous() for name, w in model.state_dict().items()}, new)
    checkpoint.unlink(missing_ok=True)
    return model
