"""What a pack stores ready-made: its list entry, codebook, the map of its codes, examples and cover."""

import json
import math
import os
import shutil
import subprocess
import sys

import numpy as np
import pytest
import torch
from conftest import TINY_CLASSES, array, same, save_codec
from PIL import Image
from safetensors.torch import load_file, save_file

from mmdemo import codec, loading, packs
from mmdemo.catalogue import COVER, read_sprite
from mmdemo.errors import PackError
from mmdemo.studio import Studio


def test_every_pack_is_listed_with_what_it_can_do(studio):
    listed = {pack.name: pack for pack in studio.packs()}
    assert set(listed) == {"tiny", "tiny-v", "tiny-codec", "broken"}
    assert listed["tiny"].can_sample and not listed["tiny-codec"].can_sample
    assert listed["broken"].problem and "vae" in listed["broken"].problem
    entry = listed["tiny"].json()
    assert entry["classes"] == list(TINY_CLASSES) and entry["codes"] == 16 and entry["image_size"] == 16
    assert listed["tiny"].stride == 4 and listed["broken"].stride == 0
    assert set(entry) == {"name", "classes", "codes", "image_size", "can_sample", "samplers", "words", "source"}
    json.dumps([pack.json() for pack in listed.values()], allow_nan=False)


def test_the_codebooks_numbers_are_those_of_its_counts(studio):
    book = studio.codebook("tiny")
    total = sum(book.counts)
    shares = [n / total for n in book.counts]
    assert len(book.counts) == book.codes == 16 and total == 300 * 16
    assert book.used == sum(n > 0 for n in book.counts)
    assert book.perplexity == pytest.approx(math.prod(p**-p for p in shares if p))
    assert book.bits_per_token == 4 and book.dim == 3
    assert sorted(book.order) == list(range(16))
    json.dumps(book.json(), allow_nan=False)


def test_the_sheet_shows_every_codes_swatch_in_order(studio):
    book = studio.codebook("tiny")
    gap = (book.sheet.width - book.columns * book.swatch_size) // (book.columns - 1)
    for n, k in enumerate(book.order):
        column, row = n % book.columns, n // book.columns
        step = book.swatch_size + gap
        cell = book.sheet.crop((column * step, row * step, column * step + 12, row * step + 12)).convert("L")
        assert same(cell, studio.code("tiny", k).swatch)


def test_shares_of_all_codes_sum_to_one(studio):
    codes = [studio.code("tiny", k) for k in range(16)]
    assert sum(code.share for code in codes) == pytest.approx(1)
    assert [code.count for code in codes] == studio.codebook("tiny").counts
    assert all(len(code.patches) == min(8, code.count) for code in codes if code.count < 8 or len(code.patches) == 8)
    assert all(code.card.width > code.swatch.width for code in codes)


def test_nearest_codes_are_the_nearest_ones(studio, tiny_weights):
    codes = codec.codebook(loading.load(packs.read(tiny_weights / "tiny"), "cpu").vae)
    for k in (0, 7, 15):
        answer = studio.code("tiny", k).json()
        distances = (codes - codes[k]).norm(dim=1)
        distances[k] = math.inf
        assert answer["code"] == k and len(answer["nearest"]) == 8
        for entry, true in zip(answer["nearest"], distances.sort().values[:8].tolist(), strict=True):
            # On disk codes are rounded to half precision, so that two nearly alike may have changed places.
            assert entry["distance"] == pytest.approx(true, abs=0.02)
            assert distances[entry["code"]] == pytest.approx(true, abs=0.02)


def test_the_codebook_needs_no_models(tiny_weights):
    fresh = Studio(weights=[tiny_weights])
    fresh.codebook("tiny"), fresh.code("tiny", 3), fresh.packs(), fresh.examples("tiny"), fresh.cover("tiny")
    assert not fresh.is_loaded("tiny")


@pytest.mark.parametrize(
    "damage", ["missing", "empty object", "no JSON", "too few", "sprite missing", "sprite no picture"]
)
def test_a_damaged_codebook_folder_is_told_in_one_sentence(tiny_weights, tmp_path, damage):
    shutil.copytree(tiny_weights / "tiny", tmp_path / "hurt")
    folder = tmp_path / "hurt" / "codebook"
    stored = json.loads((folder / "codebook.json").read_text())
    if damage == "missing":
        (folder / "codebook.json").unlink()
    elif damage == "sprite missing":
        (folder / "swatches.png").unlink()
    elif damage == "sprite no picture":
        (folder / "swatches.png").write_text("Dear reader")
    else:
        few = {name: value[:3] if isinstance(value, list) else value for name, value in stored.items()}
        content = {"empty object": "{}", "no JSON": "{", "too few": json.dumps(few)}[damage]
        (folder / "codebook.json").write_text(content)
    studio = Studio(weights=[tmp_path])
    for ask in (lambda: studio.codebook("hurt"), lambda: studio.code("hurt", 9)):
        with pytest.raises(PackError) as error:
            ask()
        assert "\n" not in str(error.value) and "codebook" in str(error.value)


def test_sprites_show_swatches_in_order_and_patches_by_code(tiny_weights):
    pack = packs.read(tiny_weights / "tiny")
    stored = packs.read_codebook(pack)
    size, columns = stored["swatch_size"], stored["columns"]
    swatches = read_sprite(pack, "swatches", columns, -(-pack.codes // columns), size)
    patches = read_sprite(pack, "patches", stored["patches_per_code"], pack.codes, stored["patch_size"])
    assert swatches.size == (columns * size, -(-16 // columns) * size) and swatches.mode == "L"
    assert patches.size == (stored["patches_per_code"] * stored["patch_size"], 16 * stored["patch_size"])
    with pytest.raises(PackError, match="nothing.png"):
        read_sprite(pack, "nothing", 1, 1, 1)


def test_a_sprite_is_decoded_once_and_again_when_it_has_changed(tiny_weights, tmp_path):
    shutil.copytree(tiny_weights / "tiny-codec", tmp_path / "seen")
    pack, file = packs.read(tmp_path / "seen"), tmp_path / "seen" / "codebook" / "swatches.png"
    first = read_sprite(pack, "swatches", 4, 4, 12)
    assert read_sprite(pack, "swatches", 4, 4, 12) is first
    before = file.stat()
    Image.new("L", first.size, 77).save(file)
    os.utime(file, ns=(before.st_atime_ns, before.st_mtime_ns + 1))
    assert read_sprite(pack, "swatches", 4, 4, 12).getextrema() == (77, 77)
    with pytest.raises(PackError, match="swatches.png is"):
        read_sprite(pack, "swatches", 4, 3, 12)


def test_example_pictures_are_found_by_name(tiny_weights, tmp_path):
    shutil.copytree(tiny_weights / "tiny", tmp_path / "shown")
    studio = Studio(weights=[tmp_path])
    assert studio.examples("shown") == []
    (tmp_path / "shown" / "examples").mkdir()
    for grey in (30, 10, 20):
        Image.new("L", (5, 5), grey).save(tmp_path / "shown" / "examples" / f"{grey}.png")
    assert [array(picture)[0, 0, 0] for picture in studio.examples("shown")] == [10, 20, 30]


def test_examples_have_the_captions_of_their_metadata_or_none(tiny_weights, tmp_path):
    examples = shutil.copytree(tiny_weights / "tiny", tmp_path / "shown") / "examples"
    studio = Studio(weights=[tmp_path])
    assert studio.captions("shown") == []
    examples.mkdir()
    for n in range(3):
        Image.new("L", (5, 5)).save(examples / f"{n}.png")
    assert studio.captions("shown") == [(), (), ()]
    rows = [
        {"file_name": "2.png", "text": ["红色\n圆", "a ring"], "colour": "red"},
        {"file_name": "0.png", "text": "a cat"},
    ]
    whole = "\n\n".join(json.dumps(row) for row in rows)
    (examples / "metadata.jsonl").write_text(whole)
    assert studio.captions("shown") == [("a cat",), (), ("红色 圆", "a ring")]
    for damaged in (
        whole + "\n{", whole + "\n[]", whole + '\n{"file_name": "1.png"}', whole + '\n{"file_name": [], "text": "a"}',
        whole.replace('"a cat"', "[1]"), whole.replace('"a cat"', "null"), whole.replace("a cat", "a" * 9999),
        whole + "\n" + "[" * 200_000, "\xff",
    ):  # fmt: skip
        (examples / "metadata.jsonl").write_bytes(damaged.encode("latin-1"))
        assert studio.captions("shown") == [(), (), ()]


def test_a_cover_shows_four_examples_in_a_square_without_gaps(tiny_weights, tmp_path):
    shutil.copytree(tiny_weights / "tiny", tmp_path / "shown")
    (tmp_path / "shown" / "examples").mkdir()
    colours = ["red", "green", "blue", "yellow", "white"]
    for n, colour in enumerate(colours):
        Image.new("RGB", (30 + 7 * n, 40), colour).save(tmp_path / "shown" / "examples" / f"{n}.png")
    cover = Studio(weights=[tmp_path]).cover("shown")
    assert cover.size == (COVER, COVER) and cover.mode == "RGB"
    for n, colour in enumerate(colours[:4]):
        left, top = n % 2 * COVER // 2, n // 2 * COVER // 2
        quarter = cover.crop((left, top, left + COVER // 2, top + COVER // 2))
        assert quarter.getcolors() == [(COVER**2 // 4, Image.new("RGB", (1, 1), colour).getpixel((0, 0)))]


def test_with_fewer_examples_a_cover_shows_the_first(tiny_weights, tmp_path):
    shutil.copytree(tiny_weights / "tiny", tmp_path / "shown")
    (tmp_path / "shown" / "examples").mkdir()
    for n, grey in enumerate((40, 80, 120)):
        Image.new("L", (9, 9), grey).save(tmp_path / "shown" / "examples" / f"{n}.png")
        assert Studio(weights=[tmp_path]).cover("shown").getcolors() == [(COVER**2, (40, 40, 40))]


def test_a_cover_that_a_person_put_there_is_shown(tiny_weights, tmp_path):
    shutil.copytree(tiny_weights / "tiny", tmp_path / "shown")
    Image.new("RGB", (64, 64), (1, 200, 3)).save(tmp_path / "shown" / "cover.png")
    assert Studio(weights=[tmp_path]).cover("shown").getcolors() == [(COVER**2, (1, 200, 3))]


def test_every_usable_pack_has_a_cover_and_a_damaged_one_says_why_not(tiny_weights, tmp_path, studio):
    shutil.copytree(tiny_weights / "tiny", tmp_path / "bare")
    (tmp_path / "bare" / "codebook" / "swatches.png").unlink()
    shutil.copytree(tiny_weights / "tiny", tmp_path / "hurt")
    (tmp_path / "hurt" / "examples").mkdir()
    (tmp_path / "hurt" / "examples" / "a.png").write_text("Dear reader")
    other = Studio(weights=[tmp_path])
    codes = studio.cover("tiny")
    assert codes.size == (COVER, COVER) and len(codes.getcolors()) > 16, "not a picture of codes"
    assert same(other.cover("hurt"), codes)
    assert other.cover("bare").size == (COVER, COVER) and len(other.cover("bare").getcolors()) == 1
    with pytest.raises(PackError, match="vae"):
        studio.cover("broken")
    with pytest.raises(PackError, match="tiny"):
        studio.cover("nope")


def test_a_large_codebook_is_shown_in_part_at_its_own_size(tmp_path):
    save_codec(tmp_path / "many", num_codes=400)
    studio = Studio(weights=[tmp_path])
    swatches = studio.codebook("many").swatches
    margin = (swatches.width - COVER) // 2
    assert margin > 10
    middle = swatches.crop((margin, margin, margin + COVER, margin + COVER)).convert("RGB")
    assert same(studio.cover("many"), middle)


def test_a_cover_needs_no_torch(tiny_weights):
    script = f"from mmdemo.studio import Studio; Studio([{str(tiny_weights)!r}]).cover('tiny'); "
    subprocess.run([sys.executable, "-c", script + "import sys; assert 'torch' not in sys.modules"], check=True)


def test_the_map_of_the_codes_is_stable_and_fits_the_square(studio, tiny_weights):
    plane = studio.code_map("tiny")
    assert plane == Studio(weights=[tiny_weights]).code_map("tiny")
    assert np.shape(plane.points) == (16, 2) and abs(np.array(plane.points)).max() == pytest.approx(1)
    assert plane.counts == studio.codebook("tiny").counts and 0 < plane.explained <= 1
    json.dumps(plane.json(), allow_nan=False)


def test_the_map_shows_the_two_directions_in_which_codes_differ_most(studio, tiny_weights):
    codes = loading.load(packs.read(tiny_weights / "tiny"), "cpu").vae.codebook
    variances = torch.linalg.eigvalsh(torch.cov(codes.T)).flip(0)
    plane = studio.code_map("tiny")
    assert plane.explained == pytest.approx(float(variances[:2].sum() / variances.sum()), rel=1e-2)
    x, y = np.array(plane.points).T
    assert x.var() / y.var() == pytest.approx(float(variances[0] / variances[1]), rel=1e-2)
    assert abs(np.corrcoef(x, y)[0, 1]) < 1e-3


@pytest.mark.parametrize("dim", [1, 2])
def test_codes_of_up_to_two_numbers_are_as_far_apart_on_the_map_as_they_are(tmp_path, dim):
    save_codec(tmp_path / "flat", latent_channels=dim, num_codes=12)
    plane = Studio(weights=[tmp_path]).code_map("flat")
    codes = loading.load(packs.read(tmp_path / "flat"), "cpu").vae.codebook
    points, off = torch.tensor(plane.points, dtype=torch.float32), ~torch.eye(12, dtype=bool)
    ratio = (torch.cdist(points, points)[off] + 1e-3) / (torch.cdist(codes, codes)[off] + 1e-3)
    assert plane.explained == pytest.approx(1) and ratio.max() / ratio.min() < 1.1


def test_the_map_needs_no_models(tiny_weights):
    fresh = Studio(weights=[tiny_weights])
    fresh.code_map("tiny")
    assert not fresh.is_loaded("tiny")


@pytest.mark.parametrize("damage", ["nan", "other", "none"])
def test_a_damaged_codebook_has_no_map_and_one_sentence_says_so(tiny_weights, tmp_path, damage):
    shutil.copytree(tiny_weights / "tiny-codec", tmp_path / "hurt")
    (file,) = (tmp_path / "hurt" / "vae").glob("*.safetensors")
    weights = load_file(file)
    weights["codebook"] = {"nan": weights["codebook"] * torch.nan, "other": weights["codebook"][:5].clone()}.get(damage)
    save_file({name: weight for name, weight in weights.items() if weight is not None}, file, {"format": "pt"})
    with pytest.raises(PackError, match=r"^[^\n]*'hurt'[^\n]*codebook of 16×3[^\n]*$"):
        Studio(weights=[tmp_path]).code_map("hurt")
