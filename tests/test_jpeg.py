"""JPEG at a number of bits: as fair as can be, and a little fairer to JPEG."""

import io

import pytest
import torch
from PIL import Image

from mmdemo import data, jpeg
from mmdemo.images import to_images


@pytest.fixture(scope="module")
def pixels() -> torch.Tensor:
    """Colourful pictures with texture: shapes and some noise."""
    shapes = data.load("shapes", "test", image_size=32, channels=3).pixels[:6].float()
    noise = torch.randn(shapes.shape, generator=torch.Generator().manual_seed(0)) * 12
    return (shapes + noise).clamp(0, 255).to(torch.uint8)


def measured(pixels: torch.Tensor, quality: int, subsampling: str) -> tuple[float, float]:
    """Mean bits per pixel of the whole files, and PSNR."""
    files = [jpeg.encode(picture, quality, subsampling) for picture in to_images(pixels)]
    decoded = torch.stack([jpeg.decode(file) for file in files])
    errors = (decoded.double() - pixels.double()).square().mean((1, 2, 3))
    return 8 * sum(map(len, files)) / pixels[:, 0].numel(), float((10 * torch.log10(255**2 / errors)).mean())


def test_the_scan_is_what_lies_between_its_header_and_the_end(pixels):
    for quality in (1, 30, 95):
        file = jpeg.encode(to_images(pixels)[0], quality, "4:2:0")
        length = jpeg.scan_bytes(file)
        before, scan, after = file[: -2 - length], file[-2 - length : -2], file[-2:]
        assert after == b"\xff\xd9"
        assert before.endswith(b"\x00\x3f\x00"), "a baseline scan's header ends with these three bytes"
        assert all(scan[i + 1] == 0 for i in range(len(scan) - 1) if scan[i] == 0xFF), "a marker within the scan"


def test_headers_do_not_count_as_scan(pixels):
    picture, plain, commented = to_images(pixels)[0], io.BytesIO(), io.BytesIO()
    picture.save(plain, "JPEG")
    picture.save(commented, "JPEG", comment=b"\xff\xda" * 500, icc_profile=b"x" * 3000)
    assert len(commented.getvalue()) > len(plain.getvalue()) + 4000
    assert jpeg.scan_bytes(commented.getvalue()) == jpeg.scan_bytes(plain.getvalue()) < len(plain.getvalue())


@pytest.mark.parametrize("bits", [0.6, 1.5, 3.0])
def test_jpeg_never_gets_fewer_bits_and_hardly_more(pixels, bits):
    by_scan, _ = jpeg.at_bits(pixels, bits)
    assert by_scan.quality > 1 and by_scan.bits_per_pixel >= bits
    scans = [jpeg.scan_bytes(jpeg.encode(x, by_scan.quality - 1, by_scan.subsampling)) for x in to_images(pixels)]
    assert 8 * sum(scans) / pixels[:, 0].numel() < bits, "a lower quality would have done"


def test_of_all_qualities_and_subsamplings_it_is_the_one_that_a_search_through_all_finds(pixels):
    bits, found = 6.0, []
    for subsampling in jpeg.SUBSAMPLINGS:
        enough = (measured(pixels, quality, subsampling) for quality in range(1, jpeg.MAX_QUALITY + 1))
        found.append(min(one for one in enough if one[0] >= bits))
    _, by_file = jpeg.at_bits(pixels, bits)
    assert (by_file.bits_per_pixel, jpeg._psnr(by_file.pixels, pixels)) == pytest.approx(max(found, key=lambda x: x[1]))


def test_where_even_quality_1_is_larger_its_own_size_is_reported(pixels):
    _, by_file = jpeg.at_bits(pixels, 0.5)
    assert by_file.quality == 1 and by_file.bits_per_pixel > 2
    assert by_file.bits_per_pixel == pytest.approx(measured(pixels, 1, by_file.subsampling)[0])


def test_a_subsampling_that_can_be_as_small_is_preferred_to_one_that_cannot(pixels):
    by_scan, _ = jpeg.at_bits(pixels, 0.165)  # at quality 1 4:4:4 takes a fifth more, and looks better for it
    assert by_scan.subsampling == "4:2:0" and by_scan.quality > 1 and by_scan.bits_per_pixel < 0.19


def test_flat_pictures_are_coded_without_error_and_break_nothing():
    grey = torch.full((3, 3, 16, 16), 128, dtype=torch.uint8)
    for one in jpeg.at_bits(grey, 1.0):
        assert torch.equal(one.pixels, grey) and 0 < one.bits_per_pixel < 100


def test_the_decoded_pictures_are_those_of_the_files(pixels):
    by_scan, _ = jpeg.at_bits(pixels, 1.0)
    file = jpeg.encode(to_images(pixels)[3], by_scan.quality, by_scan.subsampling)
    assert Image.open(io.BytesIO(file)).tobytes() == to_images(by_scan.pixels)[3].tobytes()
