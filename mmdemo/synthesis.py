"""A folder of labelled pictures to train on, of any number: drawn part by part through a studio, written as it goes.

Each file is put in its place whole, so a process that is killed leaves no half of one, and what is there says where to
go on: at the first picture that is missing. imagefolder.py says how the folder looks.
"""

import hashlib
import json
import os
import secrets
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from mmdemo import images, provenance
from mmdemo.arguments import FOLDER, LABELS, MAX_PICTURES, MAX_SEED, SET, SETTINGS, Recipe
from mmdemo.errors import ArgumentError, DataError
from mmdemo.imagefolder import metadata, place, table
from mmdemo.kinds import ALL, shown
from mmdemo.packs import Pack
from mmdemo.sampling import BUDGET, TOGETHER
from mmdemo.studio import Studio

BEGUN = "synthesis.json"  # in the folder: with what settings it was begun


@dataclass(frozen=True)
class Written:
    """What is there after some more of it; as a training's records are shown."""

    step: int  # pictures in the folder, without variants
    steps: int  # that there will be
    images_per_second: float
    metrics: dict[str, float] = field(default_factory=dict)


def write(
    studio: Studio,
    out: Path,
    pack: str,
    count: int,
    label: str | Sequence[str] = ALL,
    augment: bool = False,
    **settings: Any,  # of a drawing, as Studio.synthesize takes them; without a seed, a new one or the folder's own
) -> Iterator[Written]:
    """Begins the folder, or goes on where it was. Yields once before any work, and after every part.

    Raises what Studio.synthesize raises, and ArgumentError where the folder was begun with other settings, or holds
    something else.
    """
    count, begun = FOLDER.check("count", count, None), _begun(out)
    if settings.get("seed") is None:
        settings["seed"] = begun["seed"] if begun else secrets.randbelow(MAX_SEED - MAX_PICTURES)
    studio.synthesize(pack, 1, label, augment, **settings)  # checks them, and draws nothing yet
    found = studio.pack(pack)
    labels = LABELS.check("label", label, found)
    given = {name: SETTINGS[name].check(name, value, found) for name, value in settings.items() if value is not None}
    recipe, classes = Recipe.of(found, given), () if found.words else found.classes
    if recipe.seed + count - 1 > MAX_SEED:
        last = f"the last picture's, seed + count - 1, is at most {MAX_SEED}"
        raise ArgumentError(f"seed is {recipe.seed} and count {count}; {last}")
    identity = _identity(found, labels, augment, recipe)
    _same(out, begun or identity, identity)

    def label_of(i: int) -> str:
        return labels[i % len(labels)]

    def is_there(i: int) -> bool:
        some = [out / place(classes, label_of(i), recipe.seed + i, variant) for variant in {False, augment}]
        return all(file.is_file() and file.stat().st_size for file in some)  # a power cut may leave a mere name

    if is_there(count) or count < _rows(out / metadata(classes)) // (1 + augment):
        more = f"give a larger one, or another folder than {str(out)!r}"
        raise ArgumentError(f"count is {count}, and there are more pictures already; {more}")
    done = next((i for i in range(count) if not is_there(i)), count)
    yield Written(done, count, 0.0)

    out.mkdir(parents=True, exist_ok=True)
    partial = out / f".partial-{os.getpid()}"
    for left in out.glob(".partial-*"):  # by one that was killed
        left.unlink(missing_ok=True)

    def put(name: str, content: bytes) -> None:
        partial.write_bytes(content)
        (out / name).parent.mkdir(parents=True, exist_ok=True)
        os.replace(partial, out / name)

    def put_table(rows: int) -> None:
        listed = [label_of(i) for i in range(rows)]
        put(metadata(classes), table(classes, listed, pack, recipe, augment).encode())

    put(BEGUN, (json.dumps(identity, indent=1) + "\n").encode())
    studio.load(pack)  # takes seconds that are not the drawing's
    most = min(TOGETHER, SET.high(found), BUDGET // recipe.steps)
    listed, first, started = 0, done, time.perf_counter()
    try:
        while done < count:
            size = min(most, count - done)
            some = [label_of(i) for i in range(done, done + size)]
            now = studio.pack(pack)  # it may have been trained anew meanwhile
            _same(out, identity, _identity(now, labels, augment, Recipe.of(now, given)))
            made = studio.synthesize(pack, size, some, augment, **settings | {"seed": recipe.seed + done}).result()
            for name, image in made.files():
                put(name, images.png(image))
            done += size
            if done - listed > listed / 10:  # all of it is written anew, which must not be most of the work
                put_table(done)
                listed = done
            yield Written(done, count, (done - first) / (time.perf_counter() - started))
    finally:
        put_table(done)
        partial.unlink(missing_ok=True)


def _identity(pack: Pack, labels: tuple[str, ...], augment: bool, recipe: Recipe) -> dict[str, Any]:
    """All that the pictures depend on."""
    training = pack.path / provenance.TRAINING  # a pack of others has none
    trained = training.read_bytes() if training.is_file() else b""
    made = {"pack": pack.name, "trained": hashlib.sha256(trained).hexdigest()[:16]}
    made |= {"label": labels, "augment": augment} | asdict(recipe)
    return json.loads(json.dumps(made))  # as it is read back


def _begun(out: Path) -> dict[str, Any] | None:
    """With what the folder was begun; None = it was not.  Raises ArgumentError if something else is there."""
    if out.exists() and not out.is_dir():
        raise ArgumentError(f"--out is {str(out)!r}, which is a file; it must be a folder")
    try:
        begun = json.loads((out / BEGUN).read_text(encoding="utf-8"))
    except FileNotFoundError:
        if any(out.glob("*")):
            raise ArgumentError(f"--out is {str(out)!r}, which holds something else; give a new folder") from None
        return None
    except (ValueError, RecursionError):  # lists within lists without end
        begun = None
    if not isinstance(begun, dict) or not isinstance(begun.get("seed"), int):
        raise DataError(f"{out / BEGUN} cannot be read, so it is not known how to go on; give another folder")
    return begun


def _rows(file: Path) -> int:
    return file.read_bytes().count(b"\n") if file.is_file() else 0


def _same(out: Path, begun: dict[str, Any], asked: dict[str, Any]) -> None:
    for name, value in asked.items():
        if begun.get(name) != value:
            what = f"with {name} {shown(begun.get(name))}, not {shown(value)}"
            what = "by this pack before it was trained anew" if name == "trained" else what
            raise ArgumentError(f"{str(out)!r} was begun {what}; give the same settings, or another folder")
