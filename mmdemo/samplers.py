"""The samplers: what each is called, and which of diffusers' schedulers it is. A table of names, so that a pack can be
listed before diffusers is imported; pipeline.py makes schedulers of it.
"""

from collections.abc import Mapping

_FLOW = {"use_flow_sigmas": True, "prediction_type": "flow_prediction"}
_FIRST_ORDER = {**_FLOW, "solver_order": 1, "lower_order_final": True}

# By the kind of schedule, the default first: a scheduler's class and the options that make it this sampler.
VARIANCE_PRESERVING = {
    "ddim": ("DDIMScheduler", {}),
    "dpm++": ("DPMSolverMultistepScheduler", {}),
    "unipc": ("UniPCMultistepScheduler", {}),
    "heun": ("HeunDiscreteScheduler", {}),
    "euler": ("EulerDiscreteScheduler", {}),
    "ddpm": ("DDPMScheduler", {}),
}
# On the straight path DDIM is first-order DPM-Solver++, and DDPM its stochastic twin (arXiv:2211.01095, section 4).
FLOW = {
    "euler": ("FlowMatchEulerDiscreteScheduler", {}),
    "dpm++": ("DPMSolverMultistepScheduler", _FLOW),
    "unipc": ("UniPCMultistepScheduler", _FLOW),
    "heun": ("FlowMatchHeunDiscreteScheduler", {}),
    "ddim": ("DPMSolverMultistepScheduler", {**_FIRST_ORDER, "algorithm_type": "dpmsolver++"}),
    "ddpm": ("DPMSolverMultistepScheduler", {**_FIRST_ORDER, "algorithm_type": "sde-dpmsolver++"}),
}
# A pack with a student has one more, which needs no scheduler: its jumps, how many at most, and how many unless asked.
FAST = "fast"
MAX_JUMPS, USUAL_JUMPS = 8, 4
NAMES = (*dict.fromkeys((*VARIANCE_PRESERVING, *FLOW)), FAST)
# Those that a pack may be saved with.
SCHEDULERS = tuple(dict.fromkeys(name for name, _ in (*VARIANCE_PRESERVING.values(), *FLOW.values())))


def is_flow(scheduler: str, config: Mapping) -> bool:
    """Whether the schedule is the straight path rather than a variance-preserving one.

    scheduler: the class that a pack saved it as.  config: that one's.
    """
    return "FlowMatch" in scheduler or bool(config.get("use_flow_sigmas"))


def fitting(scheduler: str, config: Mapping) -> dict[str, tuple[str, dict]]:
    """The samplers for a schedule, by name."""
    return FLOW if is_flow(scheduler, config) else VARIANCE_PRESERVING
