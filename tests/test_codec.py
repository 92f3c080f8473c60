"""What one can ask of a codec, of our own and of diffusers' alike."""

import math

import pytest
import torch
from conftest import tiny_fsq, tiny_vae
from diffusers import VQModel

from mmdemo import codec, data
from mmdemo.images import from_bytes


def diffusers_vae() -> VQModel:
    torch.manual_seed(3)
    return VQModel(
        in_channels=1, out_channels=1, down_block_types=("DownEncoderBlock2D",) * 3,
        up_block_types=("UpDecoderBlock2D",) * 3, block_out_channels=(8, 8, 16), latent_channels=3,
        num_vq_embeddings=16, vq_embed_dim=3, norm_num_groups=4, sample_size=16, scaling_factor=0.5,
    ).eval()  # fmt: skip


@pytest.fixture(params=["ours", "fsq", "diffusers"])
def vae(request):
    if request.param == "fsq":
        return tiny_fsq((4, 2, 2), latent_std=2.0)
    made = tiny_vae(latent_std=2.0) if request.param == "ours" else diffusers_vae()
    x = from_bytes(shapes(40))
    with torch.no_grad():  # codes among the latents, so that several are used
        cells = made.encode(x).latents.movedim(1, -1).flatten(0, 2)
        codes = cells[torch.randperm(len(cells), generator=torch.Generator().manual_seed(0))[:16]]
        (made.codebook if request.param == "ours" else made.quantize.embedding.weight).copy_(codes)
    return made


def shapes(count: int) -> torch.Tensor:
    return data.load("shapes", "test", image_size=16, channels=1).pixels[:count]


@torch.no_grad()
def test_ids_decode_to_what_the_model_itself_reconstructs(vae):
    x = from_bytes(shapes(10))
    ids = codec.encode_ids(vae, x)
    assert ids.shape == (10, 4, 4) and ids.dtype == torch.int64
    assert len(ids.unique()) > 3 and ids.min() >= 0 and ids.max() < 16
    itself = vae.decode(vae.encode(x).latents).sample.clamp(-1, 1)
    assert torch.allclose(codec.decode_ids(vae, ids), itself, atol=1e-5)
    assert torch.allclose(codec.decode(vae, codec.encode(vae, x)), itself, atol=1e-5)


@torch.no_grad()
def test_every_cell_gets_its_nearest_code(vae):
    z = codec.encode(vae, from_bytes(shapes(10)))
    distances = torch.cdist(z.double().movedim(1, -1).flatten(0, 2), codec.codebook(vae).double())
    ids = codec.nearest_ids(vae, z).flatten()
    assert torch.allclose(distances.gather(1, ids[:, None])[:, 0], distances.min(1).values, atol=1e-5)


def test_what_is_asked_about_a_codec_is_the_same_question_for_both(vae):
    assert codec.codebook(vae).shape == (16, 3) and codec.codebook(vae).dtype == torch.float32
    assert codec.stride(vae) == 4
    assert codec.latent_std(vae) == 2.0


@pytest.mark.parametrize("size", [(15, 16), (16, 18)])
def test_a_picture_that_does_not_divide_into_tokens_is_refused(vae, size):
    with pytest.raises(ValueError, match=f"{size[1]}×{size[0]}.*multiples of 4"):
        codec.encode(vae, torch.zeros(1, 1, *size))


def test_pictures_are_clamped(vae):
    vae.decoder.register_forward_hook(lambda module, given, x: 1000 * (x - x.mean()))
    x = codec.decode_ids(vae, torch.arange(16).view(1, 4, 4))
    assert x.min() == -1 and x.max() == 1


def test_perplexity_counts_codes_by_how_evenly_they_are_used():
    assert codec.perplexity(torch.full((50,), 7)) == pytest.approx(50)
    assert codec.perplexity(torch.tensor([0, 9, 0])) == pytest.approx(1)
    assert codec.perplexity(torch.tensor([3, 1])) == pytest.approx(
        math.exp(-0.75 * math.log(0.75) - 0.25 * math.log(0.25))
    )
    counts = torch.randint(0, 20, (30,), generator=torch.Generator().manual_seed(0))
    assert 1 < codec.perplexity(counts) < (counts > 0).sum()
    assert codec.perplexity(counts) == pytest.approx(codec.perplexity(1000 * counts))


@pytest.mark.parametrize(("count", "dim"), [(1, 4), (2, 3), (16, 1), (50, 2), (100, 8)])
def test_the_order_is_a_permutation_in_a_near_square(count, dim):
    codes = torch.randn(count, dim, generator=torch.Generator().manual_seed(1))
    order, columns = codec.similarity_order(codes)
    assert sorted(order) == list(range(count))
    rows = -(-count // columns)
    assert columns >= rows and columns * rows - count < columns
    assert codec.similarity_order(codes.clone()) == (order, columns)


def test_neighbours_in_the_order_are_alike():
    codes = torch.randn(400, 3, generator=torch.Generator().manual_seed(2))
    order, columns = codec.similarity_order(codes)
    placed = codes[order].view(20, 20, 3)
    assert columns == 20
    beside = (placed[:, 1:] - placed[:, :-1]).norm(dim=-1).mean()
    below = (placed[1:] - placed[:-1]).norm(dim=-1).mean()
    at_random = torch.cdist(codes, codes).mean()
    assert beside < 0.8 * at_random and below < 0.8 * at_random
    assert (placed[:, 19] - placed[:, 0]).norm(dim=-1).mean() > 1.2 * beside


def test_quality_is_the_textbooks():
    a = torch.randint(0, 256, (3, 1, 16, 16), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    b = (a.int() + torch.randint(-9, 10, a.shape, generator=torch.Generator().manual_seed(1))).clamp(0, 255).byte()
    psnr, ssim = codec.quality(a, b)
    error = (a.double() - b.double()).square().mean()
    assert psnr == pytest.approx(float(10 * torch.log10(255**2 / error)), abs=1e-3)
    assert 0.9 < ssim < 1
    same = codec.quality(a, a)
    assert same[0] == 100 and same[1] == pytest.approx(1, abs=1e-5)
    assert codec.quality(a, 255 - a)[1] < ssim


def test_counts_are_those_of_brute_force(vae):
    pixels = shapes(50)
    found = codec.statistics(vae, pixels, batch_size=7)
    counts = [0] * 16
    for picture in pixels:
        for row in codec.encode_ids(vae, from_bytes(picture[None]))[0].tolist():
            for k in row:
                counts[k] += 1
    assert found.counts.tolist() == counts and sum(counts) == 50 * 16
    assert torch.allclose(found.latents, codec.encode(vae, from_bytes(pixels)).float(), atol=1e-5)
    assert found.latent_std == pytest.approx(float(found.latents.double().std()), rel=1e-4)


def test_patches_are_crops_of_the_data_at_places_where_their_code_occurs(vae):
    pixels = shapes(60)
    found = codec.statistics(vae, pixels)
    ids = codec.encode_ids(vae, from_bytes(pixels))
    stride, side = 4, 4 * (2 * codec.CONTEXT + 1)
    assert found.patches.shape == (16, codec.PATCHES_PER_CODE, 1, side, side) and found.patches.dtype == torch.uint8
    margin = codec.CONTEXT * stride
    crops = {k: set() for k in range(16)}
    pictures = {k: set() for k in range(16)}
    for n in range(60):
        framed = torch.zeros(16 + 2 * margin, 16 + 2 * margin, dtype=torch.uint8)  # black beyond the picture's edge
        framed[margin:-margin, margin:-margin] = pixels[n, 0]
        for row in range(4):
            for column in range(4):
                k = int(ids[n, row, column])
                crop = framed[row * stride : row * stride + side, column * stride : column * stride + side]
                crops[k].add(bytes(crop.flatten().tolist()))
                pictures[k].add(n)
    for k in range(16):
        shown = min(len(pictures[k]), codec.PATCHES_PER_CODE)
        patches = [bytes(patch.flatten().tolist()) for patch in found.patches[k]]
        assert all(patch in crops[k] for patch in patches[:shown])
        assert all(not any(patch) for patch in patches[shown:])
    assert sum(len(used) > 1 for used in pictures.values()) > 5


def test_a_swatch_is_what_the_decoder_paints_for_its_code_on_average(vae):
    pixels = shapes(30)
    unused = 5
    if getattr(vae, "quantizer", None) and vae.config.quantizer == "fsq":  # its codes cannot be put elsewhere
        unused = int((codec.statistics(vae, pixels).counts == 0).nonzero()[0])
    else:
        with torch.no_grad():  # no latent comes near this code
            codes = vae.codebook if hasattr(vae, "codebook") else vae.quantize.embedding.weight
            codes[unused] = 1e3
    found = codec.statistics(vae, pixels, batch_size=7)
    ids = codec.encode_ids(vae, from_bytes(pixels))
    painted = codec.decode_ids(vae, ids)
    side, margin = 4 * (2 * codec.CONTEXT + 1), 4 * codec.CONTEXT
    framed = torch.full((30, 1, 16 + 2 * margin, 16 + 2 * margin), -1.0)  # black beyond the picture's edge
    framed[..., margin:-margin, margin:-margin] = painted
    assert found.swatches.shape == (16, 1, side, side) and found.counts[unused] == 0
    for k in found.counts.nonzero().flatten().tolist():
        places = (ids == k).nonzero().tolist()
        crops = [framed[n, :, 4 * row : 4 * row + side, 4 * column : 4 * column + side] for n, row, column in places]
        assert torch.allclose(found.swatches[k], torch.stack(crops).mean(0), atol=1e-4)
    alone = codec.decode_ids(vae, torch.full((1, 3, 3), unused))[0]
    assert torch.allclose(found.swatches[unused], alone, atol=1e-4), "a code that was never used is painted alone"


def test_statistics_do_not_touch_the_global_generator(vae):
    state = torch.get_rng_state()
    codec.statistics(vae, shapes(5))
    assert torch.equal(torch.get_rng_state(), state)
