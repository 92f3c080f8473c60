"""What one can ask of a codec: latents, token ids and pictures, and statistics of its codebook.

Works on our VQVAE and on diffusers' VQModel alike, because both encode to latents that are not yet quantized and both
snap them when they decode; and on AutoencoderKL, whose latents are never snapped, as far as one can ask it. It knows
tensors; not packs or files. K: codes, d: numbers in a code.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from math import ceil, sqrt

import torch
from torch import Tensor, nn

from mmdemo.errors import NO_CODEBOOK, PackError
from mmdemo.images import from_bytes
from mmdemo.models.quantizer import nearest

PATCHES_PER_CODE = 8
COMPONENTS = 16  # principal components by which codes are compared when they are arranged
CONTEXT = 1  # tokens around the middle one in a patch or swatch, so that a stroke can be recognized


def has_codebook(vae: nn.Module) -> bool:
    return hasattr(vae, "codebook") or hasattr(vae, "quantize")


def codebook(vae: nn.Module) -> Tensor:
    """The codes, (K, d) float32.  Raises PackError for a codec without any; so does whatever needs them below."""
    if not has_codebook(vae):
        raise PackError(NO_CODEBOOK)
    codes = vae.codebook if hasattr(vae, "codebook") else vae.quantize.embedding.weight
    return codes.detach().float()


def stride(vae: nn.Module) -> int:
    """Pixels that a token covers in each direction."""
    return vae.config.stride if "stride" in vae.config else 2 ** (len(vae.config.block_out_channels) - 1)


def latent_std(vae: nn.Module) -> float:
    """What diffusion divides the latents by. diffusers' scaling_factor multiplies, so it is one over that."""
    return vae.config.latent_std if "latent_std" in vae.config else 1 / vae.config.scaling_factor


@torch.inference_mode()
def encode(vae: nn.Module, x: Tensor) -> Tensor:
    """x: (B, C, H, W) in [-1, 1] -> z_e (B, d, h, w), of a distribution its mean, about zero.

    Raises ValueError unless H and W are multiples of the stride.
    """
    if x.shape[-1] % stride(vae) or x.shape[-2] % stride(vae):
        raise ValueError(f"picture is {x.shape[-1]}×{x.shape[-2]}; both sides must be multiples of {stride(vae)}")
    encoded = vae.encode(_moved(vae, x))
    return encoded.latents if has_codebook(vae) else encoded.latent_dist.mean - _shift(vae)


@torch.inference_mode()
def nearest_ids(vae: nn.Module, z: Tensor) -> Tensor:
    """Id of the nearest code for every latent cell (arXiv:1711.00937, eq. 1): (B, d, h, w) -> (B, h, w) int64."""
    if hasattr(vae, "codebook"):  # ours, which may have a shorter way than comparing all codes
        return vae.quantize(z)[1]
    return nearest(codebook(vae), z.float().movedim(1, -1))


@torch.inference_mode()
def distance(vae: nn.Module, z: Tensor, ids: Tensor) -> float:
    """How far latents are from codes: the mean Euclidean distance over all cells.  z: (B, d, h, w), ids: (B, h, w)."""
    return float((z.float() - codebook(vae)[ids].movedim(-1, 1)).norm(dim=1).mean())


def encode_ids(vae: nn.Module, x: Tensor) -> Tensor:
    """x: (B, C, H, W) in [-1, 1] -> token ids (B, h, w) int64 in [0, K)."""
    return nearest_ids(vae, encode(vae, x))


@torch.inference_mode()
def decode(vae: nn.Module, z: Tensor) -> Tensor:
    """Latents, snapped to their nearest codes if there are any, as pictures: (B, d, h, w) -> (B, C, H, W) clamped to
    [-1, 1]."""
    return vae.decode(_moved(vae, z + _shift(vae))).sample.float().clamp(-1, 1)


def paint(vae: nn.Module, z: Tensor) -> Tensor:
    """The same without snapping or clamping, so that a gradient finds its way from the picture to the latents."""
    smooth = {"force_not_quantize": True} if has_codebook(vae) else {}
    return vae.decode(_moved(vae, z + _shift(vae)), **smooth).sample.float()


def _moved(vae: nn.Module, x: Tensor) -> Tensor:
    """Where and in the precision in which the codec takes it. Its `device` would look through every module."""
    return x.to(next(vae.parameters()))


def _shift(vae: nn.Module) -> float:
    """The middle of the latents as the model has them."""
    return vae.config.get("shift_factor") or 0.0


def decode_ids(vae: nn.Module, ids: Tensor) -> Tensor:
    """Token ids (B, h, w) as pictures (B, C, H, W) in [-1, 1]."""
    return decode(vae, codebook(vae)[ids.to(vae.device)].movedim(-1, 1))


def similarity_order(features: Tensor, sweeps: int = 30) -> tuple[list[int], int]:
    """An arrangement in a near-square grid in which neighbours are alike, and its number of columns.

    features: (K, n), what to compare codes by.  Returns the codes row by row.  A self-sorting map (Strong & Gong,
    IEEE Trans. Multimedia 2014): from rows by the first principal component and columns by the second, pairs of places
    trade their codes wherever both then resemble their surroundings more, which shrink from the grid to the next cell.
    """
    count, columns = len(features), ceil(sqrt(len(features)))
    rows = ceil(count / columns)
    centred = (features - features.mean(0)).double()
    components = torch.linalg.svd(centred, full_matrices=False).Vh[:COMPONENTS]
    # An SVD's signs are arbitrary: make the largest number of each component positive, so that the order is stable.
    components = components * components.gather(1, components.abs().argmax(1, keepdim=True)).sign()
    places = centred @ components.T  # (K, COMPONENTS at most): nearly all there is to compare
    by_row = places[:, 0].argsort(stable=True).split(columns)
    order = torch.cat([row[places[row, -1].argsort(stable=True)] for row in by_row])
    rng = torch.Generator().manual_seed(0)
    empty = places.new_zeros(rows * columns - count, places.shape[1])
    for radius in [r for r in range(columns // 2, 0, -1) for _ in range(sweeps)]:
        grid = torch.cat([places[order], empty]).T.view(-1, rows, columns)
        around = _means(rows, radius) @ grid @ _means(columns, radius).T  # over squares of 2 radius + 1 cells
        around = around.flatten(1).T  # (rows · columns, COMPONENTS)
        shuffled = torch.randperm(count, generator=rng)
        a, b = shuffled[: count // 2], shuffled[count // 2 : count // 2 * 2]
        gain = ((places[order[a]] - places[order[b]]) * (around[a] - around[b])).sum(1)
        traded = gain < 0  # |f_a - s_a|² + |f_b - s_b|² exceeds |f_b - s_a|² + |f_a - s_b|²
        order[a[traded]], order[b[traded]] = order[b[traded]], order[a[traded]]
    return order.tolist(), columns


@lru_cache
def _means(n: int, radius: int) -> Tensor:
    """(n, n): multiplied with n numbers, it gives for each the mean of those at most `radius` places away."""
    near = (torch.arange(n)[:, None] - torch.arange(n)).abs() <= radius
    return near.double() / near.sum(1, keepdim=True)


def perplexity(counts: Tensor) -> float:
    """exp of the entropy of how often codes are used: K if all alike, 1 if only one is used.  counts: (K,)."""
    p = counts.double() / counts.sum().clamp(min=1)
    return float(torch.special.entr(p).sum().exp())


def quality(a: Tensor, b: Tensor) -> tuple[float, float]:
    """PSNR in dB (at most 100) and SSIM between two sets of uint8 pictures (B, C, H, W)."""
    from torchmetrics.functional.image import peak_signal_noise_ratio, structural_similarity_index_measure

    a, b = a.float() / 255, b.float() / 255
    psnr = float(peak_signal_noise_ratio(a, b, data_range=1.0))
    return min(psnr, 100.0), float(structural_similarity_index_measure(a, b, data_range=1.0))


@dataclass(frozen=True)
class CodebookStatistics:
    """How a data set uses a codebook.  s = stride · (2 CONTEXT + 1): a token's cell amid its surroundings."""

    latents: Tensor  # (N, d, h, w) float32 z_e of every picture, where `statistics` was told to put them
    latent_std: float
    counts: Tensor  # (K,) int64, uses of every code
    swatches: Tensor  # (K, C, s, s) float in [-1, 1], what the decoder paints for a code, the mean over its uses
    patches: Tensor  # (K, PATCHES_PER_CODE, C, s, s) uint8: pictures where it was used; black where there were fewer


def encode_all(
    vae: nn.Module,
    pixels: Tensor,  # (N, C, H, W) uint8
    empty: Callable[[tuple[int, ...]], Tensor] = torch.empty,  # of that shape: in memory, or elsewhere
    mirrored: bool = False,
    batch_size: int = 256,
) -> Tensor:
    """A whole data set's latents, (N, d, h, w) float32, in what `empty` gives for them."""
    latents = None
    for start in range(0, len(pixels), batch_size):
        part = pixels[start : start + batch_size]
        z = encode(vae, from_bytes(part.flip(-1) if mirrored else part))
        if latents is None:
            latents = empty((len(pixels), *z.shape[1:]))
        latents[start : start + len(z)] = z
    return latents


def statistics(
    vae: nn.Module,
    pixels: Tensor,  # (N, C, H, W) uint8
    empty: Callable[[tuple[int, ...]], Tensor] = torch.empty,  # as for encode_all
    batch_size: int = 256,
    seed: int = 0,
) -> CodebookStatistics:
    """One pass over a data set."""
    count, p = len(codebook(vae)), stride(vae)
    latents = encode_all(vae, pixels, empty, batch_size=batch_size)
    ids = torch.empty(len(latents), *latents.shape[2:], dtype=torch.int32)  # half of int64: there may be millions
    counts = torch.zeros(count, dtype=torch.int64)
    for part, out in zip(latents.split(batch_size), ids.split(batch_size), strict=True):
        out.copy_(nearest_ids(vae, part.to(vae.device)))
        counts += out.flatten().bincount(minlength=count)

    # A code that was never used is painted alone.
    alone = decode_ids(vae, torch.arange(count).view(-1, 1, 1).expand(-1, 2 * CONTEXT + 1, 2 * CONTEXT + 1)).cpu()
    painted = torch.zeros_like(alone)
    for part in ids.split(batch_size):
        painted.index_add_(0, part.flatten(), _surroundings(decode_ids(vae, part.long()).cpu(), p))
    swatches = torch.where((counts > 0)[:, None, None, None], painted / counts.clamp(min=1)[:, None, None, None], alone)

    patches = _patches(pixels, ids, count, p, torch.Generator().manual_seed(seed))
    return CodebookStatistics(latents, float(latents.std()), counts, swatches, patches)


def _surroundings(x: Tensor, p: int) -> Tensor:
    """(B, C, H, W) -> (B h w, C, s, s): every token's cell with what is around it, black beyond the picture's edge."""
    side = p * (2 * CONTEXT + 1)
    padded = torch.nn.functional.pad(x, (CONTEXT * p,) * 4, value=-1.0)
    cells = torch.nn.functional.unfold(padded, side, stride=p)  # (B, C s s, h w)
    return cells.mT.reshape(-1, x.shape[1], side, side)


def _patches(pixels: Tensor, ids: Tensor, count: int, p: int, rng: torch.Generator) -> Tensor:
    """Up to PATCHES_PER_CODE pieces of real pictures for every code, no two of a code from one picture."""
    channels, side, margin = pixels.shape[1], p * (2 * CONTEXT + 1), CONTEXT * p
    patches = torch.zeros(count, PATCHES_PER_CODE, channels, side, side, dtype=torch.uint8)
    found = torch.zeros(count, dtype=torch.long)
    for n in torch.randperm(len(pixels), generator=rng).tolist():
        missing = (found[ids[n]] < PATCHES_PER_CODE).nonzero().tolist()
        if not missing:
            continue
        padded = torch.nn.functional.pad(pixels[n], (margin,) * 4)
        for code, (row, column) in {int(ids[n, row, column]): (row, column) for row, column in missing}.items():
            patches[code, found[code]] = padded[:, row * p : row * p + side, column * p : column * p + side]
            found[code] += 1
    return patches
