"""The decoder trained further, against a discriminator: sharper pictures from the same tokens.

The mean squared error makes a decoder paint the mean of all pictures a token may stand for, which is blurred. Here it
learns to paint one that could be real besides, as Esser et al. did for images (arXiv:2012.09841). They trained the
whole codec so; encoder and codebook stay as they are here, and with them every token and any transformer.
"""

from collections.abc import Iterator
from functools import partial
from math import log10
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils.parametrizations import spectral_norm

from mmdemo import codec, data, files, loading, packs, provenance
from mmdemo.errors import PackError
from mmdemo.images import from_bytes
from mmdemo.models.vqvae import VQVAE
from mmdemo.training import export
from mmdemo.training.config import DecoderConfig
from mmdemo.training.loop import Record, Run, accelerated, alone, in_turn

BETAS = 0.5, 0.99  # Adam's, for both sides: a long memory of the gradients chases an opponent that has moved on


class Discriminator(nn.Module):
    """Tells real pictures from decoded ones, patch by patch (PatchGAN, arXiv:1611.07004, section 3.2.2).

    x: (B, C, H, W) in [-1, 1] -> (B, 1, H/4, W/4), high where it looks real; each number sees 26 × 26 pixels. Spectral
    normalization (arXiv:1802.05957) keeps it from becoming so sure that it teaches nothing.
    """

    def __init__(self, in_channels: int, channels: int):
        super().__init__()
        wide = 2 * channels
        self.layers = nn.Sequential(
            spectral_norm(nn.Conv2d(in_channels, channels, 4, stride=2, padding=1)), nn.LeakyReLU(0.2),
            spectral_norm(nn.Conv2d(channels, wide, 4, stride=2, padding=1)), nn.LeakyReLU(0.2),
            spectral_norm(nn.Conv2d(wide, wide, 3, padding=1)), nn.LeakyReLU(0.2),
            spectral_norm(nn.Conv2d(wide, 1, 3, padding=1)),
        )  # fmt: skip

    def forward(self, x: Tensor) -> Tensor:
        return self.layers(x)


@alone("a decoder")
def train_decoder(
    config: DecoderConfig,
    pack: Path,  # the folder to change
    run_folder: Path,  # checkpoints live here
    data_dir: str | Path | None = None,
    resume: bool = False,
    mixed_precision: str | None = None,  # None = as accelerate was configured, or else bf16 on a GPU
    checkpoint_every: int | None = None,  # steps; None = every half minute
    strict: bool = False,  # pass over no picture of a folder that cannot be read
    compiled: bool | None = None,  # by torch.compile; None = no: its convolutions gain little
) -> Iterator[Record]:
    """Train, one Record a step; after the last one the pack has the new decoder, and no card: that is measured anew.

    Raises PackError if the pack has no codec of ours, its decoder was trained so before or there is nothing fitting to
    resume, and DataError if the data cannot be read.
    """
    accelerator = accelerated(mixed_precision)
    device = accelerator.device
    vae, training = _read(pack, resume)
    with in_turn(accelerator):  # one process downloads or decodes, the others find it there
        shape = training["image_size"], vae.config.in_channels
        images = data.load(training["dataset"], "train", data_dir, *shape, strict)
    side = images.pixels.shape[-1]
    if side % vae.config.stride:
        raise PackError(f"pack {pack.name!r} was not trained on these pictures: {side} is no multiple of its stride")

    torch.manual_seed(config.seed)
    vae.to(device, torch.float32, memory_format=torch.channels_last).requires_grad_(False)
    decoder = vae.decoder.requires_grad_(True)
    discriminator = Discriminator(vae.config.in_channels, config.channels)
    discriminator.to(device, memory_format=torch.channels_last)
    optimizer, opponent = (
        torch.optim.AdamW(part.parameters(), lr=config.learning_rate, betas=BETAS, weight_decay=0.0)
        for part in (decoder, discriminator)
    )
    state = {"discriminator": discriminator, "opponent": opponent}
    identity = {"codec": provenance.fingerprint(pack), "pictures": len(images), "the pictures' digest": images.digest}
    checkpoint = run_folder / "decoder.pt"
    run = Run(
        accelerator, config, decoder, optimizer, checkpoint, checkpoint_every, resume, identity, bool(compiled), **state
    )
    judge, opponent = accelerator.prepare(discriminator, opponent)  # judge: wrapped for several processes

    for _, pixels in run.batches(len(images), images.pixels.__getitem__):
        x = from_bytes(pixels.to(device))
        x = x.contiguous(memory_format=torch.channels_last)
        with torch.no_grad(), accelerator.autocast():
            z_q, _ = vae.quantize(vae.encode(x).latents)
        z_q = z_q.contiguous(memory_format=torch.channels_last)

        discriminator.requires_grad_(False)
        with accelerator.autocast():
            decoded = run.model(z_q)
            looks = discriminator(decoded)
        reconstruction = F.mse_loss(decoded.float(), x)
        adversarial = -looks.float().mean()
        run.descend(reconstruction + config.weight * adversarial)

        discriminator.requires_grad_(True)
        with accelerator.autocast():
            real, made = judge(torch.cat([x, decoded.detach().to(x.dtype)])).float().chunk(2)
        hinge = F.relu(1 - real).mean() + F.relu(1 + made).mean()  # arXiv:1705.02894, eq. 3; 2 = it cannot tell
        opponent.param_groups[0]["lr"] = optimizer.param_groups[0]["lr"]
        run.step_down(hinge, judge, opponent)
        yield run.finish(
            psnr=10 * log10(4 / reconstruction.item()),  # dB; pixels span 2, so the peak squared is 4
            adversarial=adversarial.item(),
            discriminator=hinge.item(),
        )

    if accelerator.is_main_process:
        run.averaged()
        statistics = codec.statistics(vae.eval(), images.pixels, partial(files.empty, checkpoint))
        export.save_decoder(pack, vae, statistics, run.summary())
    accelerator.wait_for_everyone()


def _read(pack: Path, resume: bool) -> tuple[VQVAE, dict]:
    """The pack's codec, and how that was trained."""
    described = packs.read(pack)
    if described.problem:
        raise PackError(f"pack {pack.name!r} cannot be used: {described.problem}")
    training = provenance.read_training(pack)
    if "decoder" in training and not resume:
        raise PackError(f"pack {pack.name!r} has a decoder trained so already; train its codec anew before another")
    vae = loading.load(described, device="cpu").vae
    if not isinstance(vae, VQVAE):
        raise PackError(f"pack {pack.name!r} has a codec of another make; only VQVAE's decoder can be trained here")
    return vae, training["vqvae"]
