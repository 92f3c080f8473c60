"""A folder of pictures: which are in it, what is said of them, and their pixels, decoded once and kept in a file.

It knows no data set by its name. The file is one of safetensors, which any tool reads and from which pixels are mapped.
"""

import json
import logging
import os
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from hashlib import sha256
from pathlib import Path
from typing import NamedTuple

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor
from tqdm import tqdm

from mmdemo import files
from mmdemo.datasets import METADATA, NAMED
from mmdemo.errors import DataError, ImageError
from mmdemo.images import fit_square, image_bytes, is_grey, open_here

MAX_CAPTION = 2000  # characters
SUFFIXES = {".png", ".jpg", ".jpeg", ".webp", ".bmp", ".gif", ".tif", ".tiff"}
VERSION = 1  # to be raised when the same pictures would give other pixels: what is kept is no longer read
PART = 256  # pictures decoded at a time


class Entry(NamedTuple):
    """A picture of a folder. There may be many, so it is small."""

    name: str  # relative to the folder
    label: int = -1
    source: str = ""  # the row that names it, if one does, for messages
    captions: tuple[str, ...] = ()
    record: dict | None = None


@dataclass(frozen=True)
class Listing:
    """A split of a folder, its pictures in the order that training knows them in."""

    root: Path
    split: str
    entries: list[Entry]
    total: int  # pictures of this and the splits it shares the folder with
    classes: tuple[str, ...]
    captioned: bool

    def state(self) -> str:
        """A digest that changes with any file. A copy may keep the size and time of its original, but is itself new."""
        made = sha256()
        for entry in self.entries:
            try:
                file = os.stat(os.path.join(self.root, entry.name))
            except OSError:  # it cannot be read either
                told = ""
            else:
                told = f"{file.st_size} {file.st_mtime_ns} {file.st_ctime_ns}"
            made.update(os.fsencode(f"{entry.name}\0{told}\0"))
        return made.hexdigest()


class Decoded(NamedTuple):
    pixels: Tensor  # (N, C, H, W) uint8, mapped from a file
    entries: list[Entry]  # those that could be read, N of them
    digest: str  # of the pixels


def listed(folder: Path, split: str) -> Listing:
    """What is in a split.  Raises DataError if there is nothing, or a row that cannot be used."""
    if not folder.is_dir():
        raise DataError(
            f"data set {str(folder)!r} is neither a folder nor one of {', '.join(NAMED)}; "
            f"if it is a folder elsewhere, give its place with --data-dir"
        )
    root = folder / "train" if (folder / "train").is_dir() else folder
    captioned = (root / METADATA).is_file()
    classes = () if captioned else tuple(child.name for child in _folders(root) if _pictures(child))
    for name in classes:
        if not _is_text(name):
            raise DataError(f"folder {str(root)!r} has a class whose name is no UTF-8, {name!r}; rename its folder")
    held_out = split in ("train", "test") and not (folder / "test").is_dir()
    if not held_out:
        root = _split(folder, split, classes)
    entries = _captioned(root) if captioned else _by_class(root, classes)
    total = len(entries)
    if held_out:
        entries = [entry for i, entry in enumerate(entries) if (i % 10 == 9) == (split == "test")]
    if not entries:
        raise DataError(
            f"folder {str(root)!r} holds no pictures in its {split} split; "
            f"put them in FOLDER/<class>/*.png, or beside a {METADATA}"
        )
    return Listing(root, split, entries, total, classes, captioned)


def channels(listing: Listing) -> int:
    """1 for a folder whose files all say that they are grey, else 3."""
    return 1 if all(is_grey(os.path.join(listing.root, entry.name)) for entry in listing.entries) else 3


def decoded(listing: Listing, size: int, channels: int, strict: bool, cache: Path) -> Decoded:
    """Its pictures' middle squares at that size.  cache: where they are kept, for as long as no file changes.

    Of a folder that changed, what was kept is replaced. Pictures that cannot be read are passed over, and a warning
    names them. Raises DataError if they are more than one in a hundred, or `strict` and any.
    """
    kept_as = repr((VERSION, str(listing.root.resolve()), listing.split, size, channels))
    file = cache / f"{sha256(kept_as.encode('utf-8', 'surrogateescape')).hexdigest()[:16]}.safetensors"
    state = listing.state()
    found = partial(_kept, file, state, strict, listing.total, (channels, size, size))
    kept = found()
    if kept is None:
        with files.one_at_a_time(file):  # another training may be at it
            kept = found()
            if kept is None:
                _decode(listing, size, channels, strict, file, state)
                kept = found()
    pixels, read, digest = kept
    unread = [entry for entry, one in zip(listing.entries, read, strict=True) if not one]
    if unread:
        logging.getLogger(__name__).warning("%s and are passed over: %s", *_told(listing, unread))
    return Decoded(pixels, [entry for entry, one in zip(listing.entries, read, strict=True) if one], digest)


def _kept(
    file: Path, state: str, strict: bool, total: int, shape: tuple[int, int, int]
) -> tuple[Tensor, list[bool], str] | None:
    """The pixels in a file, which of the pictures they are, and their digest; None if they are of another state.

    total: of which at most one in a hundred may be unread.
    """
    try:
        with safe_open(file, "pt") as opened:
            about, read = opened.metadata() or {}, opened.get_tensor("read")
            if about.get("state") != state or (strict and not read.all()):
                return None
            pixels, count = opened.get_tensor("pixels"), int(read.sum())
            if pixels.shape != (count, *shape) or len(read) - count > total // 100:  # the file was damaged
                return None
            return pixels, read.tolist(), about["pixels"]
    except (OSError, SafetensorError, KeyError):
        return None


def _decode(listing: Listing, size: int, channels: int, strict: bool, file: Path, state: str) -> None:
    entries, made = listing.entries, sha256()
    pixels = files.empty(file, (len(entries), channels, size, size), torch.uint8)
    read, unread, count = torch.zeros(len(entries), dtype=torch.bool), [], 0
    for place, picture in enumerate(_pixels(listing, size, channels)):
        if isinstance(picture, Tensor):
            pixels[count], read[place] = picture, True
            made.update(picture.numpy())
            count += 1
        elif strict:
            raise DataError(
                f"{str(listing.root)!r}: {_name(entries[place])}: {picture}; remove the file or mend it"
            ) from None
        else:
            unread.append((entries[place], picture))
    if len(unread) > listing.total // 100:
        told, names = _told(listing, [entry for entry, _ in unread])
        why = f"at most {listing.total // 100}, 1 %, may be passed over"
        raise DataError(f"{told}, and {why}: {names}; remove or mend them, the first because {unread[0][1]}")
    with files.replacing(file) as partial:
        about = {"state": state, "pixels": made.hexdigest()}
        save_file({"pixels": pixels[:count], "read": read}, partial, about)


def _pixels(listing: Listing, size: int, channels: int) -> Iterator[Tensor | ImageError]:
    """Every picture in turn, (C, H, W) uint8, or why it cannot be read; several are decoded at once."""

    def picture(entry: Entry) -> Tensor | ImageError:
        try:
            return image_bytes(fit_square(open_here(os.path.join(listing.root, entry.name)), size, channels))
        except ImageError as error:
            return error

    entries = listing.entries
    with ThreadPoolExecutor(torch.get_num_threads(), "decoder") as threads:  # Pillow lets go of the interpreter's lock
        with tqdm(total=len(entries), desc="decoding", unit="picture", disable=None) as bar:
            for start in range(0, len(entries), PART):
                yield from threads.map(picture, entries[start : start + PART])
                bar.update(min(PART, len(entries) - start))


def _told(listing: Listing, unread: list[Entry]) -> tuple[str, str]:
    """How many pictures cannot be read, and which."""
    names = ", ".join(map(_name, unread[:3])) + (f" and {len(unread) - 3} more" if len(unread) > 3 else "")
    return f"{len(unread)} of {listing.total} pictures in {str(listing.root)!r} cannot be read", names


def _name(entry: Entry) -> str:
    return f"{entry.name!r}{entry.source}"


def _split(folder: Path, split: str, classes: tuple[str, ...]) -> Path:
    """The folder of a split. Raises DataError if there is none."""
    root = folder / split
    if split in (child.name for child in _folders(folder)) and (split in ("train", "test") or split not in classes):
        return root
    if split == "train":
        raise DataError(f"folder {str(folder)!r} has a test/ but no train/; put the training pictures there")
    raise DataError(f"folder {str(folder)!r} has no split {split!r}: there is no folder {str(root)!r}")


def _by_class(root: Path, classes: tuple[str, ...]) -> list[Entry]:
    labels = {name: label for label, name in enumerate(classes)}
    listed = [Entry(name) for name in _pictures(root)]
    for folder in sorted({*classes, *(child.name for child in _folders(root))}):  # test/ may hold unknown classes
        label = labels.get(folder, -1)
        listed += [Entry(os.path.join(folder, name), label) for name in _pictures(root / folder)]
    return listed


def _captioned(root: Path) -> list[Entry]:
    """The pictures that metadata.jsonl names, in its order. Raises DataError for the first row that cannot be used."""
    file = root / METADATA
    try:
        lines = file.read_text(encoding="utf-8-sig").split("\n")
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"{file} cannot be read as text: {error}") from None
    listed, seen = [], {}
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        try:
            entry = _row(line, root, f" ({METADATA}, line {number})")
        except ValueError as error:
            raise DataError(f"{file}, line {number}: {error}") from None
        if entry.name in seen:
            raise DataError(
                f"{file}, line {number}: {Path(entry.name).name!r} has its row in line {seen[entry.name]} already; "
                f"give a picture one row, with all its captions"
            )
        seen[entry.name] = number
        listed.append(entry)
    if not listed:
        raise DataError(f'{file} has no row; give each picture one like {{"file_name": "0.png", "text": "a cat"}}')
    return listed


def _row(line: str, root: Path, source: str) -> Entry:
    """One row of metadata.jsonl. Raises ValueError with what is wrong with it."""
    try:
        row = json.loads(line)
    except (ValueError, RecursionError):
        row = None
    if not isinstance(row, dict):
        raise ValueError('this is no JSON object; a row is like {"file_name": "0.png", "text": "a cat"}')
    name, text = row.pop("file_name", None), row.pop("text", None)
    if not isinstance(name, str) or not name:
        raise ValueError("the row has no file_name; it says which picture the row is about")
    path = Path(name)
    if path.anchor or ".." in path.parts:
        raise ValueError(f"file_name {name!r} leads out of the folder; give it relative to {METADATA}")
    if not (root / path).is_file():
        raise ValueError(f"there is no picture {name!r}; add the file or remove the row")
    captions = [text] if isinstance(text, str) else text
    if not isinstance(captions, list) or not captions or not all(isinstance(one, str) for one in captions):
        raise ValueError(f"{name!r} has no caption; text is a caption or a list of captions")
    for caption in captions:
        if not _is_text(caption):
            raise ValueError(f"{name!r} has a caption with half a character (a lone surrogate); mend it")
        if not caption.strip():
            raise ValueError(f"{name!r} has an empty caption; write it or remove it")
        if len(caption) > MAX_CAPTION:
            raise ValueError(f"{name!r} has a caption of {len(caption)} characters; at most {MAX_CAPTION} are allowed")
    return Entry(str(path), source=source, captions=tuple(captions), record=row)


def _is_text(name: str) -> bool:
    """Whether it can be written: half a character, or a byte that is none, cannot."""
    try:
        name.encode()
    except UnicodeEncodeError:
        return False
    return True


def _folders(root: Path) -> list[Path]:
    """Those in a folder, but for links that lead back to it or above: its own pictures would be there once more."""
    here = root.resolve()
    return sorted(one for one in root.iterdir() if one.is_dir() and not here.is_relative_to(one.resolve()))


def _pictures(folder: Path) -> list[str]:
    """The names in a folder that should be pictures, and links that lead nowhere, for they should be too."""
    if not folder.is_dir():
        return []
    with os.scandir(folder) as found:
        return sorted(one.name for one in found if os.path.splitext(one.name)[1].lower() in SUFFIXES and _is_file(one))


def _is_file(found: os.DirEntry) -> bool:
    """A pipe is none: it would be waited for."""
    if found.is_symlink():
        return os.path.isfile(found.path) or not os.path.exists(found.path)
    return found.is_file()
