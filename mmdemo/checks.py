"""What a stranger's folder must be before anything of it is opened or allocated. It knows files and numbers; no models.

A repository can be anything: a FIFO that never ends, a link out of the folder, a header that claims gigabytes, a
configuration that asks for them. Each is found here by looking, before the libraries that would believe it.
"""

from __future__ import annotations

import json
import logging
import os
import re
import stat
import struct
from collections.abc import Collection, Iterable, Iterator, Mapping
from contextlib import contextmanager
from math import prod
from pathlib import Path
from typing import Any

from mmdemo.errors import ArgumentError, MmdemoError, PackError
from mmdemo.kinds import number, shown, whole

WEIGHTS = "diffusion_pytorch_model.safetensors"
INDEX = f"{WEIGHTS}.index.json"  # where weights are in several files
HALF = re.compile(r"\\u[dD][89a-fA-F]")  # of a pair of numbers that stands for a character, in JSON
PICKLES = (".bin", ".ckpt", ".pt", ".pth", ".pkl", ".msgpack", ".h5")

MAX_FILES = 10_000  # in a pack
MAX_JSON = 65_536  # bytes of a configuration
MAX_JSON_OF = {  # bytes of those that grow with labels, tensors or codes
    "model_index.json": 2_000_000,
    INDEX: 2_000_000,
    "codebook.json": 10_000_000,  # 65536 codes, the most that training makes, take 9
}
MAX_HEADER = 4_000_000  # bytes of a safetensors header: DiT-XL has 60 KB
MAX_SHARDS = 256
MAX_PARAMETERS = 1_500_000_000  # of a model: DiT-XL has 750 million with diffusers' embeddings, one in every block

# An option of a model or a schedule -> the least and the most it may be; of whole bounds, a whole number.
BOUNDS: dict[str, tuple[float, float]] = {
    "in_channels": (1, 4096),
    "out_channels": (1, 8192),
    "channels": (2, 4096),
    "block_out_channels": (1, 4096),
    "latent_channels": (1, 512),
    "vq_embed_dim": (1, 512),
    "hidden_size": (4, 8192),
    "attention_head_dim": (1, 1024),
    "num_codes": (2, 2**17),
    "num_vq_embeddings": (2, 2**17),
    "levels": (2, 2**16),
    "stride": (2, 256),
    "num_res_blocks": (0, 64),
    "layers_per_block": (1, 16),
    "norm_num_groups": (1, 1024),
    "depth": (1, 256),
    "num_layers": (1, 256),
    "num_heads": (1, 256),
    "num_attention_heads": (1, 256),
    "text_depth": (1, 64),
    "patch_size": (1, 64),
    "sample_size": (1, 1024),
    "image_size": (1, 1024),
    "num_classes": (0, 100_000),  # 0 = it reads texts
    "num_embeds_ada_norm": (1, 100_000),
    "vocab_size": (0, 2**17),
    "latent_std": (1e-6, 1e6),
    "scaling_factor": (1e-6, 1e6),
    "num_train_timesteps": (10, 10_000),
    "shift": (0.01, 100.0),
}
ELSE = (-(2.0**20), 2.0**20)  # any other number
MAX_BLOCKS = 8  # resolutions of an autoencoder
MAX_LIST = 10_000
BYTES = {"F64": 8, "F32": 4, "F16": 2, "BF16": 2}  # of a number, by the kinds that weights may be

Shape = tuple[int, ...]

log = logging.getLogger(__name__)


def folder(pack: Path) -> tuple:
    """Raises PackError unless every file is a regular one, and every link leads to one inside the pack.

    Returns what is another once a file has changed. The Hub's cache is made of links: of a snapshot they may lead to
    the blobs beside it. Hidden folders are not looked into, for nothing reads them.
    """
    root = pack.resolve()
    above = len(os.path.join(root, ""))
    cache = root.parents[1] if root.parent.name == "snapshots" else None
    blobs = cache / "blobs" if cache and cache.name.startswith("models--") else None
    entries = []
    for here, folders, files in os.walk(root):
        folders[:] = [name for name in folders if not name.startswith(".")]
        if len(entries) + len(folders) + len(files) > MAX_FILES:
            raise PackError(f"it has more than {MAX_FILES} files")
        for name in (*folders, *files):
            entry = os.path.join(here, name)
            where, found = entry[above:], os.lstat(entry)
            if stat.S_ISLNK(found.st_mode):
                target = Path(os.path.realpath(entry))
                if not target.is_relative_to(root) and target.parent != blobs:
                    raise PackError(f"{shown(where)} is a link that leads out of the pack")
                if not target.is_file():
                    raise PackError(f"{shown(where)} is a link to no file")
                found = target.stat()
            elif not stat.S_ISREG(found.st_mode) and not stat.S_ISDIR(found.st_mode):
                raise PackError(f"{shown(where)} is no regular file")
            entries.append((where, found.st_ino, found.st_size, found.st_mtime_ns, found.st_ctime_ns))
    return tuple(entries)


@contextmanager
def in_one_sentence(what: str) -> Iterator[None]:
    """The border to a stranger's files, which can make the libraries that read them raise anything: it becomes one
    PackError, so that one pack never hides the others, and its cause goes to the log."""
    try:
        yield
    except MmdemoError:
        raise
    except Exception as error:
        log.info("%s", what, exc_info=error)
        reason = " ".join(str(error).split())[:200]
        raise PackError(f"{what} ({type(error).__name__}: {reason})") from error


def read_json(path: Path) -> dict:
    """A JSON object from a file of at most MAX_JSON bytes, or what MAX_JSON_OF says.  Raises PackError."""
    where = path.name if path.name == "model_index.json" else f"{path.parent.name}/{path.name}"
    most = MAX_JSON_OF.get(path.name, MAX_JSON)
    try:
        found = path.stat()
        if not stat.S_ISREG(found.st_mode):  # a FIFO would be waited for without end
            raise PackError(f"{where} is no regular file")
        if found.st_size > most:
            raise PackError(f"{where} has {found.st_size} bytes; at most {most} are read")
        text = path.read_text(encoding="utf-8")
        content = json.loads(text)
        if HALF.search(text):  # half of one alone is no text, and could be told to nobody
            json.dumps(content, ensure_ascii=False).encode()
    except PackError:
        raise
    except FileNotFoundError:
        raise PackError(f"{where} is missing") from None
    except (OSError, ValueError, RecursionError) as error:
        raise PackError(f"{where} cannot be read ({error})") from None
    if not isinstance(content, dict):
        raise PackError(f"{where} holds no JSON object")
    return content


def bounded(config: Mapping[str, Any], where: str) -> None:
    """Raises PackError unless every number in a configuration is finite and within its bounds, lists and all."""
    pending = list(config.items())
    while pending:
        option, value = pending.pop()
        if isinstance(value, dict):
            pending += value.items()
        elif isinstance(value, list):
            most = MAX_BLOCKS if option.startswith("block_") or option.endswith("_block_types") else MAX_LIST
            if len(value) > most:
                raise PackError(f"{where}: {shown(option)} has {len(value)} entries; at most {most} are allowed")
            pending += [(option, one) for one in value]
        elif isinstance(value, (int, float)) and not isinstance(value, bool):
            low, high = BOUNDS.get(option, ELSE)
            try:
                (whole if isinstance(low, int) else number)(option, value, low, high)
            except ArgumentError as error:
                raise PackError(f"{where}: {error}") from None


def known(name: Any, allowed: Collection[str], where: str) -> str:
    """The name of a class, which must be among those allowed: a pack never says what is imported.  Raises PackError."""
    if not isinstance(name, str) or name not in allowed:
        raise PackError(f"{where} is a {shown(name)}; known are {', '.join(allowed)}")
    return name


def weights(model: Path) -> list[Path]:
    """The safetensors files of a model's folder.  Raises PackError where there are none, or only pickles."""
    if (model / INDEX).is_file():
        places = read_json(model / INDEX).get("weight_map")
        names = set(map(str, places.values())) if isinstance(places, dict) else set()
        if not 1 <= len(names) <= MAX_SHARDS or any(Path(one).name != one for one in names):
            raise PackError(f"{model.name}/{INDEX} does not say which files hold the weights")
        return [model / one for one in sorted(names)]
    if (model / WEIGHTS).is_file():
        return [model / WEIGHTS]
    pickles = sorted(file.name for file in model.iterdir() if file.suffix in PICKLES) if model.is_dir() else []
    if pickles:
        how = "which can run code and are never opened; take a revision with safetensors, or convert them"
        raise PackError(f"{model.name}/ has no {WEIGHTS}, only pickles ({shown(pickles[0])}), {how}")
    raise PackError(f"{model.name}/ has no safetensors file {WEIGHTS}")


def tensors(model: Path) -> dict[str, tuple[str, Shape]]:
    """The tensors in a model's folder: name -> its file and its shape, from the headers alone.

    Raises PackError for a file that is missing, or not as long as its header says, which a broken-off download is not;
    or if there are more than MAX_PARAMETERS numbers.
    """
    found: dict[str, tuple[str, Shape]] = {}
    for file in weights(model):
        where = f"{model.name}/{file.name}"
        try:
            header = _header(file, where)
        except PackError:
            raise
        except FileNotFoundError:
            raise PackError(f"{where} is missing") from None
        except (struct.error, ValueError, KeyError, TypeError, AttributeError, RecursionError, OSError):
            raise PackError(f"{where} is damaged or cut short") from None
        found |= {name: (where, shape) for name, shape in header.items()}
    total = sum(prod(shape) for _, shape in found.values())
    if total > MAX_PARAMETERS:
        raise PackError(f"{model.name}/ holds {total} numbers; at most {MAX_PARAMETERS} are loaded")
    return found


def _header(file: Path, where: str) -> dict[str, Shape]:
    """name -> shape.  Raises ValueError and others where the header or the file's length is wrong."""
    found = file.stat()
    if not stat.S_ISREG(found.st_mode):
        raise PackError(f"{where} is no regular file")
    with file.open("rb") as opened:
        (length,) = struct.unpack("<Q", opened.read(8))
        if length > found.st_size - 8:
            raise ValueError("the header is longer than the file")
        if length > MAX_HEADER:
            raise PackError(f"{where} has a header of {length} bytes; at most {MAX_HEADER} are read")
        header = json.loads(opened.read(length))
    header.pop("__metadata__", None)
    end = 0
    for name, one in sorted(header.items(), key=lambda item: item[1]["data_offsets"]):
        (first, last), shape = one["data_offsets"], one["shape"]
        if one["dtype"] not in BYTES:
            raise PackError(f"{where}: the tensor {shown(name)} is of {shown(one['dtype'])}, not of {', '.join(BYTES)}")
        if not all(type(side) is int and side >= 0 for side in shape) or first != end:
            raise ValueError("a tensor has no shape, or does not begin where the last one ends")
        end = first + prod(shape) * BYTES[one["dtype"]]
        if last != end:
            raise ValueError("a tensor is not as long as its shape says")
    if not header or found.st_size != 8 + length + end:
        raise ValueError("the file is not as long as its header says")
    return {name: tuple(one["shape"]) for name, one in header.items()}


def configuration(folder: Path, allowed: Mapping[str, tuple[str, str]]) -> dict:
    """A model's configuration, of a class that is allowed, with weights beside it."""
    config, where = read_json(folder / "config.json"), f"{folder.name}/config.json"
    bounded(config, where)
    known(config.get("_class_name"), allowed, where)
    tensors(folder)
    return config


def fit(expected: Mapping[str, Iterable[int]], found: Mapping[str, tuple[str, Shape]]) -> None:
    """Raises PackError unless the tensors found are those that the model expects, in name and shape."""
    for name, sides in expected.items():
        if name not in found:
            files = ", ".join(sorted({file for file, _ in found.values()})[:3])
            raise PackError(f"{files} lacks the tensor {name}")
        file, shape = found[name]
        if shape != tuple(sides):
            raise PackError(f"{file}: the tensor {name} is {_sides(shape)}, not {_sides(tuple(sides))}")
    for name, (file, _) in found.items():
        if name not in expected:
            raise PackError(f"{file} has a tensor too many: {shown(name)}")


def _sides(shape: Shape) -> str:
    return "×".join(map(str, shape)) or "a single number"
