"""What a data set of drawn pictures looks like on disk, as `train --dataset DIR` and the `datasets` library read it.

    train/CLASS/LABEL-SEED.png, and a metadata.jsonl with a row for each
    train/LABEL-SEED.png, and train/metadata.jsonl with the captions, where the pack reads

Knows names and rows; it writes nothing.
"""

import json
from collections.abc import Sequence
from functools import lru_cache

from mmdemo.arguments import Recipe
from mmdemo.datasets import METADATA


def file_stem(label: str, seed: int) -> str:
    """What a drawn picture's file is called; a label may be any text."""
    return f"{_safe(label) or 'anything'}-{seed}"


def place(classes: Sequence[str], label: str, seed: int, variant: bool = False) -> str:
    """Where in the folder a picture is.  classes: of the pack; () = it reads, here and below."""
    name = f"{file_stem(label, seed)}{'-augmented' if variant else ''}.png"
    return f"train/{_folders(tuple(classes))[label]}/{name}" if classes else f"train/{name}"


def metadata(classes: Sequence[str]) -> str:
    """Where the table is. Beside pictures of classes it would make a data set with captions of them."""
    return METADATA if classes else f"train/{METADATA}"


def table(classes: Sequence[str], labels: Sequence[str], pack: str, recipe: Recipe, augment: bool) -> str:
    """A row for every picture, with all it takes to draw it again: picture i has label i and the recipe's seed + i.

    Its settings are together, because a column of texts would be taken for an attribute of the pictures.
    """
    root, lines = metadata(classes).removesuffix(METADATA), []
    drawn = {"pack": pack} | {name: value for name, value in recipe.json().items() if name != "seed"}
    for i, label in enumerate(labels):
        for variant in (False, True) if augment else (False,):
            row = {
                "file_name": place(classes, label, recipe.seed + i, variant).removeprefix(root),
                "label" if classes else "text": label,
                "seed": recipe.seed + i,
                "settings": drawn | {"augmented": variant},
            }
            lines.append(json.dumps(row, ensure_ascii=False) + "\n")
    return "".join(lines)


@lru_cache(maxsize=32)
def _folders(classes: tuple[str, ...]) -> dict[str, str]:
    """The folder of each class: its name, or where one has none or shares it, all of them numbered."""
    names = [_safe(label).strip(". ") for label in classes]  # neither hidden nor the folder above
    if not all(names) or len({name.casefold() for name in names}) < len(names):  # some systems know one case
        names = [f"{i}-{name}" for i, name in enumerate(names)]
    return dict(zip(classes, names, strict=True))


def _safe(label: str) -> str:
    """A label as a part of a path, the same on every system; "" where nothing of it is left."""
    return "".join("_" if one in '/\\:*?"<>|' else one for one in label)[:40].strip()
