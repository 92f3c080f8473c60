"""What all training loops share: a run with its records and checkpoints, and randomness that can be resumed.

Every random draw of a step is a pure function of (seed, step), so a checkpoint needs no generator state, a resumed run
is the uninterrupted run, bit for bit on a CPU, and several processes make what one would have made, but for rounding.
"""

import logging
import os
import pickle
import signal
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, fields
from datetime import datetime, timedelta
from functools import wraps
from math import cos, inf, pi
from pathlib import Path
from typing import TypeVar

import torch
from accelerate import Accelerator, InitProcessGroupKwargs
from diffusers.training_utils import EMAModel
from torch import Tensor, nn

from mmdemo.data import permuted
from mmdemo.errors import ArgumentError, PackError, TrainingError
from mmdemo.files import replacing
from mmdemo.training.stopping import Stopped, asked

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None


CHECKPOINT_SECONDS = 30  # between two, unless told otherwise
PATIENCE = timedelta(hours=12)  # of processes with the one that decodes or encodes a data set for them

Read = TypeVar("Read")


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
    changes with every step. Raises ArgumentError unless the processes can share a batch evenly, PackError if there is
    nothing fitting to resume, TrainingError at the first step whose loss or gradient is no finite number, and Stopped
    after the step in which a signal asked for it.
    """

    def __init__(
        self,
        accelerator: Accelerator,
        config,  # a VQVAEConfig or DiTConfig
        weights: nn.Module,
        optimizer: torch.optim.Optimizer,
        checkpoint: Path,
        checkpoint_every: int | None,
        resume: bool,
        identity: dict[str, str | int] | None = None,  # what else a checkpoint must agree in to be resumed
        compiled: bool | None = None,  # by torch.compile; None = on a GPU
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
        on_gpu = accelerator.device.type == "cuda"
        self.ema = EMAModel(
            weights.parameters(), decay=config.ema_decay, use_ema_warmup=True, power=0.75, foreach=on_gpu
        )
        self.ema.to(accelerator.device)
        self.state = {"model": weights, "ema": self.ema, "optimizer": optimizer} | state
        self.done, self.seconds = 0, 0.0
        self.saved, self._saved_at = 0, time.monotonic()  # the step of this run's last checkpoint, and when that was
        if resume:
            # What a checkpoint from before an option or a digest existed does not tell is not held against it.
            defaults = {option.name: option.default for option in fields(config)} | (identity or {})
            saved = load_checkpoint(checkpoint, self.identity, defaults)
            try:
                for name, part in self.state.items():
                    part.load_state_dict(saved[name])
                self.done, self.seconds = saved["step"], saved["seconds"]
                self.saved = asked.saved = self.done
            except (AttributeError, KeyError, RuntimeError, TypeError, ValueError) as error:
                raise unreadable(checkpoint, error) from None
        self.model, self.optimizer = accelerator.prepare(weights, optimizer)  # model: wrapped for several processes
        self.model.train()
        if on_gpu if compiled is None else compiled:
            self.model = torch.compile(self.model)

    def steps(self) -> Iterator[int]:
        config = self.config
        asked.stepping = True
        try:
            for step in range(self.done, config.steps):
                self._started = time.perf_counter()
                for group in self.optimizer.param_groups:
                    group["lr"] = config.learning_rate * learning_rate_factor(step, config.steps, config.warmup)
                yield step
                self._stop_if_asked()
        finally:
            asked.stepping = False

    def batches(self, count: int, read: Callable[[Tensor], Read]) -> Iterator[tuple[int, Read]]:
        """The steps still to do, each with what is read of its batch: while one step is computed, the next one's is.

        read: a function of nothing but places among `count` pictures, those of this process's share.
        """
        # It gets one of torch's threads, as torch's own reader does: a batch is small, and the others are the model's.
        with ThreadPoolExecutor(1, "reader", torch.set_num_threads, (1,)) as reader:
            ahead = None
            for step in self.steps():
                this = ahead or reader.submit(read, self.share(self.places(step, count)))
                if step + 1 < self.config.steps:
                    ahead = reader.submit(read, self.share(self.places(step + 1, count)))
                yield step, this.result()

    def places(self, step: int, count: int) -> Tensor:
        """The step's batch, of all processes: places among `count` pictures."""
        start, size = step * self.config.batch_size, self.config.batch_size
        return permuted(count, start, start + size, self.config.seed)

    def share(self, batch: Tensor) -> Tensor:
        """This process's part of what is known of a whole batch. What is drawn at random is drawn of the whole batch in
        every process, so that the result is the same for any number of them."""
        return batch[self.accelerator.process_index :: self.accelerator.num_processes]

    def gather(self, share: Tensor) -> Tensor:
        """The whole batch of the processes' parts, in its order."""
        parts = self.accelerator.gather(share).unflatten(0, (self.accelerator.num_processes, -1))
        return parts.transpose(0, 1).flatten(0, 1)

    def descend(self, loss: Tensor) -> None:
        """One optimizer step down the loss, with the gradient's norm clipped to 1."""
        self.step_down(loss, self.model, self.optimizer, 1.0)

    def step_down(
        self, loss: Tensor, model: nn.Module, optimizer: torch.optim.Optimizer, max_norm: float = inf
    ) -> None:
        """The same for any model and optimizer, which keep what they are if the loss or gradient is not finite."""
        self.accelerator.backward(loss)
        norm = self.accelerator.clip_grad_norm_(model.parameters(), max_norm)
        # In float16 accelerate scales the loss, meets gradients that overflow and skips their steps: all as it should.
        numbers = [loss.detach()] if self.accelerator.scaler else [loss.detach(), norm]
        if not all(number.isfinite() for number in numbers):
            raise self._diverged()
        optimizer.step()
        optimizer.zero_grad()

    def _diverged(self) -> TrainingError:
        lower = f"start again with a lower --learning-rate than {self.config.learning_rate:g}"
        if self.saved:
            lower += (
                f" ({self.checkpoint} has kept step {self.saved}: --resume goes on from there, likely to the same end)"
            )
        return TrainingError(
            f"the training diverged: the loss or gradient of step {self.done + 1} is no number; {lower}"
        )

    def finish(self, **metrics: float) -> Record:
        """Ends a step: moving average, clock, and every so often a checkpoint."""
        self.ema.step(self.weights.parameters())
        elapsed = time.perf_counter() - self._started
        self.done, self.seconds = self.done + 1, self.seconds + elapsed
        if self.accelerator.is_main_process and (self.done == self.config.steps or self._is_due()):
            self._save()
        return Record(self.done, self.config.steps, self.config.batch_size / elapsed, metrics)

    def _is_due(self) -> bool:
        """Whether there is to be a checkpoint."""
        if self.checkpoint_every is None:
            return time.monotonic() - self._saved_at > CHECKPOINT_SECONDS
        return self.done % self.checkpoint_every == 0

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

    def _stop_if_asked(self) -> None:
        if asked.number:
            self.accelerator.set_trigger()
        if self.accelerator.check_trigger():  # in any process: all leave after the same step
            if self.accelerator.is_main_process and self.saved < self.done:
                self._save()
            raise Stopped(asked.number or signal.SIGTERM)

    def _save(self) -> None:
        state = {name: part.state_dict() for name, part in self.state.items()}
        counts = {"config": self.identity, "step": self.done, "seconds": self.seconds}
        save_checkpoint(self.checkpoint, counts | state)
        self.saved = asked.saved = self.done
        self._saved_at = time.monotonic()


def accelerated(mixed_precision: str | None) -> Accelerator:
    """Where and how a training computes.

    mixed_precision: None = as accelerate was configured, or else bf16 on a GPU.
    """
    configured = "ACCELERATE_MIXED_PRECISION" in os.environ or not torch.cuda.is_available()
    waiting = InitProcessGroupKwargs(timeout=PATIENCE)
    precision = mixed_precision if mixed_precision or configured else "bf16"
    return Accelerator(mixed_precision=precision, kwargs_handlers=[waiting])


@contextmanager
def in_turn(accelerator: Accelerator) -> Iterator[None]:
    """The first process, then the first of every other machine, then the others: each finds what was written before
    it, whether the machines share their disks or not."""
    with accelerator.main_process_first(), accelerator.local_main_process_first():
        yield


def alone(training: str) -> Callable:
    """Decorates a training loop (config, pack, run_folder, …): one at a time may use a run folder or write a pack.

    training: what it trains, for the TrainingError that the second one raises.
    """

    def decorate(loop: Callable[..., Iterator[Record]]) -> Callable[..., Iterator[Record]]:
        @wraps(loop)
        def locked(config, pack: Path, run_folder: Path, *arguments, **options) -> Iterator[Record]:
            asked.begun = True
            if os.environ.get("RANK", "0") != "0":  # under accelerate launch the first process has the lock for all
                yield from loop(config, pack, run_folder, *arguments, **options)
                return
            beside = pack.with_name(f".{pack.name}.lock")
            with _lock(run_folder / "lock", run_folder, training), _lock(beside, pack, training):
                yield from loop(config, pack, run_folder, *arguments, **options)

        return locked

    return decorate


@contextmanager
def _lock(file: Path, locked: Path, training: str) -> Iterator[None]:
    """The system's own lock on a file, which falls with its process however that ends.  locked: what it stands for."""
    file.parent.mkdir(parents=True, exist_ok=True)
    with file.open("a+", encoding="utf-8") as opened:  # not "w": it says who has the lock
        try:
            if fcntl is None:
                raise OSError("this system has no flock")
            fcntl.flock(opened, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if not os.fstat(opened.fileno()).st_nlink:
                raise BlockingIOError("whoever had the lock removed the file just now")
        except BlockingIOError:
            opened.seek(0)
            raise TrainingError(
                f"{locked} is in use by another training ({opened.read().strip()}); "
                f"wait for its end, stop it, or train under another name"
            ) from None
        except OSError as error:  # some network drives have none either
            logging.getLogger(__name__).warning(
                "%s cannot be locked (%s): see to it that no two trainings use it", locked, error
            )
        opened.truncate(0)
        opened.write(f"{training}, process {os.getpid()}, since {datetime.now():%Y-%m-%d %H:%M}\n")
        opened.flush()
        try:
            yield
        finally:
            with suppress(OSError):  # Windows removes no open file
                file.unlink()


def step_generator(device: torch.device, seed: int, step: int) -> torch.Generator:
    """The source of all randomness of one step, the same in every process."""
    # A CPU generator heeds 32 bits: runs start that far apart (the golden ratio's share of them) along one sequence.
    return torch.Generator(device).manual_seed((step + 0x9E3779B1 * 1024 * seed) % 2**32)


def learning_rate_factor(step: int, steps: int, warmup: int) -> float:
    """Linear from 0 to 1 over `warmup` steps, then half a cosine down to 0 at the last step."""
    if step < warmup:
        return (step + 1) / warmup
    return 0.5 * (1 + cos(pi * (step - warmup) / max(1, steps - warmup)))


def save_checkpoint(path: Path, state: dict) -> None:
    """All or nothing: a run killed while saving keeps its previous checkpoint."""
    with replacing(path) as partial, partial.open("wb") as file:
        try:
            torch.save(state, file)
        except RuntimeError as error:  # torch's own, over that of a full disk or a signal
            raise error.__context__ or error from None


def load_checkpoint(path: Path, config: dict, defaults: dict | None = None) -> dict:
    """The state saved at `path`.  Raises PackError if there is none or it was made with another configuration.

    defaults: what to take for options that did not exist when it was saved; None = they are missing.
    """
    if not path.is_file():
        raise PackError(f"there is no checkpoint at {path} to resume; start without --resume")
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
        saved = (defaults or {}) | dict(state["config"])
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
