"""The VQ-VAE: nearest codes by either quantizer, straight-through gradients, any size of picture."""

import math

import pytest
import torch
from conftest import tiny_fsq, tiny_vae
from torch import Tensor

from mmdemo.models.quantizer import FiniteScalarQuantizer, nearest
from mmdemo.models.vqvae import VQVAE


def distances_to_codes(z: Tensor, codes: Tensor) -> Tensor:
    """(B, d, h, w) and (K, d) -> (B, h, w, K), cell by cell and in float64: slow, and beyond doubt."""
    cells = z.double().movedim(1, -1)[..., None, :]
    return (cells - codes.double()).square().sum(-1)


@pytest.mark.parametrize("scale", [0.01, 1.0, 30.0])
def test_quantizer_picks_the_nearest_code(scale):
    vae = tiny_vae(num_codes=64, latent_channels=5)
    z = scale * torch.randn(3, 5, 4, 6, generator=torch.Generator().manual_seed(1))
    z_q, ids = vae.quantize(z)
    distances = distances_to_codes(z, vae.codebook)
    taken = distances.gather(-1, ids[..., None])[..., 0]
    assert ids.shape == (3, 4, 6) and ids.dtype == torch.int64
    assert torch.allclose(taken, distances.min(-1).values, rtol=1e-5, atol=1e-6)
    assert torch.equal(z_q, vae.codebook[ids].movedim(-1, 1))
    assert len(ids.unique()) > 1


@pytest.mark.parametrize("codes", [1, 7, 96, 4096])
def test_of_codes_as_near_as_each_other_the_first_is_taken(codes):
    e = torch.randint(3, (codes, 2), generator=torch.Generator().manual_seed(0)).float()
    z = torch.randint(3, (500, 2), generator=torch.Generator().manual_seed(1)).float()
    distances = (z[:, None] - e).square().sum(-1)  # whole numbers, many of them equal
    assert nearest(e, z).tolist() == [row.index(min(row)) for row in distances.tolist()]


def test_a_code_is_its_own_nearest():
    vae = tiny_vae(num_codes=16)
    z = vae.codebook.detach().T.reshape(1, 3, 4, 4)
    assert torch.equal(vae.quantize(z)[1].flatten(), torch.arange(16))


def test_quantizer_computes_in_float32_under_bfloat16_autocast():
    vae = tiny_vae(num_codes=64, latent_channels=4)
    rng = torch.Generator().manual_seed(3)
    vae.codebook.data = 1 + 1e-3 * torch.randn(64, 4, generator=rng)  # alike: bfloat16 cannot tell them apart
    z = 1 + 1e-3 * torch.randn(2, 4, 8, 8, generator=rng)
    nearest = distances_to_codes(z, vae.codebook).argmin(-1)
    in_bfloat16 = distances_to_codes(z.bfloat16(), vae.codebook.bfloat16()).argmin(-1)
    assert (in_bfloat16 != nearest).float().mean() > 0.5, "the codes are too far apart for this test to tell"
    with torch.autocast("cpu", dtype=torch.bfloat16):
        z_q, ids = vae.quantize(z)
        out = vae(torch.zeros(1, 1, 16, 16))
    assert z_q.dtype == out.codes.dtype == torch.float32
    # Codes this alike can tie in float32 too, so what counts is that the code taken is as near as the nearest.
    distances = distances_to_codes(z, vae.codebook)
    assert torch.allclose(distances.gather(-1, ids[..., None])[..., 0], distances.min(-1).values, atol=2e-6)


def test_the_gradient_passes_straight_through_the_quantizer():
    vae = tiny_vae()
    seen = []
    vae.encoder.register_forward_hook(lambda module, given, z: (z.retain_grad(), seen.append(z))[0])
    x = torch.randn(2, 1, 16, 16)
    out = vae(x)
    assert not torch.allclose(out.latents, out.codes, atol=1e-3), "the quantizer changed nothing"
    out.sample.square().sum().backward()
    z_q = out.codes.detach().requires_grad_()
    vae.decode(z_q, force_not_quantize=True).sample.square().sum().backward()
    assert torch.allclose(seen[0].grad, z_q.grad, rtol=1e-3, atol=1e-6)
    assert all(weight.grad.abs().sum() > 0 for weight in vae.encoder.parameters())


def test_no_gradient_reaches_the_codebook():
    vae = tiny_vae()
    out = vae(torch.randn(1, 1, 16, 16))
    assert not vae.codebook.requires_grad and not out.codes.requires_grad
    assert out.latents.requires_grad and out.sample.requires_grad


@pytest.mark.parametrize("stride", [2, 4, 8])
@pytest.mark.parametrize(("height", "width"), [(8, 8), (16, 24), (40, 8)])
@pytest.mark.parametrize("channels", [1, 3])
def test_pictures_of_any_size_become_grids_and_pictures_again(stride, height, width, channels):
    vae = tiny_vae(stride=stride, in_channels=channels, latent_channels=5)
    x = torch.randn(2, channels, height, width)
    z = vae.encode(x).latents
    assert z.shape == (2, 5, height // stride, width // stride)
    assert vae.decode(z).sample.shape == x.shape
    out = vae(x)
    assert out.sample.shape == x.shape and out.ids.shape == (2, height // stride, width // stride)


def test_far_away_pixels_do_not_change_a_token():
    """Fully convolutional: what a cell sees ends a few cells away, so the picture's size does not matter to it."""
    vae = tiny_vae(num_res_blocks=1)
    small = torch.randn(1, 1, 32, 32)
    large = torch.randn(1, 1, 32, 64)
    large[..., :32] = small
    a, b = vae.encode(small).latents, vae.encode(large).latents
    assert torch.allclose(a[..., :4], b[..., :4], atol=1e-5)
    assert not torch.allclose(a[..., -1], b[..., 7], atol=1e-3)


@torch.no_grad()
def test_decode_snaps_to_the_nearest_codes_unless_told_not_to():
    vae = tiny_vae()
    z = torch.randn(2, 3, 4, 4)
    snapped = vae.quantize(z)[0]
    assert torch.equal(vae.decode(z).sample, vae.decode(snapped).sample)
    assert torch.equal(vae.decode(snapped, force_not_quantize=True).sample, vae.decode(snapped).sample)
    assert not torch.allclose(vae.decode(z, force_not_quantize=True).sample, vae.decode(z).sample, atol=1e-3)


@torch.no_grad()
def test_forward_is_encode_quantize_decode():
    vae = tiny_vae()
    x = torch.randn(2, 1, 16, 16)
    out = vae(x)
    assert torch.allclose(out.sample, vae.decode(vae.encode(x).latents).sample, atol=1e-5)


@torch.no_grad()
def test_without_return_dict_the_answers_are_tuples_as_in_diffusers():
    vae = tiny_vae()
    x = torch.randn(1, 1, 16, 16)
    (z,) = vae.encode(x, return_dict=False)
    (sample,) = vae.decode(z, return_dict=False)
    assert torch.equal(z, vae.encode(x).latents) and torch.equal(sample, vae.decode(z).sample)


@pytest.mark.parametrize("stride", [1, 3, 6, 0, -4])
def test_a_stride_that_is_no_power_of_two_is_refused_by_name(stride):
    with pytest.raises(ValueError, match=f"stride is {stride}; it must be .*power of two"):
        VQVAE(stride=stride)


@torch.no_grad()
def test_saved_and_loaded_it_is_the_same_model(tmp_path):
    vae = tiny_vae()
    vae.register_to_config(latent_std=0.75)
    vae.save_pretrained(tmp_path)
    loaded = VQVAE.from_pretrained(tmp_path, use_safetensors=True)
    x = torch.randn(1, 1, 16, 16)
    assert loaded.config.latent_std == 0.75
    assert torch.equal(loaded(x).sample, vae(x).sample)


# ------------------------------------------------------------------------------------------ finite scalar quantization

GRIDS = [(8, 5, 5, 5), (7, 5, 5, 5, 5), (2, 3), (256,), (4, 4)]


@pytest.mark.parametrize("levels", GRIDS)
def test_a_grid_holds_every_combination_of_levels_once_evenly_from_minus_1_to_1(levels):
    codes = FiniteScalarQuantizer(levels).codebook()
    assert codes.shape == (math.prod(levels), len(levels)) and len(codes.unique(dim=0)) == len(codes)
    for i, count in enumerate(levels):
        assert torch.allclose(codes[:, i].unique(), torch.linspace(-1, 1, count), atol=1e-6)


@pytest.mark.parametrize("levels", GRIDS)
@pytest.mark.parametrize("stored", [torch.float32, torch.float16])
def test_rounding_finds_the_nearest_code_of_the_stored_grid(levels, stored):
    """Beyond the grid too, where a transformer's guesses may lie; in half precision for all but a hair's breadth."""
    quantizer = FiniteScalarQuantizer(levels)
    codes = quantizer.codebook().to(stored).float()
    z = 3 * torch.rand(5000, len(levels), generator=torch.Generator().manual_seed(0)) - 1.5
    ids, found = quantizer.ids(codes, z), nearest(codes, z)
    assert ids.dtype == torch.int64 and 0 <= ids.min() and ids.max() < len(codes)
    further = (z - codes[ids]).norm(dim=1) - (z - codes[found]).norm(dim=1)
    assert further.max() < 1e-3, "a nearer code was passed over"
    assert (ids == found).float().mean() > 0.98
    assert torch.equal(quantizer.ids(codes, codes), torch.arange(len(codes))), "a code is not its own nearest"


@torch.no_grad()
def test_the_latents_of_fsq_are_bounded_and_its_codes_are_the_rounded_ones():
    vae = tiny_fsq((4, 3, 2))
    out = vae(3 * torch.randn(2, 1, 16, 16))
    assert out.latents.abs().max() <= 1 and out.ids.unique().numel() > 3
    assert torch.equal(out.codes, vae.codebook[out.ids].movedim(-1, 1))
    assert ((out.latents - out.codes).abs().amax((0, 2, 3)) <= 1 / (torch.tensor([4, 3, 2]) - 1) + 1e-6).all()
    assert torch.allclose(out.sample, vae.decode(out.latents).sample, atol=1e-5)


def test_the_gradient_passes_through_the_rounding_as_if_only_the_bound_were_there():
    vae = tiny_fsq((4, 3, 2))
    seen = []
    vae.encoder.register_forward_hook(lambda module, given, z: (z.retain_grad(), seen.append(z))[0])
    out = vae(torch.randn(2, 1, 16, 16))
    assert not torch.allclose(out.latents, out.codes, atol=1e-3), "the quantizer changed nothing"
    out.sample.square().sum().backward()
    z_q = out.codes.detach().requires_grad_()
    vae.decode(z_q, force_not_quantize=True).sample.square().sum().backward()
    slope = 1 - out.latents.detach().square()  # of tanh
    assert torch.allclose(seen[0].grad, z_q.grad * slope, rtol=1e-3, atol=1e-6)
    assert vae.codebook.grad is None


@torch.no_grad()
def test_fsq_saved_in_half_precision_and_loaded_gives_the_same_tokens(tmp_path):
    vae = tiny_fsq((8, 5, 5, 5))
    vae.half().save_pretrained(tmp_path)
    loaded = VQVAE.from_pretrained(tmp_path, use_safetensors=True, dtype=torch.float32)
    assert list(loaded.config.levels) == [8, 5, 5, 5]
    ids = torch.arange(1000).view(1, 25, 40)
    assert torch.equal(loaded.quantize(loaded.codebook[ids].movedim(-1, 1))[1], ids)
    x = torch.randn(4, 1, 16, 16)
    assert torch.equal(loaded(x).ids, vae.float()(x).ids)


@pytest.mark.parametrize(
    ("options", "said"),
    [({"quantizer": "fsq"}, "levels None"), ({"levels": (4, 4)}, "'vq' with"), ({"quantizer": "lfq"}, "'lfq'"),
     ({"quantizer": "fsq", "levels": (4, 4), "num_codes": 17, "latent_channels": 2}, "17 codes"),
     ({"quantizer": "fsq", "levels": (4, 4), "num_codes": 16, "latent_channels": 3}, "3 numbers"),
     ({"quantizer": "fsq", "levels": (1, 4), "num_codes": 4, "latent_channels": 2}, "2 or more")],
)  # fmt: skip
def test_a_quantizer_that_does_not_fit_its_codes_is_refused(options, said):
    with pytest.raises(ValueError, match=said):
        tiny_vae(**options)
