"""A picture as tokens: what the studio answers is what the codec gives, run by hand."""

import json
import math

import numpy as np
import pytest
import torch
from conftest import alike, array, digit, noise, same, save_codec

from mmdemo import codec, loading, packs
from mmdemo.errors import ArgumentError
from mmdemo.images import fit_square, from_bytes, image_bytes, to_images
from mmdemo.kinds import MAX_SIDE, MIN_SIDE
from mmdemo.studio import Studio

WEIGHTS = "lively_weights"


def test_a_reconstructions_numbers_are_true(studio):
    made = studio.reconstruct("tiny", digit())
    a, b = array(made.original), array(made.image)
    assert made.original.size == made.image.size == made.token_map.size == (16, 16)
    assert made.psnr == pytest.approx(10 * math.log10(255**2 / ((a - b) ** 2).mean()), abs=1e-3)
    assert made.ssim == pytest.approx(codec.quality(image_bytes(made.image)[None], image_bytes(made.original)[None])[1])
    assert made.bits_per_pixel == 16 * 4 / 256 and made.compression_ratio == 8 / made.bits_per_pixel
    assert made.stride == 4 and np.shape(made.tokens) == (4, 4)
    told = json.loads(json.dumps(made.json(), allow_nan=False))
    assert told["tokens"] == made.tokens and {"psnr", "ssim", "bits_per_pixel"} <= set(told)


def test_the_tokens_of_a_reconstruction_decode_to_its_picture(studio):
    made = studio.reconstruct("tiny", digit())
    assert same(studio.decode("tiny", made.tokens), made.image)
    assert len({k for row in made.tokens for k in row}) > 1
    cells = {
        (k, tuple(array(made.token_map)[4 * i, 4 * j])) for i, row in enumerate(made.tokens) for j, k in enumerate(row)
    }
    assert len(cells) == len({k for k, _ in cells}) == len({colour for _, colour in cells})


def test_one_token_changed_changes_the_picture_around_it(studio):
    tokens = studio.reconstruct("tiny", digit()).tokens
    before = array(studio.decode("tiny", tokens))
    tokens[0][0] = (tokens[0][0] + 5) % 16
    changed = abs(array(studio.decode("tiny", tokens)) - before)
    assert changed[:4, :4].max() > 0


def test_any_grid_within_bounds_is_decoded(studio):
    assert studio.decode("tiny", [[3]]).size == (4, 4)
    assert studio.decode("tiny", [[1, 2, 3]]).size == (12, 4)
    assert studio.decode("tiny", [[0] * (MAX_SIDE // 4)] * (MAX_SIDE // 4)).size == (MAX_SIDE, MAX_SIDE)
    assert same(studio.decode("tiny", [[3.0, 4.0]]), studio.decode("tiny", [[3, 4]]))


def test_dark_ink_on_white_is_inverted_unless_one_says_otherwise(studio):
    for ink, paper, auto in ((0, 255, True), (255, 0, False)):
        for invert, expected in (("auto", auto), ("yes", True), ("no", False), (True, True), (False, False)):
            made = studio.reconstruct("tiny", digit(ink, paper), invert)
            assert made.inverted == expected
            assert (array(made.original)[0, 0] == 255) == ((paper == 255) != expected)


def test_twice_the_size_gives_twice_the_tokens_each_way(studio):
    for size in (None, 16, 32, 32.0, MIN_SIDE, 20, MAX_SIDE):
        made, side = studio.reconstruct("tiny", digit(), size=size), int(size or 16)
        assert made.original.size == made.image.size == made.token_map.size == (side, side)
        assert np.shape(made.tokens) == (side // 4, side // 4)
        assert made.bits_per_pixel == 4 / 16, "a larger picture takes as many bits for each of its pixels"
        assert math.isfinite(made.psnr) and math.isfinite(made.ssim)
        assert same(studio.decode("tiny", made.tokens), made.image)
    assert studio.reconstruct("tiny", digit(), size=16).tokens == studio.reconstruct("tiny", digit()).tokens


def test_at_any_size_the_tokens_and_the_picture_are_those_of_the_codec_run_by_hand(studio, lively_weights):
    photograph, vae = noise(160), loading.load(packs.read(lively_weights / "tiny"), "cpu").vae
    made = studio.reconstruct("tiny", photograph, "no", size=128)
    seen = fit_square(photograph, 128, 1)
    assert same(made.original, seen)
    with torch.inference_mode():
        z = vae.encode(from_bytes(image_bytes(seen))[None]).latents
        ids = torch.cdist(z[0].flatten(1).T, vae.codebook).argmin(1).view(32, 32)
        painted = vae.decode(vae.codebook[ids].movedim(-1, 0)[None], force_not_quantize=True).sample
    assert len(ids.unique()) > 4
    assert np.array_equal(made.tokens, ids) and same(made.image, to_images(painted)[0])


def test_at_a_larger_size_the_middle_is_what_the_codec_makes_of_the_middle_alone(studio):
    """A token depends on what is around it, not on the picture's size."""
    large, far = noise(128), 6  # tokens: further than the encoder sees
    whole = np.array(studio.reconstruct("tiny", large, "no", size=128).tokens)
    middle = np.array(studio.reconstruct("tiny", large.crop((32, 32, 96, 96)), "no", size=64).tokens)
    assert (whole[8:24, 8:24][far:-far, far:-far] == middle[far:-far, far:-far]).all()
    assert not np.array_equal(whole[8:24, 8:24], middle), "the edge must show, or the test compares nothing"


def test_a_size_that_fits_one_stride_is_refused_by_a_pack_of_another(tmp_path):
    save_codec(tmp_path / "coarse", stride=8)
    save_codec(tmp_path / "fine", stride=2)
    studio = Studio([tmp_path], device="cpu")
    assert {pack.name: pack.stride for pack in studio.packs()} == {"coarse": 8, "fine": 2}
    with pytest.raises(ArgumentError, match="size is 20; it must be a multiple of .* stride, 8, and at most 256"):
        studio.reconstruct("coarse", digit(), size=20)
    assert np.shape(studio.reconstruct("coarse", digit(), size=24).tokens) == (3, 3)
    made = studio.reconstruct("fine", digit(), size=MAX_SIDE)
    assert np.shape(made.tokens) == (128, 128) and studio.decode("fine", made.tokens).size == (MAX_SIDE, MAX_SIDE)


def test_a_file_and_the_picture_in_it_give_the_same_tokens(studio, tmp_path):
    for mode, suffix in (("L", "png"), ("RGB", "png"), ("RGBA", "webp"), ("L", "bmp")):
        digit(mode=mode).save(tmp_path / f"digit.{suffix}", **({"lossless": True} if suffix == "webp" else {}))
        for source in (tmp_path / f"digit.{suffix}", str(tmp_path / f"digit.{suffix}"), digit()):
            assert studio.reconstruct("tiny", source).tokens == studio.reconstruct("tiny", digit()).tokens


def reach(vae, token: int) -> slice:
    """The pixels, along a side, that a token can change: what each layer of the decoder spreads, added up."""
    first = last = token
    for layer in vae.decoder.modules():
        if isinstance(layer, torch.nn.ConvTranspose2d):  # pixel i goes to 2i - 1 … 2i + 2
            first, last = 2 * first - 1, 2 * last + 2
        elif isinstance(layer, torch.nn.Conv2d):
            first, last = first - layer.padding[0], last + layer.padding[0]
    return slice(first, last + 1)


def test_an_edited_token_changes_the_picture_only_within_the_decoders_reach(studio, lively_weights):
    rng, changed = np.random.default_rng(0), np.zeros((64, 64), bool)
    inside = reach(loading.load(packs.read(lively_weights / "tiny"), "cpu").vae, 8)
    assert 0 < inside.start < 32 < inside.stop < 64
    for _ in range(20):
        tokens = rng.integers(0, 16, (16, 16))
        tokens[tokens == 5] = 6
        tokens[8, 8] = 5
        made = studio.replace("tiny", tokens.tolist(), 5, int(rng.integers(0, 5)))
        assert made.places == [(8, 8)]
        changed |= array(made.before) != array(made.after)
    assert changed[32:36, 32:36].all()
    changed[inside, inside] = False
    assert not changed.any()


def test_a_replacement_shows_both_pictures_and_where_they_differ(studio):
    tokens = [[1, 2, 3, 4], [5, 1, 6, 7], [8, 9, 1, 10], [11, 12, 13, 1]]
    made = studio.replace("tiny", tokens, 1, 14)
    expected = [[14 if k == 1 else k for k in row] for row in tokens]
    assert made.tokens == expected and made.places == [(0, 0), (1, 1), (2, 2), (3, 3)]
    assert alike(made.before, studio.decode("tiny", tokens)) and alike(made.after, studio.decode("tiny", expected))
    difference = abs(array(made.before) - array(made.after))
    assert difference.max() > 0 and abs(array(made.difference) - difference).max() <= 1
    json.dumps(made.json())


@pytest.mark.parametrize(("code", "by"), [(1, 1), (15, 2)])
def test_replacing_a_code_by_itself_or_one_that_is_not_there_changes_nothing(studio, code, by):
    made = studio.replace("tiny", [[1, 2], [3, 1]], code, by)
    assert made.tokens == [[1, 2], [3, 1]] and len(made.places) == (2 if code == 1 else 0)
    assert same(made.before, made.after) and array(made.difference).max() == 0


def test_an_interpolation_goes_from_one_reconstruction_to_the_other(studio):
    made = studio.interpolate("tiny", digit(), noise(40), 5, invert="no")
    assert made.shares == [0, 0.25, 0.5, 0.75, 1] and len(made.latent) == len(made.tokens) == 5
    for end, picture in ((0, digit()), (-1, noise(40))):
        rebuilt = studio.reconstruct("tiny", picture, "no").image
        assert alike(made.latent[end], rebuilt) and alike(made.tokens[end], rebuilt)
    for strip in (made.latent, made.tokens):
        far = [abs(array(picture) - array(strip[0])).mean() for picture in strip]
        assert far[0] == 0 and far[1] < far[4]
    large = studio.interpolate("tiny", digit(), noise(40), 2, size=32)
    assert large.latent[0].size == (32, 32)


def test_halfway_token_by_token_half_of_the_tokens_are_the_other_pictures(studio):
    made = studio.interpolate("tiny", digit(), noise(40), 3, invert="no")
    ids = [np.array(studio.reconstruct("tiny", picture, "no").tokens) for picture in (digit(), noise(40))]
    turn = torch.randperm(16, generator=torch.Generator().manual_seed(0)).view(4, 4).numpy()
    mixed = np.where(turn < 8, ids[1], ids[0])
    assert (mixed != ids[0]).any() and (mixed != ids[1]).any()
    assert alike(made.tokens[1], studio.decode("tiny", mixed.tolist()))
