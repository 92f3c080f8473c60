"""The VQ-VAE's training loop. It ends with a codec-only pack, and the training latents beside its checkpoint."""

from collections.abc import Iterator
from functools import partial
from math import log10
from pathlib import Path

import torch
import torch.nn.functional as F

from mmdemo import codec, data, files, loading, packs, provenance
from mmdemo.datasets import NAMED
from mmdemo.errors import ArgumentError, PackError
from mmdemo.images import from_bytes
from mmdemo.models.vqvae import VQVAE
from mmdemo.training import export
from mmdemo.training.codebook import learning_rule
from mmdemo.training.config import VQVAEConfig
from mmdemo.training.loop import Record, Run, accelerated, alone, in_turn, step_generator


@alone("a codec")
def train_vqvae(
    config: VQVAEConfig,
    pack: Path,  # the folder to write
    run_folder: Path,  # checkpoints and latents live here
    data_dir: str | Path | None = None,
    resume: bool = False,
    mixed_precision: str | None = None,  # None = as accelerate was configured, or else bf16 on a GPU
    checkpoint_every: int | None = None,  # steps; None = every half minute
    strict: bool = False,  # pass over no picture of a folder that cannot be read
    compiled: bool | None = None,  # by torch.compile; None = no: its convolutions gain little
) -> Iterator[Record]:
    """Train, one Record a step; after the last one the pack is on disk.

    Raises DataError if the data cannot be read and PackError if there is nothing fitting to resume.
    """
    accelerator = accelerated(mixed_precision)
    device = accelerator.device
    with in_turn(accelerator):  # one process downloads or decodes, the others find it there
        channels = packs.read(pack.parent / config.start_from).channels if config.start_from else None
        images = data.load(config.dataset, "train", data_dir, config.image_size, channels, strict)
    if images.pixels.shape[-1] % config.stride:
        side = images.pixels.shape[-1]
        raise ArgumentError(f"image_size is {side}; it must be a multiple of the stride, {config.stride}")

    torch.manual_seed(config.seed)
    try:
        vae = VQVAE(
            in_channels=images.pixels.shape[1],
            channels=config.channels,
            latent_channels=config.latent_channels,
            num_codes=config.num_codes,
            stride=config.stride,
            num_res_blocks=config.num_res_blocks,
            quantizer=config.quantizer,
            levels=config.levels,
        ).to(device, memory_format=torch.channels_last)
    except ValueError as error:  # sizes that do not fit each other
        raise ArgumentError(str(error)) from None
    if config.start_from and not resume:
        start_from(vae, pack.parent / config.start_from)
    optimizer = torch.optim.AdamW([p for p in vae.parameters() if p.requires_grad], lr=config.learning_rate)
    book = learning_rule(vae, config)
    checkpoint = run_folder / "vqvae.pt"
    seen = {"pictures": len(images), "the pictures' digest": images.digest}
    run = Run(
        accelerator, config, vae, optimizer, checkpoint, checkpoint_every, resume, seen, bool(compiled), codebook=book
    )

    for step, pixels in run.batches(len(images), images.pixels.__getitem__):
        rng = step_generator(device, config.seed, step)
        x = from_bytes(pixels.to(device))
        if step == 0:
            first = _rows(run.gather(vae.encode(x).latents.detach().float()))
            book.keep(len(first)) if config.start_from else book.initialize(first, rng)
        with accelerator.autocast():
            out = run.model(x)
        reconstruction = F.mse_loss(out.sample.float(), x)
        loss = reconstruction + book.loss(out)
        run.descend(loss)
        ids = run.gather(out.ids).flatten()
        book.update(_rows(run.gather(out.latents.detach().float())), ids, rng)
        yield run.finish(
            loss=loss.item(),
            psnr=10 * log10(4 / reconstruction.item()),  # dB; pixels span 2, so the peak squared is 4
            codes=len(ids.unique()),  # used in this batch
        )

    if accelerator.is_main_process:
        run.averaged()
        latents = run_folder / export.LATENTS
        statistics = codec.statistics(vae, images.pixels, partial(files.empty, latents))
        vae.register_to_config(latent_std=statistics.latent_std)
        # A published pack names no folder of its maker's; the slash tells a folder from a data set of that name.
        dataset = config.dataset if config.dataset in NAMED else f"{Path(config.dataset).name}/"
        training = run.summary() | {"dataset": dataset}
        export.save_codec(pack, vae, statistics, images.classes, training, resume)
        export.save_latents(latents, statistics.latents, images, provenance.fingerprint(pack))
    accelerator.wait_for_everyone()


def start_from(vae: VQVAE, pack: Path) -> None:
    """Gives a codec the weights of another.  Raises PackError if that is not of the same sizes."""
    other = loading.load(packs.read(pack), device="cpu").vae
    shapes = [{name: weight.shape for name, weight in one.state_dict().items()} for one in (vae, other)]
    if shapes[0] != shapes[1]:
        raise PackError(f"pack {pack.name!r} has a codec of other sizes, so there is no starting from it")
    vae.load_state_dict(other.state_dict())


def _rows(latents: torch.Tensor) -> torch.Tensor:
    """(B, d, h, w) -> (B h w, d), in the order of flattened ids."""
    return latents.movedim(1, -1).flatten(0, 2)
