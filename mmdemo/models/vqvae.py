"""VQVAE: encoder, quantizer and decoder on one page. It knows tensors; not images, packs or how it is trained.

Source: van den Oord et al., Neural Discrete Representation Learning, arXiv:1711.00937. In its letters: the encoder
gives z_e(x), the quantizer (quantizer.py has two) replaces every cell by its nearest code e_k (eq. 1), the decoder
paints z_q(x).
The call signatures are those of diffusers' VQModel, so whatever reads one reads the other.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from diffusers.configuration_utils import ConfigMixin, register_to_config
from diffusers.models.autoencoders.vae import DecoderOutput
from diffusers.models.autoencoders.vq_model import VQEncoderOutput
from diffusers.models.modeling_utils import ModelMixin
from torch import Tensor, nn

from mmdemo.models.quantizer import make_quantizer


@dataclass
class VQVAEOutput:
    """One pass through the model: everything its loss needs."""

    sample: Tensor  # (B, C, H, W) reconstruction, about [-1, 1]
    latents: Tensor  # (B, d, h, w) z_e, before quantization
    codes: Tensor  # (B, d, h, w) z_q, the nearest codes, no gradient
    ids: Tensor  # (B, h, w) int64 in [0, K)


class VQVAE(ModelMixin, ConfigMixin):
    """Strided-convolution VQ-VAE.

    in_channels: 1 (grey) or 3 (RGB).  channels: width at the coarsest resolution; the finer ones have half of it.
    latent_channels: d, the numbers in a code.  num_codes: K.  stride: pixels a token covers in each direction, a power
    of two.  latent_std: standard deviation of z_e over the training split, measured after training; diffusion divides
    by it.  quantizer: "vq", codes that are learned, or "fsq", those of a grid whose `levels` they are; K and d must be
    the grid's.  Raises ValueError if the stride is no power of two, or quantizer, levels, K and d do not fit together.
    """

    @register_to_config
    def __init__(
        self,
        in_channels: int = 1,
        channels: int = 128,
        latent_channels: int = 4,
        num_codes: int = 512,
        stride: int = 4,
        num_res_blocks: int = 2,
        latent_std: float = 1.0,
        quantizer: str = "vq",
        levels: Sequence[int] | None = None,  # None = there are none: vq
    ):
        super().__init__()
        halvings = stride.bit_length() - 1
        if stride != 1 << max(halvings, 1):
            raise ValueError(f"stride is {stride}; it must be 2, 4, 8 or a higher power of two")
        self.quantizer = make_quantizer(quantizer, num_codes, latent_channels, levels)
        widths = [channels // 2] * (halvings - 1) + [channels]

        down = []
        for before, after in zip([in_channels, *widths], widths, strict=False):
            down += [nn.Conv2d(before, after, 4, stride=2, padding=1), *residual(after, num_res_blocks), nn.ReLU()]
        self.encoder = nn.Sequential(*down, nn.Conv2d(channels, latent_channels, 1))
        self.codebook = nn.Parameter(self.quantizer.codebook(), requires_grad=False)  # (K, d); training may move it
        up = []
        for before, after in zip(widths[::-1], [*widths[-2::-1], in_channels], strict=True):
            up += [
                *residual(before, num_res_blocks),
                nn.ReLU(),
                nn.ConvTranspose2d(before, after, 4, stride=2, padding=1),
            ]
        self.decoder = nn.Sequential(nn.Conv2d(latent_channels, channels, 3, padding=1), *up)

    def encode(self, x: Tensor, return_dict: bool = True) -> VQEncoderOutput | tuple[Tensor]:
        """z_e(x), bounded and not yet quantized.

        x: (B, C, H, W) in [-1, 1], H and W multiples of the stride -> (B, d, h, w).
        """
        z = self.quantizer.bound(self.encoder(x.contiguous(memory_format=torch.channels_last)))  # 4 times as fast so
        return VQEncoderOutput(latents=z) if return_dict else (z,)

    def fits_its_grid(self) -> bool:
        """Whether the codes are those that its quantizer rounds to; learned ones may be any."""
        return self.config.quantizer == "vq" or torch.allclose(self.codebook, self.quantizer.codebook(), atol=1e-3)

    def quantize(self, z: Tensor) -> tuple[Tensor, Tensor]:
        """Nearest codes and their ids (eq. 1), in float32 whatever the precision around it.

        z: (B, d, h, w) -> z_q (B, d, h, w) float32 without gradient, ids (B, h, w) int64 in [0, K).
        """
        with torch.autocast(z.device.type, enabled=False):
            e = self.codebook.float()  # (K, d)
            ids = self.quantizer.ids(e, z.detach().float().movedim(1, -1))  # (B, h, w)
            return e[ids].movedim(-1, 1), ids

    def decode(self, z: Tensor, force_not_quantize: bool = False, return_dict: bool = True) -> DecoderOutput | tuple:
        """Snap latents to their nearest codes (unless told not to) and paint them.

        z: (B, d, h, w) -> (B, C, H, W), about [-1, 1] and not clamped.
        """
        z = z if force_not_quantize else self.quantize(z)[0].to(z.dtype)
        x = self.decoder(z.contiguous(memory_format=torch.channels_last))
        return DecoderOutput(sample=x) if return_dict else (x,)

    def forward(self, x: Tensor) -> VQVAEOutput:
        """Encode, quantize, decode; the gradient passes straight through the quantizer (section 3.2)."""
        z = self.encode(x).latents  # (B, d, h, w)
        z_q, ids = self.quantize(z)
        straight_through = z + (z_q - z).detach()
        sample = self.decode(straight_through, force_not_quantize=True).sample  # (B, C, H, W)
        return VQVAEOutput(sample=sample, latents=z, codes=z_q, ids=ids)


def residual(channels: int, count: int) -> list[nn.Module]:
    return [ResBlock(channels) for _ in range(count)]


class ResBlock(nn.Module):
    """x + conv1x1(relu(conv3x3(relu(x)))), the paper's residual block."""

    def __init__(self, channels: int):
        super().__init__()
        self.conv1 = nn.Conv2d(channels, channels // 2, 3, padding=1)
        self.conv2 = nn.Conv2d(channels // 2, channels, 1)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.conv2(F.relu(self.conv1(F.relu(x))))
