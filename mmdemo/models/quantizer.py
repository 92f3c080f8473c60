"""Two quantizers: from latents of d numbers to K codes. They know tensors; not encoders, or how codes are learned.

A quantizer makes the codebook a model starts with, bounds what the encoder gives, and names the code for every latent.
With both that is the nearest code, so whatever reads latents and (K, d) codes reads either's. The model owns the codes,
and hands them back where a quantizer asks for `e`.
"""

from collections.abc import Sequence
from math import gcd, prod

import torch
from torch import Tensor

# Computed at a time: on a processor they stay in its cache, and their memory with the program from one picture to the
# next: what is larger the system takes back, and gives again page by page.
DISTANCES = {"cpu": 2**18, "cuda": 2**28}


class VectorQuantizer:
    """Codes anywhere, which training moves.  Source: VQ-VAE, arXiv:1711.00937.  num_codes: K, dim: d."""

    def __init__(self, num_codes: int, dim: int):
        self.num_codes, self.dim = num_codes, dim

    def codebook(self) -> Tensor:
        """Random codes to start from, (K, d)."""
        return torch.randn(self.num_codes, self.dim)

    def bound(self, z: Tensor) -> Tensor:
        """Latents as the encoder gave them: there are no bounds."""
        return z

    def ids(self, e: Tensor, z: Tensor) -> Tensor:
        """Nearest codes (eq. 1).  e: (K, d), z: (..., d), both float32 -> (...) int64 in [0, K)."""
        return nearest(e, z)


class FiniteScalarQuantizer:
    """Codes on a fixed grid: number i of a latent is rounded to one of L_i levels, spaced evenly over [-1, 1].

    levels: L_1 … L_d, each at least 2; K is their product.  Source: FSQ, arXiv:2309.15505, section 3.1.  For an even L
    the paper shifts z so that zero falls on a level; here levels lie symmetric about zero, as diffusion likes its data,
    and the encoder's last bias is free to shift them.  Raises ValueError for less than 2 levels.
    """

    def __init__(self, levels: Sequence[int]):
        if not levels or min(levels) < 2:
            raise ValueError(f"levels is {list(levels)}; it must name at least one number of levels, each 2 or more")
        self.levels = tuple(levels)
        self.num_codes, self.dim = prod(self.levels), len(self.levels)
        self._places = [prod(self.levels[:i]) for i in range(self.dim)]  # a code's id is sum_i digit_i · place_i

    def codebook(self) -> Tensor:
        """The grid's points, (K, d), in the order of their ids: the first number changes fastest."""
        L, places = torch.tensor(self.levels), torch.tensor(self._places)
        digits = torch.arange(self.num_codes)[:, None] // places % L  # (K, d)
        return 2 * digits / (L - 1) - 1

    def bound(self, z: Tensor) -> Tensor:
        """f(z), between the outermost levels: (B, d, h, w) -> the same shape, in (-1, 1)."""
        return z.tanh()

    def ids(self, e: Tensor, z: Tensor) -> Tensor:
        """Nearest codes, by rounding each number of a bounded latent; e is not looked at, for the grid is known.

        z: (..., d) float32, beyond [-1, 1] too -> (...) int64 in [0, K).
        """
        # Not kept as tensors: a model to be loaded is built without memory first, and no file would fill these.
        L, places = (torch.tensor(numbers, device=z.device) for numbers in (self.levels, self._places))
        digits = ((z + 1) / 2 * (L - 1)).round().clamp(min=0).minimum(L - 1)
        return (digits.long() * places).sum(-1)


def make_quantizer(
    name: str, num_codes: int, dim: int, levels: Sequence[int] | None
) -> VectorQuantizer | FiniteScalarQuantizer:
    """ "vq" with K, d and no levels, or "fsq" whose levels make K codes of d numbers.  Raises ValueError for others."""
    if name == "vq" and not levels:
        return VectorQuantizer(num_codes, dim)
    if name == "fsq" and levels:
        made = FiniteScalarQuantizer(levels)
        if (made.num_codes, made.dim) == (num_codes, dim):
            return made
    raise ValueError(
        f"quantizer is {name!r} with {num_codes} codes of {dim} numbers and levels {levels}; "
        f"it must be 'vq' without levels, or 'fsq' with a level for every number, which multiplied give the codes"
    )


def nearest(e: Tensor, z: Tensor) -> Tensor:
    """Ids of the codes nearest to latents (eq. 1).  e: (K, d), z: (..., d), both float32 -> (...) int64 in [0, K)."""
    squared = e.square().sum(1)  # |z - e|^2 = |z|^2 - 2 z.e + |e|^2, and |z|^2 is the same for every code
    rows = max(1, DISTANCES.get(z.device.type, 2**20) // len(e))
    parts = [_least(torch.addmm(squared, part, e.T, alpha=-2)) for part in z.reshape(-1, z.shape[-1]).split(rows)]
    return torch.cat(parts).view(z.shape[:-1])


def _least(x: Tensor) -> Tensor:
    """x.argmin(-1) of a matrix, the first of equal ones: first the group it is in, then its place there.

    On a processor torch finds the least number of a row fast, but its place slowly, one number after the other.
    """
    groups = x.unflatten(-1, (-1, gcd(x.shape[-1], 64)))
    i = groups.amin(-1).argmin(-1)
    return i * groups.shape[-1] + groups[torch.arange(len(i), device=i.device), i].argmin(-1)
