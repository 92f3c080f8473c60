"""What the two training loops share: records, checkpoints, the learning rate, and randomness that can be resumed.

Every random draw of a step is a pure function of (seed, step, process), so a checkpoint needs no generator state and a
resumed run is the uninterrupted run, bit for bit on a CPU.
"""

import os
from dataclasses import dataclass
from math import cos, pi
from pathlib import Path

import torch

from mmdemo.errors import ArgumentError, PackError


@dataclass(frozen=True)
class Record:
    """What happened in one step."""

    step: int  # done so far, from 1
    steps: int
    images_per_second: float
    metrics: dict[str, float]


def step_generator(device: torch.device, seed: int, step: int, process: int) -> torch.Generator:
    """The source of all randomness of one step in one process."""
    return torch.Generator(device).manual_seed((seed << 44) + (process << 32) + step)


def learning_rate_factor(step: int, steps: int, warmup: int) -> float:
    """Linear from 0 to 1 over `warmup` steps, then half a cosine down to 0 at the last step."""
    if step < warmup:
        return (step + 1) / warmup
    return 0.5 * (1 + cos(pi * (step - warmup) / max(1, steps - warmup)))


def check_processes(batch_size: int, processes: int) -> None:
    """Raises ArgumentError unless every process gets the same number of pictures."""
    if batch_size % processes:
        raise ArgumentError(f"batch_size is {batch_size}; it must be a multiple of the {processes} processes")


def save_checkpoint(path: Path, state: dict) -> None:
    """All or nothing: a run killed while saving keeps its previous checkpoint."""
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_suffix(".partial")
    with partial.open("wb") as file:
        torch.save(state, file)
        file.flush()
        os.fsync(file.fileno())
    os.replace(partial, path)


def load_checkpoint(path: Path, config: dict) -> dict:
    """The state saved at `path`.  Raises PackError if there is none or it was made with another configuration."""
    if not path.is_file():
        raise PackError(f"there is no checkpoint at {path} to resume; start without --resume")
    state = torch.load(path, map_location="cpu", weights_only=True)
    for name, value in config.items():
        if state["config"].get(name) != value:
            raise PackError(
                f"{name} is {value}, but the checkpoint {path} was made with {state['config'].get(name)}; "
                f"give the same options to resume, or start without --resume"
            )
    return state


def machine(device: torch.device, processes: int) -> str:
    """What a run ran on, for the model card."""
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else f"{os.cpu_count()} CPU cores"
    return name if processes == 1 else f"{processes} processes on {name}"
