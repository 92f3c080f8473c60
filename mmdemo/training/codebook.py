"""How a codebook learns, of either quantizer: what it adds to the loss, and how its codes move after a step."""

import torch
import torch.nn.functional as F
from torch import Tensor

from mmdemo.models.vqvae import VQVAE, VQVAEOutput
from mmdemo.training.config import VQVAEConfig

DEAD = 0.05  # a code is dead when its moving count falls under this share of the average one


def learning_rule(vae: VQVAE, config: VQVAEConfig) -> "CodebookEMA | FixedCodebook":
    """That of the model's quantizer."""
    if config.quantizer == "vq":
        return CodebookEMA(vae.codebook, config.codebook_decay, config.commitment)
    return FixedCodebook()


class CodebookEMA:
    """Moves `codes` (K, d), in place, towards the latents assigned to them, by moving averages instead of gradients;
    dead codes are revived. All state is float32.

    Source: arXiv:1711.00937, appendix A.1. In its letters, for code i: N_i is the moving count of latents assigned to
    it, m_i their moving sum, and e_i = m_i / N_i. beta weighs the commitment loss (eq. 3), which keeps latents near.
    """

    def __init__(self, codes: Tensor, decay: float, beta: float = 0.25):
        self.codes, self.decay, self.beta = codes, decay, beta
        self.N = torch.zeros(len(codes), device=codes.device)
        self.m = torch.zeros_like(codes)

    def loss(self, out: VQVAEOutput) -> Tensor:
        return self.beta * F.mse_loss(out.latents.float(), out.codes)

    @torch.no_grad()
    def initialize(self, latents: Tensor, rng: torch.Generator) -> None:
        """Codes from the data: random latents.  latents: (n, d)."""
        picked = torch.randint(len(latents), (len(self.codes),), generator=rng, device=latents.device)
        self._restart(torch.ones_like(self.N, dtype=torch.bool), latents[picked], len(latents))

    @torch.no_grad()
    def keep(self, n: int) -> None:
        """The codes as they are, of another training.  n: latents in a batch."""
        self._restart(torch.ones_like(self.N, dtype=torch.bool), self.codes.clone(), n)

    @torch.no_grad()
    def update(self, latents: Tensor, ids: Tensor, rng: torch.Generator) -> None:
        """One step of the moving average, then revival.  latents: (n, d), ids: (n,) the codes they were given."""
        count = torch.zeros_like(self.N).index_add_(0, ids, torch.ones_like(ids, dtype=self.N.dtype))
        total = torch.zeros_like(self.m).index_add_(0, ids, latents)
        self.N.lerp_(count, 1 - self.decay)
        self.m.lerp_(total, 1 - self.decay)
        self.codes.copy_(self.m / self.N.clamp(min=1e-5)[:, None])

        dead = self.N < self._dead_below(len(latents))
        if dead.any():
            # Where the codebook is worst: latents drawn by squared distance to their code, as k-means++ seeds
            # (Arthur & Vassilvitskii, 2007). A uniform draw would land on the background again and again.
            error = (latents - self.codes[ids]).square().sum(1) + 1e-12
            picked = torch.multinomial(error, int(dead.sum()), replacement=True, generator=rng)
            self._restart(dead, latents[picked], len(latents))

    def _dead_below(self, n: int) -> float:
        return DEAD * n / len(self.codes)

    def _restart(self, which: Tensor, latents: Tensor, n: int) -> None:
        """New codes with new moving averages: an old average would pull the code straight back."""
        count = max(1.0, 2 * self._dead_below(n))  # alive long enough to gather its share
        self.codes[which] = latents
        self.N[which] = count
        self.m[which] = count * latents

    def state_dict(self) -> dict[str, Tensor]:
        return {"N": self.N.clone(), "m": self.m.clone()}

    def load_state_dict(self, state: dict[str, Tensor]) -> None:
        self.N.copy_(state["N"])
        self.m.copy_(state["m"])


class FixedCodebook:
    """A grid's codes, which stay where they are: the encoder learns through the rounding alone, and no code can die.

    Source: FSQ, arXiv:2309.15505, section 3.
    """

    def loss(self, out: VQVAEOutput) -> float:
        return 0.0

    def initialize(self, latents: Tensor, rng: torch.Generator) -> None:
        """The model was made with its codes."""

    def keep(self, n: int) -> None:
        """They stay what they are."""

    def update(self, latents: Tensor, ids: Tensor, rng: torch.Generator) -> None:
        """Nothing moves."""

    def state_dict(self) -> dict[str, Tensor]:
        return {}

    def load_state_dict(self, state: dict[str, Tensor]) -> None:
        """There is none."""
