"""The named data sets, one entry each: all that is known of a set without reading it. Imports nothing heavy."""

from dataclasses import dataclass

METADATA = "metadata.jsonl"  # beside the pictures: one row a picture, as the image folders of `datasets` have it


@dataclass(frozen=True)
class NamedSet:
    """licence: who made it and under what licence, as a card says it.  source: where data.py has it from, a class of
    torchvision.datasets; None = data.py draws it.  padding: black pixels added on every side.  size: its pictures' side
    with them.  classes: its labels' names; None = the source names them.  hub: its name on the Hugging Face Hub.
    """

    licence: str
    hub: str | None = None  # None = it is not there
    source: str | None = None
    padding: int = 0
    size: int = 32
    classes: tuple[str, ...] | None = None


NAMED = {
    "mnist": NamedSet(
        "MNIST (LeCun, Cortes and Burges), CC BY-SA 3.0",
        hub="ylecun/mnist",
        source="MNIST",
        padding=2,  # 28 is no multiple of common strides
        classes=tuple("0123456789"),
    ),
    "fashion-mnist": NamedSet(
        "Fashion-MNIST (Zalando Research), MIT", hub="zalando-datasets/fashion_mnist", source="FashionMNIST", padding=2
    ),
    "cifar10": NamedSet(
        "CIFAR-10 (Krizhevsky, 2009), no licence stated; for research", hub="uoft-cs/cifar10", source="CIFAR10"
    ),
    "shapes": NamedSet(
        "`shapes`, drawn by mmdemo itself, Apache-2.0", classes=("circle", "ring", "square", "triangle", "cross")
    ),
}


def padding(dataset: str, image_size: int | None) -> int:
    """Pixels on every side of a picture that are padding: none where pictures were resized, or a folder's."""
    return NAMED[dataset].padding if dataset in NAMED and image_size is None else 0
