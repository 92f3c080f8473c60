"""What one can ask of a codec: latents, token ids and pictures, and statistics of its codebook.

Works on our VQVAE and on diffusers' VQModel alike, because both encode to latents that are not yet quantized and both
snap them when they decode. It knows tensors; not packs or files. K: codes, d: numbers in a code.
"""

from dataclasses import dataclass
from math import ceil, sqrt

import torch
from torch import Tensor, nn

from mmdemo.images import from_bytes

PATCHES_PER_CODE = 8
CONTEXT = 1  # tokens around the middle one in a patch or swatch, so that a stroke can be recognized


def codebook(vae: nn.Module) -> Tensor:
    """The codes, (K, d) float32."""
    codes = vae.codebook if hasattr(vae, "codebook") else vae.quantize.embedding.weight
    return codes.detach().float()


def stride(vae: nn.Module) -> int:
    """Pixels that a token covers in each direction."""
    return vae.config.stride if "stride" in vae.config else 2 ** (len(vae.config.block_out_channels) - 1)


def latent_std(vae: nn.Module) -> float:
    """What diffusion divides the latents by. VQModel's scaling_factor multiplies, so it is one over that."""
    return vae.config.latent_std if "latent_std" in vae.config else 1 / vae.config.scaling_factor


@torch.inference_mode()
def encode(vae: nn.Module, x: Tensor) -> Tensor:
    """x: (B, C, H, W) in [-1, 1] -> z_e (B, d, h, w).  Raises ValueError unless H and W are multiples of the stride."""
    if x.shape[-1] % stride(vae) or x.shape[-2] % stride(vae):
        raise ValueError(f"picture is {x.shape[-1]}×{x.shape[-2]}; both sides must be multiples of {stride(vae)}")
    return vae.encode(x.to(vae.device, vae.dtype)).latents


@torch.inference_mode()
def nearest_ids(vae: nn.Module, z: Tensor) -> Tensor:
    """Id of the nearest code for every latent cell (arXiv:1711.00937, eq. 1): (B, d, h, w) -> (B, h, w) int64."""
    e = codebook(vae)
    flat = z.float().movedim(1, -1)
    return (e.square().sum(1) - 2 * flat @ e.T).argmin(-1)


def encode_ids(vae: nn.Module, x: Tensor) -> Tensor:
    """x: (B, C, H, W) in [-1, 1] -> token ids (B, h, w) int64 in [0, K)."""
    return nearest_ids(vae, encode(vae, x))


@torch.inference_mode()
def decode(vae: nn.Module, z: Tensor) -> Tensor:
    """Latents, snapped to their nearest codes, as pictures: (B, d, h, w) -> (B, C, H, W) clamped to [-1, 1]."""
    return vae.decode(z.to(vae.device, vae.dtype)).sample.float().clamp(-1, 1)


def decode_ids(vae: nn.Module, ids: Tensor) -> Tensor:
    """Token ids (B, h, w) as pictures (B, C, H, W) in [-1, 1]."""
    return decode(vae, codebook(vae)[ids.to(vae.device)].movedim(-1, 1))


def similarity_order(codes: Tensor) -> tuple[list[int], int]:
    """An arrangement of the codes in a near-square grid in which neighbours are alike, and its number of columns.

    Rows follow the first principal component, columns the second. codes: (K, d).
    """
    columns = ceil(sqrt(len(codes)))
    centred = (codes - codes.mean(0)).double()
    components = torch.linalg.svd(centred, full_matrices=False).Vh[:2]  # (≤2, d)
    # An SVD's signs are arbitrary: make the largest number of each component positive, so that the order is stable.
    components = components * components.gather(1, components.abs().argmax(1, keepdim=True)).sign()
    places = centred @ components.T  # (K, ≤2)
    rows = places[:, 0].argsort(stable=True).split(columns)
    return [int(k) for row in rows for k in row[places[row, -1].argsort(stable=True)]], columns


def perplexity(counts: Tensor) -> float:
    """exp of the entropy of how often codes are used: K if all alike, 1 if only one is used.  counts: (K,)."""
    p = counts.double() / counts.sum().clamp(min=1)
    return float(torch.special.entr(p).sum().exp())


def swatches(vae: nn.Module, background: int) -> Tensor:
    """Every code as the decoder paints it amid the `background` code: (K, C, s, s), s = stride · (2 CONTEXT + 1)."""
    count, side, p = len(codebook(vae)), 2 * CONTEXT + 5, stride(vae)
    ids = torch.full((count, side, side), background)
    ids[:, side // 2, side // 2] = torch.arange(count)
    painted = torch.cat([decode_ids(vae, part) for part in ids.split(64)])
    return painted[..., 2 * p : -2 * p, 2 * p : -2 * p]  # without the border, where padding shows


def quality(a: Tensor, b: Tensor) -> tuple[float, float]:
    """PSNR in dB (at most 100) and SSIM between two sets of uint8 pictures (B, C, H, W)."""
    from torchmetrics.functional.image import peak_signal_noise_ratio, structural_similarity_index_measure

    a, b = a.float() / 255, b.float() / 255
    psnr = float(peak_signal_noise_ratio(a, b, data_range=1.0))
    return min(psnr, 100.0), float(structural_similarity_index_measure(a, b, data_range=1.0))


@dataclass(frozen=True)
class CodebookStatistics:
    """How a data set uses a codebook."""

    latents: Tensor  # (N, d, h, w) float32 z_e of every picture
    latent_std: float
    counts: Tensor  # (K,) int64, uses of every code
    patches: Tensor  # (K, PATCHES_PER_CODE, C, s, s) uint8: places where it was used; black where there were fewer


def statistics(vae: nn.Module, pixels: Tensor, batch_size: int = 256, seed: int = 0) -> CodebookStatistics:
    """One pass over a data set.  pixels: (N, C, H, W) uint8."""
    latents = torch.cat([encode(vae, from_bytes(part)).float().cpu() for part in pixels.split(batch_size)])
    ids = torch.cat([nearest_ids(vae, part.to(vae.device)).cpu() for part in latents.split(batch_size)])  # (N, h, w)
    counts = ids.flatten().bincount(minlength=len(codebook(vae)))
    patches = _patches(pixels, ids, len(counts), stride(vae), torch.Generator().manual_seed(seed))
    return CodebookStatistics(latents, float(latents.std()), counts, patches)


def _patches(pixels: Tensor, ids: Tensor, count: int, p: int, rng: torch.Generator) -> Tensor:
    channels, side = pixels.shape[1], p * (2 * CONTEXT + 1)
    patches = torch.zeros(count, PATCHES_PER_CODE, channels, side, side, dtype=torch.uint8)
    found = torch.zeros(count, dtype=torch.long)
    margin = CONTEXT * p
    for n in torch.randperm(len(pixels), generator=rng)[:20_000].tolist():
        missing = (found[ids[n]] < PATCHES_PER_CODE).nonzero().tolist()
        if not missing:
            continue
        padded = torch.nn.functional.pad(pixels[n], (margin,) * 4)
        for code, (row, column) in {int(ids[n, row, column]): (row, column) for row, column in missing}.items():
            patches[code, found[code]] = padded[:, row * p : row * p + side, column * p : column * p + side]
            found[code] += 1
    return patches
