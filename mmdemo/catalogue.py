"""What a pack has ready to be shown without torch: its examples, its cover, its codebook and a map of it.

A pack that others published has no codebook/ folder, so of its codes only the numbers are known: what they look like
and how often they are used is not. They are shown in colours that are alike where the numbers are.
"""

from __future__ import annotations

import json
from contextlib import suppress
from functools import lru_cache
from math import ceil, exp, inf, log, log2, sqrt
from pathlib import Path

from PIL import Image

from mmdemo import checks, images, packs
from mmdemo.datasets import METADATA
from mmdemo.errors import MmdemoError, PackError
from mmdemo.kinds import prompt
from mmdemo.results import Code, Codebook, CodeMap

MOST = 1e18  # of a code's numbers, whose squares are summed
COVER = 128  # pixels of a cover's side
FLAT = 4  # pixels of a swatch that is a mere colour
NEAREST = 8  # codes


def examples(pack: packs.Pack) -> list[Path]:
    """The pictures that a person put there for the page."""
    return sorted((pack.path / "examples").glob("*.png"))


def captions(pack: packs.Pack) -> list[tuple[str, ...]]:
    """Those of each example, from a file like that of a captioned data set; () where there is none."""
    told = {}
    with suppress(OSError, ValueError, RecursionError, LookupError, TypeError, MmdemoError):  # then it tells nothing
        rows = (pack.path / "examples" / METADATA).read_text(encoding="utf-8-sig").split("\n")
        told = {row["file_name"]: _texts(row["text"]) for row in map(json.loads, filter(str.strip, rows))}
    return [told.get(file.name, ()) for file in examples(pack)]


def code_map(pack: packs.Pack) -> CodeMap:
    """The first two principal components of the codebook, which is read from the pack without torch."""
    import numpy as np

    places, explained = _principal(read_codes(pack), 2)
    places /= max(np.abs(places).max(), 1e-12)
    counts = packs.read_codebook(pack)["counts"] if _counted(pack) else None
    return CodeMap([(x, y) for x, y in places.round(4).tolist()], counts, explained)


def _principal(e, count: int):
    """(K, d) codes along the directions in which they differ most, (K, count), and the share of variance there."""
    import numpy as np

    e = e - e.mean(0)
    _, sizes, directions = np.linalg.svd(e, full_matrices=False)
    # An SVD's signs are arbitrary: make the largest number of each direction positive, so that all is stable.
    directions = directions[:count] * np.sign([row[np.abs(row).argmax()] for row in directions[:count]])[:, None]
    places = np.zeros((len(e), count))
    places[:, : len(directions)] = e @ directions.T
    return places, float((sizes[:count] ** 2).sum() / max((sizes**2).sum(), 1e-12))


def cover(pack: packs.Pack) -> Image.Image:
    """COVER × COVER pixels in colour: cover.png, which a person put there, or else four examples (the first, if fewer),
    or else the codebook's middle, or else plain grey."""
    own = pack.path / "cover.png"
    with suppress(MmdemoError):
        if own.is_file():
            return images.fit_square(images.open_image(own), COVER, 3)
    files = examples(pack)[:4]
    with suppress(MmdemoError):  # what is wrong with a file is told where it is asked for; here the next best is shown
        if files:
            columns = 2 if len(files) == 4 else 1
            opened = [images.open_image(file) for file in files[: columns**2]]
            return images.grid([images.fit_square(image, COVER // columns, 3) for image in opened], columns, gap=0)
    with suppress(MmdemoError):
        swatches = codebook(pack).swatches
        left, top = (max(0, side - COVER) // 2 for side in swatches.size)
        middle = swatches.crop((left, top, swatches.width - left, swatches.height - top))
        return images.fit_square(middle, COVER, 3)
    return Image.new("RGB", (COVER, COVER), "grey")


def codebook(pack: packs.Pack) -> Codebook:
    """From the pack's codebook/ folder, or of the codes alone without one.  Raises PackError if it is damaged."""
    if not _counted(pack):
        return _uncounted(pack)
    stored = packs.read_codebook(pack)
    sprite, size, columns = _swatches(pack, stored)
    counts, total = stored["counts"], max(1, sum(stored["counts"]))
    entropy = -sum(n / total * log(n / total) for n in counts if n)
    swatches = [images.cell(sprite, n % columns, n // columns, size) for n in range(pack.codes)]
    return Codebook(
        sheet=images.grid(swatches, columns),
        swatches=sprite,
        swatch_size=size,
        columns=columns,
        order=stored["order"],
        counts=counts,
        codes=pack.codes,
        used=sum(n > 0 for n in counts),
        perplexity=exp(entropy),
        dim=pack.dim,
        bits_per_token=log2(pack.codes),
    )


def code(pack: packs.Pack, k: int) -> Code:
    """From the pack's codebook/ folder, or of the codes alone without one.  Raises PackError if it is damaged."""
    if not _counted(pack):
        return _uncounted_code(pack, k)
    stored = packs.read_codebook(pack)
    sprite, size, columns = _swatches(pack, stored)
    place = {code: n for n, code in enumerate(stored["order"])}
    each, side = stored["patches_per_code"], stored["patch_size"]
    patch_sprite = read_sprite(pack, "patches", each, pack.codes, side)
    patches = [images.cell(patch_sprite, n, k, side) for n in range(min(each, stored["counts"][k]))]
    swatch = images.cell(sprite, place[k] % columns, place[k] // columns, size)
    near = [images.cell(sprite, place[n] % columns, place[n] // columns, size) for n in stored["nearest"][k]]
    return Code(
        card=_card(swatch, near, patches),
        swatch=swatch,
        patches=patches,
        code=k,
        count=stored["counts"][k],
        share=stored["counts"][k] / max(1, sum(stored["counts"])),
        nearest=[{"code": n, "distance": d} for n, d in zip(stored["nearest"][k], stored["distances"][k], strict=True)],
    )


def _counted(pack: packs.Pack) -> bool:
    """Whether the pack says how its codes are used and what they look like."""
    return (pack.path / "codebook").exists()


@lru_cache(maxsize=8)  # the list of packs asks for it again and again, for covers
def _uncounted(pack: packs.Pack) -> Codebook:
    """Codes in a square, alike ones near each other, in colours: red, green and blue are the three directions in which
    the codes differ most."""
    import numpy as np

    places, _ = _principal(read_codes(pack), 3)
    columns = ceil(sqrt(pack.codes))
    by_first = places[:, 0].argsort(kind="stable")
    rows = [by_first[start : start + columns] for start in range(0, pack.codes, columns)]
    order = np.concatenate([row[places[row, 1].argsort(kind="stable")] for row in rows])
    colours = np.zeros((len(rows) * columns, 3), np.uint8)
    colours[: pack.codes] = (127.5 + 127.5 * places / np.maximum(np.abs(places).max(0), 1e-12))[order]
    one_pixel_each = Image.fromarray(colours.reshape(len(rows), columns, 3))
    sprite = one_pixel_each.resize((columns * FLAT, len(rows) * FLAT), Image.Resampling.NEAREST)
    swatches = [images.cell(sprite, n % columns, n // columns, FLAT) for n in range(pack.codes)]
    return Codebook(
        sheet=images.grid(swatches, columns),
        swatches=sprite,
        swatch_size=FLAT,
        columns=columns,
        order=order.tolist(),
        counts=None,
        codes=pack.codes,
        used=None,
        perplexity=None,
        dim=pack.dim,
        bits_per_token=log2(pack.codes),
    )


def _uncounted_code(pack: packs.Pack, k: int) -> Code:
    import numpy as np

    book, e = _uncounted(pack), read_codes(pack)
    far = np.linalg.norm(e - e[k], axis=1)
    far[k] = inf
    near = far.argsort(kind="stable")[: min(NEAREST, pack.codes - 1)].tolist()
    swatch = book.swatch(k)
    return Code(
        card=_card(swatch, [book.swatch(n) for n in near], []),
        swatch=swatch,
        patches=[],
        code=k,
        count=None,
        share=None,
        nearest=[{"code": n, "distance": round(float(far[n]), 4)} for n in near],
    )


def read_codes(pack: packs.Pack):
    """The code vectors, a (K, d) float64 numpy array, read without torch.  Raises PackError if they are not there."""
    from safetensors import SafetensorError, safe_open

    codes, shape = None, (pack.codes, pack.dim)
    for file in checks.weights(pack.codec):
        try:
            with safe_open(file, "numpy") as opened:
                for name in ("codebook", "quantize.embedding.weight"):
                    if name in opened.keys() and tuple(opened.get_slice(name).get_shape()) == shape:  # noqa: SIM118
                        codes = opened.get_tensor(name).astype("float64")
        except (OSError, SafetensorError, TypeError) as error:
            raise PackError(f"pack {pack.name!r} has an unreadable {file.name} ({type(error).__name__})") from None
    if codes is None or not (abs(codes) < MOST).all():
        where = pack.codec.relative_to(pack.path).as_posix()
        raise PackError(f"pack {pack.name!r} has no codebook of {pack.codes}×{pack.dim} finite numbers in {where}/")
    return codes


def read_sprite(pack: packs.Pack, name: str, columns: int, rows: int, cell: int) -> Image.Image:
    """ "swatches" or "patches": rows × columns pictures of cell × cell pixels, not to be drawn upon: it is kept.

    Raises PackError for anything else.
    """
    jpeg = pack.path / "codebook" / f"{name}.jpg"
    file = jpeg if jpeg.is_file() else jpeg.with_suffix(".png")
    size, mode = (columns * cell, rows * cell), "RGB" if pack.channels == 3 else "L"
    try:
        return _sprite(file, packs.stamp(file), size, mode)
    except PackError:
        raise
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError):
        raise PackError(f"pack {pack.name!r} has no readable codebook/{file.name}") from None


@lru_cache(maxsize=8)  # of photographs and 4096 codes, one may take 14 MB and 50 ms to decode
def _sprite(file: Path, stamp: int, size: tuple[int, int], mode: str) -> Image.Image:
    with Image.open(file, formats=("PNG", "JPEG")) as sprite:
        if sprite.size != size:
            raise PackError(f"codebook/{file.name} is {sprite.size}, not {size[0]}×{size[1]} pixels")
        return sprite.convert(mode)


def _swatches(pack: packs.Pack, stored: dict) -> tuple[Image.Image, int, int]:
    """The sprite of all swatches, the side of one, and the number of columns."""
    size, columns = stored["swatch_size"], stored["columns"]
    return read_sprite(pack, "swatches", columns, ceil(pack.codes / columns), size), size, columns


def _card(swatch: Image.Image, near: list[Image.Image], patches: list[Image.Image]) -> Image.Image:
    """The swatch large on the left; its nearest codes above, real patches below."""
    cell, gap = 48, 4
    card = Image.new("RGB", (4 * cell + 3 * gap + gap + 8 * (cell + gap), 4 * cell + 3 * gap), "white")
    large = 4 * cell + 3 * gap
    card.paste(swatch.resize((large, large), Image.Resampling.NEAREST), (0, 0))
    for row, pictures in ((0.5, near), (2.5, patches)):
        for i, picture in enumerate(pictures[:8]):
            place = (large + 2 * gap + i * (cell + gap), int(row * (cell + gap)))
            card.paste(picture.resize((cell, cell), Image.Resampling.NEAREST), place)
    return card


def _texts(text: str | list[str]) -> tuple[str, ...]:
    return tuple(filter(None, (prompt("text", one) for one in ([text] if isinstance(text, str) else text))))
