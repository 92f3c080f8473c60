"""What the two training loops share: a run with its records and checkpoints, and randomness that can be resumed.

Every random draw of a step is a pure function of (seed, step, process), so a checkpoint needs no generator state and a
resumed run is the uninterrupted run, bit for bit on a CPU.
"""

import os
import pickle
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from math import cos, pi
from pathlib import Path

import torch
from accelerate import Accelerator
from diffusers.training_utils import EMAModel
from torch import Tensor, nn

from mmdemo.data import permuted
from mmdemo.errors import ArgumentError, PackError


@dataclass(frozen=True)
class Record:
    """What happened in one step."""

    step: int  # done so far, from 1
    steps: int
    images_per_second: float
    metrics: dict[str, float]


class Run:
    """A model in training: its optimizer, the moving average of its weights, its checkpoint and its clock.

    `steps()` gives the steps still to do, each to be ended by `finish()`. state: whatever else has a state_dict and
    changes with every step. Raises ArgumentError unless the processes can share a batch evenly, and PackError if there
    is nothing fitting to resume.
    """

    def __init__(
        self,
        accelerator: Accelerator,
        config,  # a VQVAEConfig or DiTConfig
        weights: nn.Module,
        optimizer: torch.optim.Optimizer,
        checkpoint: Path,
        checkpoint_every: int,
        resume: bool,
        identity: dict[str, str] | None = None,  # what else a checkpoint must agree in to be resumed
        **state,
    ):
        if config.batch_size % accelerator.num_processes:
            raise ArgumentError(
                f"batch_size is {config.batch_size}; it must be a multiple of the {accelerator.num_processes} processes"
            )
        self.accelerator, self.config, self.weights = accelerator, config, weights
        self.checkpoint, self.checkpoint_every = checkpoint, checkpoint_every
        self.identity = asdict(config) | (identity or {})
        checkpoint.parent.mkdir(parents=True, exist_ok=True)  # fails now rather than after hours
        self.ema = EMAModel(weights.parameters(), decay=config.ema_decay, use_ema_warmup=True, power=0.75)
        self.ema.to(accelerator.device)
        self.state = {"model": weights, "ema": self.ema, "optimizer": optimizer} | state
        self.done, self.seconds = 0, 0.0
        if resume:
            saved = load_checkpoint(checkpoint, self.identity)
            try:
                for name, part in self.state.items():
                    part.load_state_dict(saved[name])
                self.done, self.seconds = saved["step"], saved["seconds"]
            except (AttributeError, KeyError, RuntimeError, TypeError, ValueError) as error:
                raise unreadable(checkpoint, error) from None
        self.model, self.optimizer = accelerator.prepare(weights, optimizer)  # model: wrapped for several processes
        self.model.train()

    def steps(self) -> Iterator[int]:
        config = self.config
        for step in range(self.done, config.steps):
            self._started = time.perf_counter()
            for group in self.optimizer.param_groups:
                group["lr"] = config.learning_rate * learning_rate_factor(step, config.steps, config.warmup)
            yield step

    def places(self, step: int, count: int) -> Tensor:
        """This process's share of the step's batch: places among `count` pictures."""
        start, size = step * self.config.batch_size, self.config.batch_size
        batch = permuted(count, start, start + size, self.config.seed)
        return batch[self.accelerator.process_index :: self.accelerator.num_processes]

    def descend(self, loss: Tensor) -> None:
        """One optimizer step down the loss, with the gradient's norm clipped to 1."""
        self.accelerator.backward(loss)
        self.accelerator.clip_grad_norm_(self.model.parameters(), 1.0)
        self.optimizer.step()
        self.optimizer.zero_grad()

    def finish(self, **metrics: float) -> Record:
        """Ends a step: moving average, clock, and every so often a checkpoint."""
        self.ema.step(self.weights.parameters())
        elapsed = time.perf_counter() - self._started
        self.done, self.seconds = self.done + 1, self.seconds + elapsed
        if self.accelerator.is_main_process and (
            self.done % self.checkpoint_every == 0 or self.done == self.config.steps
        ):
            self._save()
        return Record(self.done, self.config.steps, self.config.batch_size / elapsed, metrics)

    def averaged(self) -> nn.Module:
        """The model with the averaged weights, ready to use, when all steps are done."""
        self.ema.copy_to(self.weights.parameters())
        return self.weights.eval()

    def summary(self) -> dict:
        """What the pack keeps of the run: its configuration, minutes and machine."""
        device, processes = self.accelerator.device, self.accelerator.num_processes
        name = torch.cuda.get_device_name(device) if device.type == "cuda" else f"{os.cpu_count()} CPU cores"
        machine = name if processes == 1 else f"{processes} processes on {name}"
        return asdict(self.config) | {"minutes": round(self.seconds / 60, 1), "machine": machine}

    def _save(self) -> None:
        state = {name: part.state_dict() for name, part in self.state.items()}
        counts = {"config": self.identity, "step": self.done, "seconds": self.seconds}
        save_checkpoint(self.checkpoint, counts | state)


def step_generator(device: torch.device, seed: int, step: int, process: int) -> torch.Generator:
    """The source of all randomness of one step in one process."""
    # A CPU generator heeds 32 bits: runs start that far apart (the golden ratio's share of them) along one sequence.
    return torch.Generator(device).manual_seed((step + 0x9E3779B1 * (1024 * seed + process)) % 2**32)


def learning_rate_factor(step: int, steps: int, warmup: int) -> float:
    """Linear from 0 to 1 over `warmup` steps, then half a cosine down to 0 at the last step."""
    if step < warmup:
        return (step + 1) / warmup
    return 0.5 * (1 + cos(pi * (step - warmup) / max(1, steps - warmup)))


def save_checkpoint(path: Path, state: dict) -> None:
    """All or nothing: a run killed while saving keeps its previous checkpoint."""
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_suffix(".partial")
    try:
        with partial.open("wb") as file:
            torch.save(state, file)
            file.flush()
            os.fsync(file.fileno())
        os.replace(partial, path)
    finally:
        partial.unlink(missing_ok=True)


def load_checkpoint(path: Path, config: dict) -> dict:
    """The state saved at `path`.  Raises PackError if there is none or it was made with another configuration."""
    if not path.is_file():
        raise PackError(f"there is no checkpoint at {path} to resume; start without --resume")
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
        saved = dict(state["config"])
    except (pickle.UnpicklingError, RuntimeError, EOFError, KeyError, TypeError, ValueError) as error:
        raise unreadable(path, error) from None
    for name, value in config.items():
        if saved.get(name) != value:
            raise PackError(
                f"{name} is {value}, but the checkpoint {path} was made with {saved.get(name)}; "
                f"give the same options to resume, or start without --resume"
            )
    return state


def unreadable(path: Path, error: Exception) -> PackError:
    return PackError(f"checkpoint {path} cannot be read ({type(error).__name__}); start without --resume")
