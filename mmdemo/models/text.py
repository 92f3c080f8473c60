"""TextEncoder: token ids -> a state for every token, on one page. It knows ids; not words, pictures or noise.

A small transformer encoder (Vaswani et al., arXiv:1706.03762) trained together with the DiT that reads it. Order comes
from linear biases (ALiBi, arXiv:2108.12409): attention falls with distance. Half of the heads look back, the others
ahead, so that "grey" can tell the hair from the hat that follows it, and "hair" whose it is.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mmdemo.words import PAD_ID


class TextEncoder(nn.Module):
    """vocab_size: ids there are.  hidden_size: a multiple of num_heads, which is even."""

    def __init__(self, vocab_size: int, hidden_size: int, depth: int, num_heads: int):
        super().__init__()
        if num_heads % 2:
            raise ValueError(f"num_heads is {num_heads}; half of them look back and half ahead, so it must be even")
        self.num_heads = num_heads
        self.embed = nn.Embedding(vocab_size, hidden_size, padding_idx=PAD_ID)
        self.blocks = nn.ModuleList(TextBlock(hidden_size, num_heads) for _ in range(depth))
        self.norm = nn.LayerNorm(hidden_size)

    def forward(self, ids: Tensor) -> tuple[Tensor, Tensor]:
        """ids: (B, L) int64 -> states (B, L, D), and which of them are real: (B, L) bool."""
        real = ids != PAD_ID
        x = self.embed(ids)  # (B, L, D)
        bias = directed_bias(self.num_heads, ids.shape[1], x)  # (heads, L, L)
        hidden = ~(
            real[:, None, :] | torch.eye(ids.shape[1], dtype=torch.bool, device=ids.device)
        )  # pads see themselves
        bias = bias.masked_fill(hidden[:, None], float("-inf"))  # (B, heads, L, L)
        for block in self.blocks:
            x = block(x, bias)
        return self.norm(x), real


class TextBlock(nn.Module):
    """Attention and an MLP, each after a layer norm."""

    def __init__(self, hidden_size: int, num_heads: int):
        super().__init__()
        self.num_heads = num_heads
        self.norm1, self.norm2 = nn.LayerNorm(hidden_size), nn.LayerNorm(hidden_size)
        self.qkv = nn.Linear(hidden_size, 3 * hidden_size)
        self.out = nn.Linear(hidden_size, hidden_size)
        self.mlp = nn.Sequential(
            nn.Linear(hidden_size, 4 * hidden_size),
            nn.GELU(approximate="tanh"),
            nn.Linear(4 * hidden_size, hidden_size),
        )

    def forward(self, x: Tensor, bias: Tensor) -> Tensor:
        qkv = self.qkv(self.norm1(x)).unflatten(-1, (3, self.num_heads, -1))  # (B, L, 3, heads, D/heads)
        q, k, v = qkv.permute(2, 0, 3, 1, 4)  # (B, heads, L, D/heads) each
        attended = F.scaled_dot_product_attention(q, k, v, attn_mask=bias).transpose(1, 2).flatten(2)  # (B, L, D)
        x = x + self.out(attended)
        return x + self.mlp(self.norm2(x))


def directed_bias(num_heads: int, length: int, like: Tensor) -> Tensor:
    """(heads, L, L): minus slope × distance towards a head's own side, minus infinity towards the other."""
    half = num_heads // 2
    slopes = 2.0 ** (-2 * torch.arange(half, device=like.device))  # 1, 1/4, 1/16 …: from the next word to the sentence
    places = torch.arange(length, device=like.device)
    back = places[:, None] - places  # (L, L): how far behind the query a key stands
    towards = torch.stack([back, -back])  # (2, L, L)
    bias = -slopes[:, None, None, None] * towards  # (half, 2, L, L)
    return bias.masked_fill(towards < 0, float("-inf")).flatten(0, 1).to(like.dtype)
