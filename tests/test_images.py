"""The pixel border: whatever picture comes in, upright RGB goes on; what is none is refused in one sentence."""

import io
import struct
import subprocess
import sys
import zlib

import numpy as np
import pytest
import torch
from PIL import Image, ImageOps

from mmdemo import images
from mmdemo.errors import ImageError


def array(image: Image.Image) -> np.ndarray:
    return np.asarray(image).astype(int)


def refused(source) -> str:
    with pytest.raises(ImageError) as error:
        images.open_image(source)
    text = str(error.value)
    assert "image" in text and "\n" not in text and len(text) < 400
    return text


def colourful(width: int = 6, height: int = 4) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (height, width, 3), dtype=np.uint8)


TURNS = {
    1: lambda a: a,
    2: lambda a: a[:, ::-1],
    3: lambda a: a[::-1, ::-1],
    4: lambda a: a[::-1],
    5: lambda a: a.transpose(1, 0, 2),
    6: lambda a: np.rot90(a, -1),
    7: lambda a: a[::-1, ::-1].transpose(1, 0, 2),
    8: lambda a: np.rot90(a),
}


@pytest.mark.parametrize("orientation", TURNS)
def test_pictures_are_turned_upright_by_their_exif(tmp_path, orientation):
    exif = Image.Exif()
    exif[0x0112] = orientation
    Image.fromarray(colourful()).save(tmp_path / "turned.png", exif=exif)
    opened = images.open_image(tmp_path / "turned.png")
    assert np.array_equal(array(opened), TURNS[orientation](colourful())) and images.size_given(opened) == opened.size


def test_an_orientation_that_there_is_not_turns_nothing(tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 9
    Image.fromarray(colourful()).save(tmp_path / "odd.png", exif=exif)
    opened = images.open_image(tmp_path / "odd.png")
    assert np.array_equal(array(opened), colourful()) and images.size_given(opened) == opened.size


@pytest.mark.parametrize(("orientation", "size"), [(1, (3200, 2400)), (6, (2400, 3200))])
def test_of_a_large_picture_it_is_known_how_large_it_was(tmp_path, orientation, size):
    exif = Image.Exif()
    exif[0x0112] = orientation
    Image.new("RGB", (3200, 2400)).save(tmp_path / "large.jpg", exif=exif)
    assert images.size_given(images.open_image(tmp_path / "large.jpg")) == size


@pytest.mark.parametrize("mode", ["RGBA", "LA", "P"])
def test_transparency_becomes_white(tmp_path, mode):
    if mode == "P":
        picture = Image.new("P", (4, 4), 0)
        picture.putpalette([0, 0, 0, 200, 0, 0])
        picture.putpixel((1, 1), 1)
        picture.save(tmp_path / "clear.png", transparency=0)
        solid = [200, 0, 0]
    else:
        clear, ink = ((0, 0, 0, 0), (200, 200, 200, 255)) if mode == "RGBA" else ((0, 0), (200, 255))
        picture = Image.new(mode, (4, 4), clear)
        picture.putpixel((1, 1), ink)
        picture.save(tmp_path / "clear.png")
        solid = [200, 200, 200]
    opened = array(images.open_image(tmp_path / "clear.png"))
    assert opened[1, 1].tolist() == solid
    opened[1, 1] = 255
    assert (opened == 255).all()


def test_half_transparent_black_is_grey():
    opened = images.open_image(Image.new("RGBA", (2, 2), (0, 0, 0, 128)))
    assert abs(array(opened) - 127).max() <= 1


def test_a_16_bit_png_keeps_its_range(tmp_path):
    ramp = np.linspace(0, 65535, 256).astype(np.uint16).reshape(16, 16)
    Image.fromarray(ramp).save(tmp_path / "deep.png")
    opened = array(images.open_image(tmp_path / "deep.png"))
    assert abs(opened[..., 0].flatten() - np.arange(256)).max() <= 1
    assert (opened[..., 0] == opened[..., 1]).all()


def test_a_16_bit_png_with_alpha_or_colour_is_read(tmp_path):
    """Pillow has no 16-bit colour, so such a file is written here by hand: two bytes a channel."""
    for kind, channels in ((2, 3), (6, 4)):
        rows = [b"\0" + struct.pack(f">{channels * 4}H", *([65535, 32768, 0, 65535][:channels] * 4)) for _ in range(4)]

        def chunk(name: bytes, content: bytes) -> bytes:
            return struct.pack(">I", len(content)) + name + content + struct.pack(">I", zlib.crc32(name + content))

        file = b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", struct.pack(">IIBBBBB", 4, 4, 16, kind, 0, 0, 0))
        file += chunk(b"IDAT", zlib.compress(b"".join(rows))) + chunk(b"IEND", b"")
        (tmp_path / "deep.png").write_bytes(file)
        opened = array(images.open_image(tmp_path / "deep.png"))
        assert abs(opened - [255, 128, 0]).max() <= 1


@pytest.mark.parametrize("mode", ["1", "L", "P", "RGB", "CMYK", "YCbCr", "F", "I"])
def test_every_kind_of_picture_becomes_rgb_with_black_dark_and_white_light(tmp_path, mode):
    grey = Image.new("L", (8, 8), 0)
    grey.paste(255, (4, 0, 8, 8))
    picture = grey.convert("RGB").convert("CMYK") if mode == "CMYK" else grey.convert(mode)
    opened = images.open_image(picture)
    assert opened.mode == "RGB"
    pixels = array(opened)
    assert pixels[:, :4].max() <= 3 and pixels[:, 4:].min() >= 252
    if mode in ("CMYK", "F", "I"):
        picture.save(tmp_path / "kind.tiff")
        assert abs(array(images.open_image(tmp_path / "kind.tiff")) - pixels).max() <= 3


def test_a_cmyk_jpeg_is_read(tmp_path):
    Image.new("CMYK", (8, 8), (0, 255, 255, 0)).save(tmp_path / "ink.jpg")
    red = array(images.open_image(tmp_path / "ink.jpg")).mean((0, 1))
    assert red[0] > 230 and red[1] < 40 and red[2] < 40


def test_an_animation_is_its_first_frame(tmp_path):
    frames = [Image.new("L", (4, 4), grey) for grey in (50, 250)]
    frames[0].save(tmp_path / "moving.gif", save_all=True, append_images=frames[1:])
    assert abs(array(images.open_image(tmp_path / "moving.gif")) - 50).max() <= 3


@pytest.mark.parametrize("suffix", ["png", "jpg", "webp", "gif"])
def test_a_file_cut_short_is_refused(tmp_path, suffix):
    noise = Image.fromarray(np.random.default_rng(1).integers(0, 256, (80, 80, 3), dtype=np.uint8))
    noise.save(tmp_path / f"whole.{suffix}")
    content = (tmp_path / f"whole.{suffix}").read_bytes()
    for kept in (20, len(content) // 2):
        (tmp_path / f"cut.{suffix}").write_bytes(content[:kept])
        assert f"cut.{suffix}" in refused(tmp_path / f"cut.{suffix}")


@pytest.mark.parametrize(
    "content", [b"", b"Dear reader, this is text.\n", b"\x89PNG\r\n\x1a\n" + bytes(50), bytes(5000)]
)
def test_a_file_that_is_no_picture_is_refused_whatever_its_name(tmp_path, content):
    (tmp_path / "letter.png").write_bytes(content)
    assert "letter.png" in refused(tmp_path / "letter.png")


def test_what_is_no_file_is_refused(tmp_path):
    assert "does not exist" in refused(tmp_path / "nowhere.png")
    assert refused(tmp_path).endswith(": Is a directory")
    refused(str(tmp_path / "nul\0l.png"))
    refused(tmp_path / "two\nlines.png")
    for nonsense in (5, 1.5, [], {}, object()):
        refused(nonsense)


def png_claiming(width: int, height: int) -> bytes:
    """A PNG with a header and no pixels: what it claims must be refused before a pixel is looked for."""
    header = b"IHDR" + struct.pack(">IIBBBBB", width, height, 1, 0, 0, 0, 0)
    start = b"\x89PNG\r\n\x1a\n" + struct.pack(">I", 13) + header + struct.pack(">I", zlib.crc32(header))
    return start + struct.pack(">I", 1000) + b"IDAT" + bytes(40)


@pytest.mark.parametrize(
    ("width", "height"), [(4001, 4000), (9000, 9000), (13000, 13000), (60000, 60000), (1, 16000001)]
)
def test_more_than_16_megapixels_are_refused_before_they_are_decoded(tmp_path, width, height):
    (tmp_path / "huge.png").write_bytes(png_claiming(width, height))
    assert "16 megapixels" in refused(tmp_path / "huge.png")


def test_16_megapixels_exactly_are_allowed(tmp_path):
    Image.new("1", (4000, 4000)).save(tmp_path / "large.png")
    assert min(images.open_image(tmp_path / "large.png").size) >= 1024


SIX_AT_ONCE = """
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from mmdemo.images import open_image

def most() -> int:
    return int(Path("/proc/self/status").read_text().partition("VmHWM:")[2].split()[0])  # kB

before = most()
with ThreadPoolExecutor(6) as pool:
    opened = list(pool.map(open_image, [sys.argv[1]] * 6))
print(most() - before)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="asks Linux for what a process has taken at most")
@pytest.mark.parametrize("mode", ["1", "RGBA"])
def test_six_large_pictures_at_once_take_little_memory(tmp_path, mode):
    Image.new(mode, (4000, 4000)).save(tmp_path / "large.png", compress_level=1)
    command = [sys.executable, "-c", SIX_AT_ONCE, str(tmp_path / "large.png")]
    assert int(subprocess.run(command, capture_output=True, text=True, check=True).stdout) < 200_000


@pytest.mark.parametrize("mode", ["1", "L", "P", "RGB", "RGBA", "I;16"])
def test_a_large_picture_is_read_smaller_and_looks_the_same(tmp_path, mode):
    pattern = Image.fromarray(colourful(5, 8))
    if mode == "I;16":
        pattern = Image.fromarray(array(pattern.convert("L")).astype(np.uint16) * 257)
    elif mode == "RGBA":
        pattern.putalpha(Image.fromarray(colourful(5, 8)[::-1, :, 0]))
    else:
        pattern = pattern.convert(mode)
    clear = {"transparency": 0} if mode == "P" else {}
    exif = Image.Exif()
    exif[0x0112] = 6
    for times in (20, 500):
        sized = pattern.resize((5 * times, 8 * times), Image.Resampling.NEAREST)
        sized.save(tmp_path / f"{times}.png", exif=exif, compress_level=1, **clear)
    small, large = (images.open_image(tmp_path / f"{times}.png") for times in (20, 500))
    assert small.size == (160, 100) and large.size == (1250, 1250)
    assert abs(array(images.fit_square(large, 50, 3)) - array(images.fit_square(small, 50, 3))).max() < 12


def test_a_picture_that_is_not_large_keeps_its_pixels(tmp_path):
    noise = Image.fromarray(colourful(2048, 2048))
    noise.save(tmp_path / "noise.bmp")
    assert images.open_image(tmp_path / "noise.bmp").tobytes() == noise.tobytes()


def progressive() -> bytes:
    file = io.BytesIO()
    Image.fromarray(colourful(16, 16)).save(file, "JPEG", progressive=True, subsampling=0)
    return file.getvalue()


def test_a_progressive_jpeg_that_would_take_much_memory_or_time_is_refused(tmp_path):
    assert images.open_image(io.BytesIO(progressive())).size == (16, 16)
    large = bytearray(progressive())
    start = large.index(b"\xff\xc2") + 5
    large[start : start + 4] = struct.pack(">HH", 13000, 13000)  # 1 GB, though it is drafted at an eighth
    assert "not progressive" in refused(io.BytesIO(large))
    body, end = progressive()[:-2], progressive()[-2:]
    endless = body + body[body.rindex(b"\xff\xda") :] * 100 + end
    assert "100 scans" in refused(io.BytesIO(endless))


def test_a_telephones_jpeg_is_read_smaller_and_looks_the_same(tmp_path):
    tall = Image.new("RGB", (6000, 8000), (200, 30, 30))
    tall.paste((20, 40, 220), (3000, 0, 6000, 8000))
    tall.save(tmp_path / "telephone.jpg")
    seen = images.fit_square(images.open_image(tmp_path / "telephone.jpg"), 64, 3)
    assert abs(array(seen).astype(int) - array(images.fit_square(tall, 64, 3))).max() < 12
    assert min(images.open_image(tmp_path / "telephone.jpg").size) >= 1024


def test_too_large_a_picture_in_memory_is_refused():
    assert "16 megapixels" in refused(Image.new("1", (4001, 4000)))


def test_opening_leaves_the_callers_picture_as_it_was():
    picture = Image.new("LA", (4, 4), (10, 0))
    images.open_image(picture)
    assert picture.mode == "LA" and picture.getpixel((0, 0)) == (10, 0)


def test_every_byte_survives_the_way_to_floats_and_back():
    every = torch.arange(256, dtype=torch.uint8)
    floats = images.from_bytes(every)
    assert floats.min() == -1 and floats.max() == 1 and floats.dtype == torch.float32
    assert torch.equal(images.to_bytes(floats), every)
    assert torch.equal(images.to_bytes(floats.double()), every)


def test_floats_beyond_the_range_are_clamped_not_wrapped():
    assert images.to_bytes(torch.tensor([-7.0, -1.001, 1.001, 9.0])).tolist() == [0, 0, 255, 255]


@pytest.mark.parametrize("mode", ["L", "RGB"])
def test_pictures_survive_the_way_to_tensors_and_back(mode):
    picture = Image.fromarray(colourful(5, 7)).convert(mode)
    tensor = images.to_tensor(picture)
    assert tensor.shape == (len(picture.getbands()), 7, 5)
    for batch in (tensor[None], images.image_bytes(picture)[None]):
        (back,) = images.to_images(batch)
        assert back.mode == mode and np.array_equal(array(back), array(picture))


def test_the_middle_square_is_what_stays():
    wide = Image.new("RGB", (90, 30), "red")
    wide.paste((0, 0, 255), (30, 0, 60, 30))
    for picture in (wide, wide.rotate(90, expand=True)):
        fitted = images.fit_square(picture, 16, 3)
        assert fitted.size == (16, 16)
        # Lanczos rings by a few levels at an edge, and the cut runs along one.
        assert abs(array(fitted)[2:-2, 2:-2] - [0, 0, 255]).max() < 10


@pytest.mark.parametrize("size", [(1, 1), (1, 3000), (3000, 1), (7, 5), (500, 300)])
def test_any_picture_fits_the_models_square(size):
    for channels, mode in ((1, "L"), (3, "RGB")):
        fitted = images.fit_square(Image.new("RGB", size, (10, 200, 30)), 32, channels)
        assert fitted.size == (32, 32) and fitted.mode == mode


def digit(ink: int, paper: int) -> Image.Image:
    picture = Image.new("L", (32, 32), paper)
    picture.paste(ink, (13, 6, 19, 26))
    return picture


def test_dark_ink_on_white_paper_is_told_from_light_on_dark():
    assert images.border_is_lighter(digit(0, 255))
    assert not images.border_is_lighter(digit(255, 0))
    assert images.border_is_lighter(digit(90, 120).convert("RGB").resize((300, 200)))
    assert not images.border_is_lighter(digit(120, 90))
    assert not images.border_is_lighter(Image.new("L", (32, 32), 255)), "nothing on it: leave it alone"


def test_a_grid_shows_every_picture_in_its_place():
    pictures = [Image.new("RGB", (3, 2), (i, 0, 0)) for i in range(7)]
    sheet = array(images.grid(pictures, columns=3, gap=1))
    assert sheet.shape == (3 * 3 - 1, 3 * 4 - 1, 3)
    for i in range(7):
        row, column = divmod(i, 3)
        assert (sheet[row * 3 : row * 3 + 2, column * 4 : column * 4 + 3] == [i, 0, 0]).all()
    assert (sheet[6:, 4:] == 255).all()


def test_enlarging_keeps_pixels_as_squares():
    small = Image.fromarray(colourful(4, 4))
    large = images.enlarge(small, 34)
    assert large.size == (32, 32)
    assert np.array_equal(array(large)[::8, ::8], array(small)) and np.array_equal(
        array(large)[7::8, 7::8], array(small)
    )
    assert images.enlarge(small, 1).size == (4, 4)


def test_a_token_map_has_the_size_of_the_picture_it_stands_for():
    ids = torch.arange(15).view(3, 5)
    colours = images.token_map(ids, list(range(16)), stride=4)
    assert colours.size == (20, 12) and colours.mode == "RGB"
    pixels = array(colours)
    for row in range(3):
        for column in range(5):
            cell = pixels[4 * row : 4 * row + 4, 4 * column : 4 * column + 4].reshape(-1, 3)
            assert (cell == cell[0]).all()


@pytest.mark.parametrize("count", [2, 16, 256, 512, 1024])
def test_equal_ids_have_equal_colours_and_different_ids_different_ones(count):
    order = torch.randperm(count, generator=torch.Generator().manual_seed(0)).tolist()
    first = images.token_map(torch.arange(count).view(1, -1), order, 1)
    again = images.token_map(torch.arange(count).flip(0).view(-1, 1), order, 1)
    colours = [tuple(colour) for colour in array(first)[0]]
    assert colours[::-1] == [tuple(colour) for colour in array(again)[:, 0]]
    assert len(set(colours)) == count


def test_codes_near_each_other_in_the_codebooks_square_have_near_colours():
    order = torch.randperm(256, generator=torch.Generator().manual_seed(0)).tolist()
    square = array(images.token_map(torch.tensor(order).view(16, 16), order, 1))

    def apart(rows: int, columns: int) -> float:
        return float(abs(square[rows:, columns:] - square[: 16 - rows, : 16 - columns]).sum(-1).mean())

    assert apart(0, 1) < apart(0, 2) < apart(0, 4)
    assert apart(1, 0) < apart(2, 0) < apart(4, 0) < apart(8, 0)
    assert apart(1, 1) < 0.5 * apart(0, 8)


def test_a_picture_can_be_read_from_an_open_file():
    file = io.BytesIO()
    Image.fromarray(colourful()).save(file, "PNG")
    file.seek(0)
    assert np.array_equal(array(images.open_image(Image.open(file))), colourful())


def test_a_picture_whose_exif_block_is_broken_is_shown_as_it_lies(tmp_path):
    """The block says that it is to be turned, and cannot be written again without that."""
    plain = io.BytesIO()
    Image.new("RGB", (20, 10), (200, 30, 30)).save(plain, "JPEG")
    exif = b"Exif\x00\x00" + bytes.fromhex(
        "4d4d002a000000080003012300020000000600000032011200030000000100060000ff1a00050000"
        "000100000038007f00006d616b6572000000004800000001"
    )
    block = b"\xff\xe1" + (len(exif) + 2).to_bytes(2, "big") + exif
    file = tmp_path / "broken.jpg"
    file.write_bytes(plain.getvalue()[:2] + block + plain.getvalue()[2:])
    with pytest.raises(struct.error):
        ImageOps.exif_transpose(Image.open(file))
    assert images.open_image(file).size == (20, 10)
