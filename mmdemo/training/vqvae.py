"""The VQ-VAE's training loop. It ends with a codec-only pack, and the training latents beside its checkpoint."""

import time
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path

import torch
import torch.nn.functional as F
from accelerate import Accelerator
from diffusers.training_utils import EMAModel

from mmdemo import codec, data, packs
from mmdemo.errors import ArgumentError
from mmdemo.images import from_bytes
from mmdemo.models.vqvae import VQVAE
from mmdemo.training.codebook import CodebookEMA
from mmdemo.training.config import VQVAEConfig
from mmdemo.training.loop import (
    Record,
    check_processes,
    learning_rate_factor,
    load_checkpoint,
    machine,
    save_checkpoint,
    step_generator,
)


def train_vqvae(
    config: VQVAEConfig,
    pack: Path,  # the folder to write
    run: Path,  # checkpoints and latents live here
    data_dir: str | Path | None = None,
    resume: bool = False,
    mixed_precision: str | None = None,  # None = as accelerate was configured
    checkpoint_every: int = 200,
) -> Iterator[Record]:
    """Train, one Record a step; after the last one the pack is on disk.

    Raises DataError if the data cannot be read and PackError if there is nothing fitting to resume.
    """
    accelerator = Accelerator(mixed_precision=mixed_precision)
    device, process, processes = accelerator.device, accelerator.process_index, accelerator.num_processes
    check_processes(config.batch_size, processes)
    with accelerator.main_process_first():  # one process downloads, the others find it there
        images = data.load(config.dataset, "train", data_dir, config.image_size)
    if images.pixels.shape[-1] % config.stride:
        side = images.pixels.shape[-1]
        raise ArgumentError(f"stride is {config.stride}; it must divide the pictures' side, {side} pixels")

    torch.manual_seed(config.seed)
    try:
        vae = VQVAE(
            in_channels=images.pixels.shape[1],
            channels=config.channels,
            latent_channels=config.latent_channels,
            num_codes=config.num_codes,
            stride=config.stride,
            num_res_blocks=config.num_res_blocks,
        ).to(device, memory_format=torch.channels_last)
    except ValueError as error:  # sizes that do not fit each other
        raise ArgumentError(str(error)) from None
    ema = EMAModel(vae.parameters(), decay=config.ema_decay, use_ema_warmup=True, power=0.75)
    ema.to(device)
    optimizer = torch.optim.AdamW([p for p in vae.parameters() if p.requires_grad], lr=config.learning_rate)
    book = CodebookEMA(vae.codebook, config.codebook_decay)
    checkpoint, start, seconds = run / "vqvae.pt", 0, 0.0
    if resume:
        state = load_checkpoint(checkpoint, asdict(config))
        vae.load_state_dict(state["model"])
        ema.load_state_dict(state["ema"])
        optimizer.load_state_dict(state["optimizer"])
        book.load_state_dict(state["codebook"])
        start, seconds = state["step"], state["seconds"]
    model, optimizer = accelerator.prepare(vae, optimizer)
    model.train()

    for step in range(start, config.steps):
        clock = time.perf_counter()
        rng = step_generator(device, config.seed, step, 0)  # the same in every process: all must draw the same codes
        for group in optimizer.param_groups:
            group["lr"] = config.learning_rate * learning_rate_factor(step, config.steps, config.warmup)
        places = data.permuted(len(images), step * config.batch_size, (step + 1) * config.batch_size, config.seed)
        x = from_bytes(images.pixels[places[process::processes]].to(device))

        if step == 0:
            book.initialize(_rows(accelerator.gather(vae.encode(x).latents.detach().float())), rng)
        with accelerator.autocast():
            out = model(x)
        reconstruction = F.mse_loss(out.sample.float(), x)
        commitment = F.mse_loss(out.latents.float(), out.codes)
        accelerator.backward(reconstruction + config.commitment * commitment)
        accelerator.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()
        ids = accelerator.gather(out.ids).flatten()
        book.update(_rows(accelerator.gather(out.latents.detach().float())), ids, rng)
        ema.step(vae.parameters())

        done, elapsed = step + 1, time.perf_counter() - clock
        seconds += elapsed
        if accelerator.is_main_process and (done % checkpoint_every == 0 or done == config.steps):
            save_checkpoint(
                checkpoint,
                {
                    "config": asdict(config),
                    "step": done,
                    "seconds": seconds,
                    "model": vae.state_dict(),
                    "ema": ema.state_dict(),
                    "optimizer": optimizer.state_dict(),
                    "codebook": book.state_dict(),
                },
            )
        metrics = {
            "loss": (reconstruction + config.commitment * commitment).item(),
            "psnr": (10 * torch.log10(4 / reconstruction)).item(),  # dB; pixels span 2, so the peak squared is 4
            "codes": len(ids.unique()),  # used in this batch
        }
        yield Record(done, config.steps, config.batch_size / elapsed, metrics)

    if accelerator.is_main_process:
        ema.copy_to(vae.parameters())
        vae.eval()
        statistics = codec.statistics(vae, images.pixels)
        vae.register_to_config(latent_std=statistics.latent_std)
        training = asdict(config) | {"image_size": images.pixels.shape[-1], "minutes": round(seconds / 60, 1)}
        training["machine"] = machine(device, processes)
        training["dataset"] = Path(config.dataset).name  # a published pack names no folder of its maker's
        packs.save_codec(pack, vae, statistics, images.classes, training)
        packs.save_latents(run, statistics.latents, images.labels, packs.fingerprint(pack))
    accelerator.wait_for_everyone()


def _rows(latents: torch.Tensor) -> torch.Tensor:
    """(B, d, h, w) -> (B h w, d), in the order of flattened ids."""
    return latents.movedim(1, -1).flatten(0, 2)
