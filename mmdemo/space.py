"""A Space of packs: a folder that Hugging Face runs as it stands. It knows what a Space asks for; the app is copied.

Its packs on the Hub are named in weights/hub.txt, which the app fetches when it starts; packs of a folder go with it.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import tempfile
from collections.abc import Sequence
from fnmatch import fnmatch
from pathlib import Path

from mmdemo import hub, loading, packs, provenance
from mmdemo.errors import PackError

ROOT = Path(__file__).parent.parent
APP = ("app.py", "requirements.txt", "mmdemo")  # what a Space needs of this repository
MADE = "space.json"  # in the folder, not uploaded: the digest of every file that was written there
CACHES = "*__pycache__*"  # which Python leaves where the Space is tried
# What Spaces allow with ZeroGPU. Where there is none, they do no harm: they are within what the app needs.
PYTHON = "3.12.12"
PINS = {"torch": "torch>=2.9,<2.12", "torchvision": "torchvision>=0.24,<0.27"}


def write(repo: str, wanted: Sequence[str], weights: str | Path, out: str | Path) -> Path:
    """A folder that is the Space `owner/name`, with packs of `weights` and of the Hub (`owner/name[@revision]`).

    What an earlier call wrote there is replaced, if nobody has changed it since or added to it.
    Raises PackError: a pack that cannot be used, a folder that holds something else, or this is no whole checkout.
    """
    out, (name, revision) = Path(out), hub.parts(repo)
    if revision:
        raise PackError(f"{repo} names a revision; a Space is owner/name")
    missing = [one for one in (*APP, "README.md") if not (ROOT / one).exists()]
    if missing:
        raise PackError(f"a Space is made of the app's own folder, and {ROOT} has no {missing[0]}; use a checkout")
    if any(out.resolve().is_relative_to(ROOT / one) for one in (*APP, "weights")):
        raise PackError(f"--out is {str(out)!r}, a part of the app, which is copied there; name a folder outside of it")
    _may_be_replaced(out)
    far, near = [one for one in wanted if "/" in one], [packs.place(weights, one) for one in wanted if "/" not in one]
    for one in far:
        hub.parts(one)
    for pack in near:
        loading.load(packs.read(pack), "cpu")  # which refuses what cannot be used
    out.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=out.parent, prefix=f".{out.name}.", suffix=".new") as beside:
        new, old = Path(beside, "new"), Path(beside, "old")
        _fill(new, name, far, near)
        _may_be_replaced(out)  # still
        if out.exists():
            os.replace(out, old)
        os.replace(new, out)
    return out


def _fill(out: Path, name: str, far: Sequence[str], near: Sequence[Path]) -> None:
    """A new folder with all that the Space is made of."""
    out.mkdir()
    for one in APP:
        source = ROOT / one
        if source.is_dir():
            shutil.copytree(source, out / one, ignore=shutil.ignore_patterns("__pycache__"))
        else:
            shutil.copyfile(source, out / one)
    for pack in near:
        hub.copy(pack, out / "weights" / pack.name)
    (out / "weights").mkdir(exist_ok=True)
    provenance.ship(out / "weights", [pack.name for pack in near if (pack / provenance.TRAINING).is_file()])
    (out / "weights" / packs.HUB).write_text("".join(f"{one}\n" for one in far), encoding="utf-8")
    (out / "requirements.txt").write_text(_pinned((ROOT / "requirements.txt").read_text("utf-8")), encoding="utf-8")
    (out / "README.md").write_text(_readme(name, far, near), encoding="utf-8")
    (out / MADE).write_text(json.dumps(_digests(out), indent=1) + "\n", encoding="utf-8")


def _may_be_replaced(out: Path) -> None:
    """Raises PackError unless there is nothing at `out` but what `write` put there."""
    if not out.exists() or out.is_dir() and not any(out.iterdir()):
        return
    try:
        made = json.loads((out / MADE).read_text(encoding="utf-8"))
    except (FileNotFoundError, NotADirectoryError, ValueError):
        made = None
    if not isinstance(made, dict):
        raise PackError(f"--out is {str(out)!r}, which is not empty; name a new folder")
    there = _digests(out)
    changed = [one for one in sorted({*there, *made}) if there.get(one) != made.get(one)]
    if changed:
        what = f"in which {changed[0]} was changed, added or removed since it was written"
        raise PackError(f"--out is {str(out)!r}, {what}; name a new folder")


def _digests(folder: Path) -> dict[str, str]:
    """Of every file, by its path in a Space's folder."""
    files = {one.relative_to(folder).as_posix(): one for one in folder.rglob("*") if one.is_file()}
    ours = (name for name in sorted(files) if name != MADE and not fnmatch(name, CACHES))
    return {name: hashlib.sha256(files[name].read_bytes()).hexdigest() for name in ours}


def push(folder: Path, repo: str, private: bool = False) -> str:
    """Upload a Space that `write` made, as one that is made if it is not there. Returns its address."""
    from huggingface_hub import HfApi

    with hub.in_one_sentence(repo, sends=True):
        api = HfApi()
        made = api.create_repo(repo, repo_type="space", space_sdk="gradio", private=private, exist_ok=True)
        if private and not api.space_info(repo).private:
            raise PackError(f"{repo} is there already and is public; choose another name, or push without --private")
        api.upload_folder(
            repo_id=repo,
            repo_type="space",
            folder_path=folder,
            commit_message="mmdemo, and its packs",
            ignore_patterns=[MADE, CACHES],
            delete_patterns=["mmdemo/*", "weights/*"],  # of an earlier push
        )
    return str(made)


def _pinned(requirements: str) -> str:
    """What the app needs, without its tests, at versions that a Space allows."""
    lines = requirements.split("# For the tests alone")[0].splitlines()
    names = [line.split(">=")[0].strip() for line in lines]
    return "\n".join(PINS.get(name, line) for name, line in zip(names, lines, strict=True)) + "\n"


def _readme(name: str, far: Sequence[str], near: Sequence[Path]) -> str:
    """The front matter of this repository, which is a Space itself, with what differs; and a word to whoever reads."""
    from huggingface_hub import SpaceCard

    data = SpaceCard.load(ROOT / "README.md").data
    data.title, data.python_version = name.split("/")[1], PYTHON
    data.models = [one.split("@")[0] for one in far] or None
    shown = ", ".join([*(pack.name for pack in near), *far])  # the Hub links what `models` names
    return f"""---
{data.to_yaml()}
---
# {name.split("/")[1]}

Look inside a VQ-VAE and a diffusion transformer. The packs here: {shown}. Made by `python -m mmdemo space`.
"""
