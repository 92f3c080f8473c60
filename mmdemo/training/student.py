"""The student's training loop: a transformer that draws in a few jumps what its pack's draws in many guided steps.

A deterministic sampler makes of every noise one drawing, and passes through the same places each time. The student
learns these trajectories by regression: from x_t the mean flow until a later time s, (x_t - x_s) / (t - s) (MeanFlow,
arXiv:2505.13447, eq. 3), over the jumps that it will be asked for. Guidance is in the trajectories, and so in the
student (arXiv:2210.03142); it begins as its teacher, or as some blocks of it. A student can teach the next, smaller one
(progressive distillation, arXiv:2202.00512): its trajectories are a few jumps, and so made sooner.
"""

from collections.abc import Iterator
from hashlib import sha256
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor
from tqdm import tqdm

from mmdemo import files, loading, packs, provenance
from mmdemo.arguments import MAX_SEED
from mmdemo.errors import PackError
from mmdemo.models.dit import DiT
from mmdemo.pipeline import ClassPipeline, Label
from mmdemo.samplers import FAST, MAX_JUMPS, USUAL_JUMPS
from mmdemo.schedules import make_scheduler, scheduler_is_stochastic, stops
from mmdemo.training import export
from mmdemo.training.config import DiTConfig, StudentConfig
from mmdemo.training.dit import read_latents
from mmdemo.training.loop import Record, Run, accelerated, alone, in_turn, step_generator

PART = 500  # drawings made at a time, and kept in one file
NAMELESS = 0.05  # share of the drawings by the empty text, where labels are texts


@alone("a student")
def train_student(
    config: StudentConfig,
    pack: Path,  # the folder to add to
    run_folder: Path,  # checkpoints and the teacher's drawings live here
    data_dir: str | Path | None = None,  # where the captions are, if the latents are not in `run_folder`
    resume: bool = False,
    mixed_precision: str | None = None,  # None = as accelerate was configured, or else bf16 on a GPU
    checkpoint_every: int | None = None,  # steps; None = every half minute
    strict: bool = False,  # pass over no picture of a folder that cannot be read
    compiled: bool | None = None,  # by torch.compile; None = on a GPU
) -> Iterator[Record]:
    """Train, one Record a step; after the last one the pack has the sampler `fast`.

    Raises PackError if the pack has no transformer of ours, its default sampler draws noise at every step, it lacks the
    teacher that is asked for, or one of so many blocks, or there is nothing fitting to resume.
    """
    accelerator = accelerated(mixed_precision)
    device = accelerator.device
    described, pipeline = _teacher(pack, device, config)
    labels = _labels(described, pipeline, run_folder, data_dir, config, strict)
    teacher, digest = getattr(pipeline, config.teacher), _digest(described, labels, config)
    with in_turn(accelerator), accelerator.autocast():  # one process draws, the others read what it wrote
        times, drawn = _trajectories(pipeline, labels, config, run_folder / "drawings" / digest)

    torch.manual_seed(config.seed)
    sizes = {name: value for name, value in teacher.config.items() if not name.startswith("_")}
    student = DiT(**sizes | {"times": times})
    student.load_state_dict(teacher.state_dict(), strict=False)  # but for what tells it how far to jump
    _shorten(student, config.depth or sizes["depth"])
    student.to(device).requires_grad_(True)
    optimizer = torch.optim.AdamW(student.parameters(), lr=config.learning_rate, weight_decay=0.0, fused=True)
    checkpoint, identity = run_folder / "student.pt", {"drawings": digest}
    run = Run(accelerator, config, student, optimizer, checkpoint, checkpoint_every, resume, identity, compiled)
    if device.type == "cuda":
        drawn = drawn.to(device)
    jumps, shares = (table.to(device) for table in _jumps(len(times)))
    times = torch.tensor(times, device=device)

    for step in run.steps():
        rng = step_generator(device, config.seed, step)
        places = run.share(run.places(step, len(labels)))
        t, s = run.share(jumps[shares.multinomial(config.batch_size, replacement=True, generator=rng)]).T
        x_t, x_s = (drawn[places.to(drawn.device), at.to(drawn.device)].to(device).float() for at in (t, s))
        y = pipeline.label_ids([labels[place] for place in places.tolist()]).to(device)
        length = (times[t] - times[s]) / 1000

        with accelerator.autocast():
            prediction = run.model(x_t, timestep=times[t], class_labels=y, until=times[s]).sample
        loss = (prediction.float() - (x_t - x_s) / length.view(-1, 1, 1, 1)).square().mean()
        run.descend(loss)
        yield run.finish(loss=loss.item())

    if accelerator.is_main_process:
        export.save_student(pack, run.averaged(), run.summary())
    accelerator.wait_for_everyone()


def _teacher(pack: Path, device: torch.device, config: StudentConfig) -> tuple[packs.Pack, ClassPipeline]:
    described = packs.read(pack)
    if described.problem or not described.can_sample:
        why = described.problem or "it has no transformer"
        raise PackError(f"pack {pack.name!r} has nothing to teach a student: {why}")
    pipeline = loading.load(described, device.type)
    if not isinstance(pipeline.transformer, DiT):
        raise PackError(f"pack {pack.name!r} has no transformer of mmdemo's own; only such a one has a student")
    if described.defaults.sampler == FAST:
        raise PackError(
            f"pack {pack.name!r} draws by {FAST} unless it is told otherwise, and so by a student; choose another "
            f"sampler for it: python -m mmdemo evaluate --pack {pack.name} --sampler euler --defaults"
        )
    scheduler = make_scheduler(pipeline.scheduler, described.defaults.sampler)
    if scheduler_is_stochastic(scheduler) or scheduler.order > 1:
        raise PackError(
            f"pack {pack.name!r} draws by {described.defaults.sampler}, whose steps lie on no single path; "
            f"choose another for it: python -m mmdemo evaluate --pack {pack.name} --sampler euler --defaults"
        )
    if (steps := described.defaults.steps) < MAX_JUMPS:
        raise PackError(
            f"pack {pack.name!r} draws in {steps} steps by itself; a student draws in up to {MAX_JUMPS}, so give it "
            f"more to learn from: python -m mmdemo evaluate --pack {pack.name} --steps 20 --defaults"
        )
    if (teacher := getattr(pipeline, config.teacher)) is None:
        raise PackError(
            f"pack {pack.name!r} has no student that could teach another; first: "
            f"python -m mmdemo train student --pack {pack.name}"
        )
    if (config.depth or 1) > (most := teacher.config.depth):
        blocks = f"{most} block{'s' * (most > 1)}"
        raise PackError(f"depth is {config.depth}; the {config.teacher} of {pack.name!r} has {blocks} to begin with")
    return described, pipeline


def _labels(described, pipeline, run_folder, data_dir, config: StudentConfig, strict: bool) -> list[Label]:
    """What each of the drawings is drawn by: every class in turn, or captions of the training pictures."""
    if not described.words:
        return [n % len(described.classes) for n in range(config.trajectories)]
    *_, captions = read_latents(described.path, run_folder, data_dir, DiTConfig(condition="text"), strict)
    rng = torch.Generator().manual_seed(config.seed)
    shares = torch.rand(config.trajectories, 3, generator=rng).tolist()

    def text(nameless: float, picture: float, caption: float) -> str:
        some = captions.texts[int(picture * len(captions.texts))]
        return "" if nameless < NAMELESS else some[int(caption * len(some))]

    return [text(*three) for three in shares]


def _digest(described: packs.Pack, labels: list[Label], config: StudentConfig) -> str:
    """Of all that the teacher's drawings depend on."""
    weights = provenance.weights_digest(described.path / config.teacher)
    return sha256(f"{weights} {described.defaults} {labels} {config.seed}".encode()).hexdigest()[:16]


def _trajectories(
    pipeline: ClassPipeline, labels: list[Label], config: StudentConfig, folder: Path
) -> tuple[list[float], Tensor]:
    """The N times at which the teacher stops, the last one 0, and where its drawings are then: (count, N, d, h, w), in
    half precision. Made in parts, each kept, so that those that there are need not be made again."""
    way = {"sampler": FAST, "num_inference_steps": MAX_JUMPS} if config.teacher == "student" else {}
    parts, times = [], []
    for start in tqdm(range(0, len(labels), PART), desc="drawing", disable=None):
        file = folder / f"{start // PART:05}.safetensors"
        try:
            part = load_file(file)
        except (OSError, SafetensorError):
            numbers = range(start, min(start + PART, len(labels)))
            # From the highest seed down: pictures of the first ones are what a student is measured on.
            generators = [torch.Generator().manual_seed(MAX_SEED - n) for n in numbers]
            states, times = [], []
            for step in pipeline.steps([labels[n] for n in numbers], generators, **way):
                states.append(step.x_t.half().cpu())
                times.append(step.timestep)
            states = torch.stack([*states, step.latents.half().cpu()], 1)
            part = {"times": torch.tensor([*times, 0.0]), "states": states}
            with files.replacing(file) as partial:
                save_file(part, partial)
        parts.append(part["states"])
    return part["times"].tolist(), torch.cat(parts)


def _shorten(student: DiT, depth: int) -> None:
    """Leaves so many of its blocks, the first and the last ones: those in between are missed least, and long skips
    lead from one half to the other, the outermost first."""
    ends = depth // 2
    student.blocks = torch.nn.ModuleList(
        [*student.blocks[: depth - ends], *student.blocks[len(student.blocks) - ends :]]
    )
    if hasattr(student, "skips"):
        student.skips = student.skips[len(student.skips) - ends :]
    student.register_to_config(depth=depth)


def _jumps(stations: int) -> tuple[Tensor, Tensor]:
    """The jumps that a drawing in 1 to MAX_JUMPS of them takes, from which place to which (n, 2), and how often each is
    to be practised (n,): those of USUAL_JUMPS half of the time."""
    jumps, shares = [], []
    for count in range(1, min(MAX_JUMPS, stations - 1) + 1):
        places = stops(stations, count)
        jumps += zip(places, places[1:], strict=False)
        shares += [(1.0 if count == USUAL_JUMPS else 1.0 / (MAX_JUMPS - 1)) / count] * count
    return torch.tensor(jumps), torch.tensor(shares)
