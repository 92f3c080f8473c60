"""Schedules: how clean latents and noise are mixed, and how a sampler goes from one to the other.

Along every schedule x_t = a x0 + s eps, with (a, s) = (sqrt(alphabar_t), sqrt(1 - alphabar_t)) for the
variance-preserving ones (DDPM, arXiv:2006.11239, eq. 4) and (1 - sigma, sigma) for the straight one (rectified flow,
arXiv:2209.03003).
"""

import copy
from collections.abc import Sequence
from weakref import WeakKeyDictionary

import diffusers
import torch
from diffusers import FlowMatchEulerDiscreteScheduler, FlowMatchHeunDiscreteScheduler
from torch import Tensor

from mmdemo import samplers

_schedulers = WeakKeyDictionary()  # schedule -> {sampler: a scheduler that nobody has used}


def is_flow(scheduler) -> bool:
    """Whether the schedule is the straight path rather than a variance-preserving one."""
    return samplers.is_flow(type(scheduler).__name__, scheduler.config)


def prediction_type(scheduler) -> str:
    """ "epsilon", "v_prediction", "sample" or "flow"."""
    return "flow" if is_flow(scheduler) else scheduler.config.prediction_type


def make_scheduler(schedule, sampler: str | None = None):
    """A fresh scheduler on the same schedule: they keep state, so every request has its own.

    sampler: a name in samplers.py; None = as the pack saved it.  Raises ValueError for an unknown name.
    """
    made = _schedulers.setdefault(schedule, {})
    if sampler not in made:
        made[sampler] = _made_scheduler(schedule, sampler)
    return copy.deepcopy(made[sampler])  # a third of the time that making it anew takes


def _made_scheduler(schedule, sampler: str | None):
    if sampler is None:
        return type(schedule).from_config(schedule.config)
    fitting = samplers.fitting(type(schedule).__name__, schedule.config)
    if sampler not in fitting:
        raise ValueError(f"sampler is {sampler!r}; this schedule allows {', '.join(fitting)}")
    scheduler, options = fitting[sampler]
    return getattr(diffusers, scheduler).from_config(dict(schedule.config), **options)


def set_timesteps(scheduler, count: int, device: torch.device) -> None:
    """`count` steps from pure noise to clean."""
    if isinstance(scheduler, FlowMatchEulerDiscreteScheduler):
        # Left alone it spends its last step between sigma 0.001 and 0, where nothing happens.
        scheduler.set_timesteps(sigmas=torch.linspace(1, 1 / count, count).tolist(), device=device)
    else:
        scheduler.set_timesteps(count, device=device)


def scheduler_is_stochastic(scheduler) -> bool:
    """Whether it draws noise at every step, and so needs the generators."""
    algorithm = scheduler.config.get("algorithm_type", "")
    return isinstance(scheduler, diffusers.DDPMScheduler) or algorithm.startswith("sde-")


def noise_level(scheduler, t: Tensor) -> tuple[Tensor, Tensor]:
    """(a, s) at time t, so that x_t = a x0 + s eps."""
    if is_flow(scheduler):
        s = t / scheduler.config.num_train_timesteps
        return 1 - s, s
    alphabar = scheduler.alphas_cumprod.to(t.device)[t.long()]
    return alphabar.sqrt(), (1 - alphabar).sqrt()


def x0_from_prediction(kind: str, prediction: Tensor, x_t: Tensor, a: Tensor, s: Tensor) -> Tensor:
    """The clean latents that a prediction implies.  v is of Salimans & Ho, arXiv:2202.00512; flow is eps - x0."""
    if kind == "epsilon":
        return (x_t - s * prediction) / a
    if kind == "v_prediction":
        return a * x_t - s * prediction
    if kind == "flow":
        return x_t - s * prediction
    return prediction


def prediction_of_x0(kind: str, x0: Tensor, x_t: Tensor, a: Tensor, s: Tensor) -> Tensor:
    """The prediction that implies these clean latents: the inverse of `x0_from_prediction`."""
    if kind == "epsilon":
        return (x_t - a * x0) / s
    if kind == "v_prediction":
        return (a * x_t - x0) / s
    if kind == "flow":
        return (x_t - x0) / s
    return x0


class Jumps:
    """How a student goes from noise to a picture, as a scheduler: each step is a jump along the mean flow.

    x_s = x_t - (t - s) u(x_t, t, s), with times from 1 to 0 (MeanFlow, arXiv:2505.13447, eq. 12).  times: a student's,
    in [0, 1000], from noise down.  count: jumps, at most one between two of its times.
    """

    order = 1

    def __init__(self, times: Sequence[float], count: int, device: torch.device):
        if not 1 <= count <= min(samplers.MAX_JUMPS, len(times) - 1):
            raise ValueError(f"num_inference_steps is {count}; 'fast' takes 1 to {samplers.MAX_JUMPS}")
        at = torch.tensor([times[place] for place in stops(len(times), count)], device=device)
        self.timesteps, self._next = at[:-1], dict(zip(at[:-1].tolist(), at[1:], strict=True))

    def until(self, t: Tensor) -> Tensor:
        """The time that the jump from t leads to."""
        return self._next[float(t)]

    def step(self, prediction: Tensor, t: Tensor, x: Tensor, return_dict: bool = False) -> tuple[Tensor]:
        return (x - (t - self.until(t)) / 1000 * prediction,)


def stops(stations: int, count: int) -> list[int]:
    """The places among a student's times where `count` jumps begin and end, evenly apart."""
    return [round(k * (stations - 1) / count) for k in range(count + 1)]


def first_step(count: int, strength: float) -> int:
    """The first of `count` steps to take so that their share is `strength`, at least one of them."""
    return count - max(1, min(count, round(count * strength)))


def noised(scheduler, x0: Tensor, eps: Tensor, t: Tensor) -> Tensor:
    """q(x_t | x_0) in closed form, a x0 + s eps, at the scale on which this scheduler steps."""
    if isinstance(scheduler, (FlowMatchEulerDiscreteScheduler, FlowMatchHeunDiscreteScheduler)):
        return scheduler.scale_noise(x0, t.view(1), eps)
    return scheduler.add_noise(x0, eps, t.view(1))
