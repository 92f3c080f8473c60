"""DiT: the diffusion transformer on one page. It knows latents; not schedules, codecs, class names or words.

Source: Peebles & Xie, Scalable Diffusion Models with Transformers, arXiv:2212.09748. Blocks are adaLN-zero (section
3.2): the conditioning c sets shift, scale and gate of every branch, and gates start at zero, so that every block starts
as the identity. The call signature is that of diffusers' DiTTransformer2DModel. What it is conditioned on is a class,
or a text (text.py), whose mean stands where the class does and whose every token is a key and value of each attention,
beside the patches (Imagen, arXiv:2205.11487, appendix D.3.1).
"""

from math import log, pi, sqrt
from typing import NamedTuple

import torch
import torch.nn.functional as F
from diffusers.configuration_utils import ConfigMixin, register_to_config
from diffusers.models.modeling_outputs import Transformer2DModelOutput
from diffusers.models.modeling_utils import ModelMixin
from torch import Tensor, nn

from mmdemo.models.text import TextEncoder


class DiT(ModelMixin, ConfigMixin):
    """Predicts what a noisy latent needs (eps, v or a flow, as it was trained) from the latent, the time and a label.

    sample_size: h = w of the latents, a multiple of patch_size.  in_channels: d of the latents.  hidden_size: a
    multiple of num_heads and of 4.  num_classes: labels; class id num_classes is the null class of classifier-free
    guidance (arXiv:2207.12598).  vocab_size: ids of tokens, if labels are texts; 0 = they are classes.  text_depth:
    blocks of the text encoder.  long_skips: whether each block of the second half also sees what one of the first half
    gave, the first the last (U-ViT, arXiv:2209.12152).  times: of a student (training/student.py), between which it
    jumps, from noise down to 0; it predicts the mean flow over the jump instead of the flow at its beginning.
    Raises ValueError where the sizes do not divide.
    """

    @register_to_config
    def __init__(
        self,
        sample_size: int = 8,
        patch_size: int = 2,
        in_channels: int = 4,
        hidden_size: int = 192,
        depth: int = 6,
        num_heads: int = 6,
        num_classes: int = 10,
        vocab_size: int = 0,
        text_depth: int = 2,
        long_skips: bool = False,
        times: list[float] | None = None,
    ):
        super().__init__()
        if sample_size % patch_size:
            raise ValueError(f"patch_size is {patch_size}; it must divide the latents' side, {sample_size}")
        if hidden_size % num_heads or hidden_size % 4:
            raise ValueError(f"hidden_size is {hidden_size}; it must be a multiple of num_heads ({num_heads}) and of 4")
        side = sample_size // patch_size
        self.patch_embed = nn.Conv2d(in_channels, hidden_size, patch_size, stride=patch_size)
        self.positions = nn.Parameter(sincos_2d(hidden_size, side))  # (side², hidden_size), learned from there on
        self.time_embed = nn.Sequential(nn.Linear(256, hidden_size), nn.SiLU(), nn.Linear(hidden_size, hidden_size))
        if vocab_size:
            self.text = TextEncoder(vocab_size, hidden_size, text_depth, num_heads)
            self.text_embed = nn.Linear(hidden_size, hidden_size)
        else:
            self.class_embed = nn.Embedding(num_classes + 1, hidden_size)  # the last row is the null class
        if times:
            self.until_embed = nn.Sequential(
                nn.Linear(256, hidden_size), nn.SiLU(), nn.Linear(hidden_size, hidden_size)
            )
        self.blocks = nn.ModuleList(Block(hidden_size, num_heads, bool(vocab_size)) for _ in range(depth))
        if long_skips:
            self.skips = nn.ModuleList(nn.Linear(2 * hidden_size, hidden_size) for _ in range(depth // 2))
        self.final_modulation = nn.Linear(hidden_size, 2 * hidden_size)
        self.unpatch = nn.Linear(hidden_size, in_channels * patch_size**2)
        self._initialize()

    @property
    def null_class(self) -> int:
        return self.config.num_classes

    def _initialize(self) -> None:
        for module in self.modules():
            if isinstance(module, nn.Linear):
                nn.init.xavier_uniform_(module.weight)
                nn.init.zeros_(module.bias)
        if not self.config.vocab_size:
            nn.init.normal_(self.class_embed.weight, std=0.02)
        zeros = [self.final_modulation, self.unpatch, *(block.modulation for block in self.blocks)]
        for zero in zeros + ([self.until_embed[-1]] if self.config.times else []):
            nn.init.zeros_(zero.weight)

    def forward(
        self,
        hidden_states: Tensor,  # x_t: (B, d, h, w)
        timestep: Tensor,  # (B,) or (), in [0, 1000], whole or not
        class_labels: "Tensor | Label",  # (B,) int64 in [0, num_classes]; of texts (B, L) ids; or what `read` made
        return_dict: bool = True,
        until: Tensor | None = None,  # of a student: (B,) or (), the time to jump to
    ) -> Transformer2DModelOutput | tuple[Tensor]:
        """The prediction at x_t, in x_t's shape."""
        x = self.patch_embed(hidden_states)  # (B, D, h/p, w/p)
        grid = x.shape[-2:]
        x = x.flatten(2).mT + self.positions  # (B, N, D)
        t = timestep_embedding(timestep.expand(len(x)), 256).to(x.dtype)  # (B, 256)
        label = class_labels if isinstance(class_labels, Label) else self.read(class_labels)
        c = self.time_embed(t) + label.embedding  # (B, D)
        if until is not None:
            c = c + self.until_embed(timestep_embedding(until.expand(len(x)), 256).to(x.dtype))
        c = F.silu(c)
        skips, earlier = getattr(self, "skips", ()), []
        for i, (block, kv) in enumerate(zip(self.blocks, label.kv, strict=True)):
            if i >= len(self.blocks) - len(skips):
                x = skips[i - len(self.blocks)](torch.cat([x, earlier.pop()], -1))
            x = block(x, c, kv, label.mask)  # (B, N, D)
            if i < len(skips):
                earlier.append(x)
        shift, scale = self.final_modulation(c).unsqueeze(1).chunk(2, dim=-1)
        x = self.unpatch(modulate(x, shift, scale))  # (B, N, d p²)
        p = self.config.patch_size
        x = F.pixel_shuffle(x.mT.unflatten(2, grid), p)  # (B, d, h, w)
        return Transformer2DModelOutput(sample=x) if return_dict else (x,)

    def read(self, labels: Tensor) -> "Label":
        """All that labels mean to the blocks, which is the same at every time: classes (B,), or texts (B, L) as ids of
        tokens, short ones filled up with PAD_ID."""
        if not self.config.vocab_size:
            return Label(self.class_embed(labels), [None] * len(self.blocks))
        states, real = self.text(labels)  # (B, L, D), (B, L)
        mean = (states * real[..., None]).sum(1) / real.sum(1, keepdim=True)
        mask = F.pad(real, (len(self.positions), 0), value=True)[:, None, None]
        return Label(self.text_embed(mean), [block.read(states) for block in self.blocks], mask)


class Label(NamedTuple):
    """What a label means to a DiT of N patches."""

    embedding: Tensor  # (B, D), added to the time's
    kv: list[Tensor | None]  # of a text, its keys and values for each block: (2, B, heads, L, D/heads)
    mask: Tensor | None = None  # (B, 1, 1, N + L): bool: what attention may see; float: what is added to its scores

    def of_texts(self, places: Tensor) -> "Label":
        """The texts at these places, each as often as it is named: what is read once may be asked many times."""
        return Label(self.embedding[places], [kv[:, places] for kv in self.kv], self.mask[places])

    def mixed(self, shares: Tensor) -> "Label":
        """What lies between these labels.  shares: (M, B), of each label in every mixture; rows add up to 1.

        Of texts every token is there, and attention's weight on it is multiplied by the share of its text.
        """
        shares = shares.to(self.embedding.dtype)
        if self.mask is None:
            return Label(shares @ self.embedding, self.kv)
        weights, places = shares.topk(int(shares.count_nonzero(1).max()))  # (M, K): the K texts of each that count
        length = self.kv[0].shape[3]
        real = self.mask[:, 0, 0, -length:]  # (B, L)
        weights = (weights[..., None] * real[places]).flatten(1)  # (M, K L)
        patches = self.mask.shape[-1] - length
        mask = F.pad(weights, (patches, 0), value=1.0).log()[:, None, None]  # (M, 1, 1, N + K L)
        kv = [one[:, places].transpose(2, 3).flatten(3, 4) for one in self.kv]  # (2, M, heads, K L, D/heads)
        return Label(shares @ self.embedding, kv, mask)


class Block(nn.Module):
    """Attention and an MLP, each shifted, scaled and gated by the conditioning (adaLN-zero).  reads: also a text."""

    def __init__(self, hidden_size: int, num_heads: int, reads: bool = False):
        super().__init__()
        self.num_heads = num_heads
        self.modulation = nn.Linear(hidden_size, 6 * hidden_size)
        self.qkv = nn.Linear(hidden_size, 3 * hidden_size)
        self.text_kv = nn.Linear(hidden_size, 2 * hidden_size) if reads else None
        self.out = nn.Linear(hidden_size, hidden_size)
        self.mlp = nn.Sequential(
            nn.Linear(hidden_size, 4 * hidden_size),
            GELU(),
            nn.Linear(4 * hidden_size, hidden_size),
        )

    def read(self, text: Tensor) -> Tensor:
        """Keys and values of a text's tokens: (B, L, D) -> (2, B, heads, L, D/heads)."""
        return self.text_kv(text).unflatten(-1, (2, self.num_heads, -1)).permute(2, 0, 3, 1, 4)

    def forward(self, x: Tensor, c: Tensor, kv: Tensor | None = None, mask: Tensor | None = None) -> Tensor:
        shift_a, scale_a, gate_a, shift_m, scale_m, gate_m = (
            self.modulation(c).unsqueeze(1).chunk(6, dim=-1)
        )  # (B, 1, D)
        qkv = self.qkv(modulate(x, shift_a, scale_a)).unflatten(
            -1, (3, self.num_heads, -1)
        )  # (B, N, 3, heads, D/heads)
        q, k, v = qkv.permute(2, 0, 3, 1, 4)  # (B, heads, N, D/heads) each
        if kv is not None:
            k, v = torch.cat([k, kv[0]], 2), torch.cat([v, kv[1]], 2)  # (B, heads, N + L, D/heads) each
        attended = F.scaled_dot_product_attention(q, k, v, attn_mask=mask).transpose(1, 2).flatten(2)  # (B, N, D)
        x = x + gate_a * self.out(attended)
        return x + gate_m * self.mlp(modulate(x, shift_m, scale_m))


class GELU(nn.Module):
    """GELU by its tanh approximation (arXiv:1606.08415, section 2), in x's shape."""

    def forward(self, x: Tensor) -> Tensor:
        if torch.compiler.is_compiling() and x.device.type == "cpu":
            # (1 + tanh u) / 2 is sigmoid(2u). Fused, that takes an exponential instead of a tanh, which a processor is
            # slow at: a compiled training step takes 7 % less.
            return x * torch.sigmoid(sqrt(8 / pi) * x * (1 + 0.044715 * x * x))
        return F.gelu(x, approximate="tanh")


def modulate(x: Tensor, shift: Tensor, scale: Tensor) -> Tensor:
    """Layer norm without weights of its own, then the conditioning's scale and shift."""
    return F.layer_norm(x, x.shape[-1:], eps=1e-6) * (1 + scale) + shift


def timestep_embedding(t: Tensor, dim: int) -> Tensor:
    """(B,) times -> (B, dim): cos and sin at geometric frequencies (arXiv:1706.03762, section 3.5)."""
    frequencies = torch.exp(-log(10000) * torch.arange(dim // 2, device=t.device) / (dim // 2))
    angles = t.float()[:, None] * frequencies
    return torch.cat([angles.cos(), angles.sin()], dim=-1)


def sincos_2d(dim: int, side: int) -> Tensor:
    """(side², dim): half of the numbers tell the row, half the column."""
    rows, columns = torch.meshgrid(torch.arange(side), torch.arange(side), indexing="ij")
    return torch.cat([timestep_embedding(axis.flatten(), dim // 2) for axis in (rows, columns)], dim=1)
