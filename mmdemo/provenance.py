"""Where a pack came from: the Hub, the app or a training here; and what tells its weights from others.

It knows no more of a pack than its folder, and torch is imported only to look into weights.
"""

import hashlib
import json
import re
from collections.abc import Iterable
from pathlib import Path

from mmdemo import checks
from mmdemo.checks import read_json
from mmdemo.errors import ArgumentError, PackError
from mmdemo.kinds import whole

SOURCE = "source.json"  # where a pack came from that was pulled from the Hub
SHIPPED = "shipped.json"  # in a folder of packs: those that came with the app, and a digest of each one's training.json
TRAINING = "training.json"  # how a pack was trained, if it was by us


def source(path: Path) -> dict:
    """Where on the Hub a pack came from: {"repo", "commit", …}; {} = it did not.

    Raises PackError if what says so cannot be read.
    """
    if path.parent.name == "snapshots" and path.parent.parent.name.startswith("models--"):  # it lies in the Hub's cache
        owner_and_name = path.parent.parent.name.split("--")[1:]
        return {"repo": "/".join(owner_and_name), "commit": path.name}
    if not (path / SOURCE).is_file():
        return {}
    stored = read_json(path / SOURCE)
    if not all(re.fullmatch(r"[\w./-]{1,200}", str(stored.get(name))) for name in ("repo", "commit")):
        raise PackError(f"{SOURCE} does not say from which repository and commit it is")
    return stored


def ship(folder: Path, names: Iterable[str]) -> None:
    """Write down that these packs of a folder come with the app."""
    digests = {name: _digest(folder / name / TRAINING) for name in sorted(names)}
    (folder / SHIPPED).write_text(json.dumps(digests, indent=1) + "\n", encoding="utf-8")


def is_shipped(path: Path) -> bool:
    """Whether a pack came with the app, and has not been trained anew since."""
    listed, training = path.parent / SHIPPED, path / TRAINING
    if not listed.is_file() or not training.is_file():
        return False
    return read_json(listed).get(path.name) == _digest(training)


def _digest(file: Path) -> str:
    return hashlib.sha256(file.read_bytes().replace(b"\r\n", b"\n")).hexdigest()  # git may end lines otherwise


def read_training(pack: Path) -> dict:
    """How a pack was trained: {"vqvae": {…}, "dit": {…}, "decoder": {…}}, each its configuration and its minutes.

    One that went on from the pack's own weights has "earlier" too: the records of what made those, first one first.
    Raises PackError if it does not say on which pictures: a data set's name, and their side or None for its own.
    """
    training = read_json(pack / TRAINING)
    codec = training.get("vqvae")
    if not isinstance(codec, dict) or not isinstance(codec.get("dataset"), str):
        raise PackError(f"pack {pack.name!r} does not say what its codec was trained on: training.json has no dataset")
    if codec.setdefault("image_size", None) is not None:
        try:
            whole("image_size", codec["image_size"], 1, 4096)
        except ArgumentError as error:
            raise PackError(f"pack {pack.name!r} has a training.json that cannot be used: {error}") from None
    return training


def in_order(record: dict | None) -> list[dict]:
    """The trainings that one record of read_training tells of, first one first.  None = there was none."""
    if record is None:
        return []
    return [*record.get("earlier", ()), {name: value for name, value in record.items() if name != "earlier"}]


def digest(pack: Path) -> str:
    """Of all that a pack does depends on: every file but its card's."""
    made = (file for file in pack.rglob("*") if file.suffix in (".json", ".safetensors"))
    return _of_all(sorted(file for file in made if file.name != "metrics.json"))


def weights_digest(model: Path) -> str:
    """Of all the weights in a model's folder."""
    return _of_all(checks.weights(model))


def _of_all(files: Iterable[Path]) -> str:
    made = hashlib.sha256()
    for file in files:
        made.update(file.read_bytes())
    return made.hexdigest()


def fingerprint(pack: Path) -> str:
    """A digest of what makes a pack's latents and tokens, to tell whether some are its own: all but the decoder."""
    import torch
    from safetensors import safe_open

    digest = hashlib.sha256()
    for file in checks.weights(pack / "vae"):
        with safe_open(file, "pt") as tensors:
            for name in sorted(tensors.keys()):
                if not name.startswith(("decoder.", "post_quant_conv.")):
                    digest.update(name.encode())
                    digest.update(tensors.get_tensor(name).contiguous().view(torch.uint8).numpy())
    return digest.hexdigest()
