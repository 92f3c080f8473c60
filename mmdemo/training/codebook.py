"""The codebook's own learning rule: exponential moving averages instead of gradients, and dead codes revived.

Source: arXiv:1711.00937, appendix A.1. In its letters, for code i: N_i is the moving count of latents assigned to it,
m_i their moving sum, and e_i = m_i / N_i.
"""

import torch
from torch import Tensor

DEAD = 0.05  # a code is dead when its moving count falls under this share of the average one


class CodebookEMA:
    """Moves `codes` (K, d), in place, towards the latents assigned to them. All state is float32."""

    def __init__(self, codes: Tensor, decay: float):
        self.codes, self.decay = codes, decay
        self.N = torch.zeros(len(codes), device=codes.device)
        self.m = torch.zeros_like(codes)

    @torch.no_grad()
    def initialize(self, latents: Tensor, rng: torch.Generator) -> None:
        """Codes from the data: random latents.  latents: (n, d)."""
        picked = torch.randint(len(latents), (len(self.codes),), generator=rng, device=latents.device)
        self._restart(torch.ones_like(self.N, dtype=torch.bool), latents[picked], len(latents))

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
