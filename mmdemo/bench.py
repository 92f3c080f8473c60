"""How fast all of it is, as ratios: every time stands beside that of a peer, measured in turns in the same run.

Times of one machine say little about another; a ratio holds on both. What is measured knows nothing of this module.
"""

import json
import os
import platform
import shutil
import socket
import statistics
import subprocess
import sys
import tempfile
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import asdict, dataclass
from itertools import islice, pairwise
from pathlib import Path
from types import SimpleNamespace

import diffusers
import torch
import torch.nn.functional as F
from diffusers import DDIMScheduler, DiTPipeline, DiTTransformer2DModel, ModelMixin, VQModel
from diffusers.configuration_utils import ConfigMixin, register_to_config
from PIL import Image
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from mmdemo import loading
from mmdemo.errors import PackError
from mmdemo.models.dit import DiT
from mmdemo.models.vqvae import VQVAE
from mmdemo.pipeline import ClassPipeline, null_class
from mmdemo.samplers import FAST
from mmdemo.schedules import noise_level, prediction_type, x0_from_prediction
from mmdemo.space import ROOT
from mmdemo.studio import Studio
from mmdemo.training.config import DiTConfig, VQVAEConfig
from mmdemo.training.dit import make_schedule
from mmdemo.training.vqvae import train_vqvae

ROUNDS, SECONDS = 3, 4.0  # each comparison takes at least so many rounds, and goes on for about so long
PICTURES = 16
SLOW_STEPS, SLOW_GUIDANCE = 50, 2.0  # what DiT pipelines are run with
STARTS = 3
STARTING = 120  # seconds after which a start has failed


@dataclass(frozen=True)
class Row:
    """One line of the table."""

    what: str
    value: float
    unit: str
    peer: str
    peer_value: float  # in the same unit

    @property
    def ratio(self) -> float:
        return self.value / self.peer_value

    def json(self) -> dict:
        return asdict(self) | {"ratio": self.ratio}

    def __str__(self) -> str:
        return f"{self.what}: {self.value:.3g} {self.unit}; {self.peer}: {self.peer_value:.3g}: × {self.ratio:.2f}"


def measure(studio: Studio, pack: str) -> Iterator[Row]:
    """Every row as soon as it is known.  Raises PackError unless the pack draws classes."""
    described = studio.pack(pack)
    if not described.can_sample or described.words:
        raise PackError(f"{pack!r} draws no classes; name a pack that does")
    label = described.classes[0]
    studio.sample(pack, label, 1, 0, 1).result()  # opens it
    yield from training()
    yield from reading()
    yield from drawing(studio, pack)
    yield from watching(studio, pack, label)
    yield from growing(studio, pack, label)
    yield from starting()


def machine() -> str:
    """What it was measured on, in words."""
    gpu = torch.cuda.get_device_name() if torch.cuda.is_available() else None
    cpu = next((line.split(":")[1].strip() for line in _lines("/proc/cpuinfo") if line.startswith("model name")), "")
    count = torch.get_num_threads()
    threads = f"{count} thread{'s' * (count > 1)} of {cpu or platform.processor() or platform.machine()}"
    return f"{gpu or threads}, torch {torch.__version__}, diffusers {diffusers.__version__}"


def in_turns(*works: Callable[[], object]) -> list[float]:
    """The median seconds of each; they take turns, so that what else the machine does falls on all alike."""
    for work in works:
        work()
    seconds, started = [[] for _ in works], time.perf_counter()
    while len(seconds[0]) < ROUNDS or time.perf_counter() - started < SECONDS:
        for taken, work in zip(seconds, works, strict=True):
            at = time.perf_counter()
            work()
            if torch.cuda.is_available():
                torch.cuda.synchronize()
            taken.append(time.perf_counter() - at)
    return [statistics.median(taken) for taken in seconds]


# ------------------------------------------------------------------------------------------------------------ training


def training() -> Iterator[Row]:
    """A step of each model at its default sizes: forward, backward, optimizer."""
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    config = DiTConfig()
    sizes = {"sample_size": 8, "patch_size": config.patch_size, "in_channels": 4}
    width = config.hidden_size // config.num_heads
    ours = DiT(**sizes, hidden_size=config.hidden_size, depth=config.depth, num_heads=config.num_heads)
    theirs = DiTTransformer2DModel(
        **sizes, num_layers=config.depth, num_attention_heads=config.num_heads, attention_head_dim=width,
        num_embeds_ada_norm=10, out_channels=4,
    )  # fmt: skip
    rng = torch.Generator().manual_seed(0)
    x, eps = torch.randn(2, config.batch_size, 4, 8, 8, generator=rng).to(device)
    t, y = torch.arange(config.batch_size, device=device), torch.arange(config.batch_size, device=device) % 10

    def denoised(model) -> Tensor:
        return F.mse_loss(model(x, timestep=t, class_labels=y).sample, eps)

    step, peer = _step(ours.to(device), denoised), _step(theirs.to(device), denoised)
    square = torch.randn(2048, 2048, device=device)
    ours_took, theirs_took, product = in_turns(step, peer, lambda: square @ square)
    yield _times("a DiT's training step", ours_took, "DiTTransformer2DModel's, of the same shape", theirs_took)
    with FlopCounterMode(display=False) as counted:
        step()
    reached, most = counted.get_total_flops() / ours_took / 1e9, 2 * 2048**3 / product / 1e9
    yield Row("what a DiT's training step reaches", reached, "GFLOP/s", "a product of 2048×2048 matrices", most)

    config = VQVAEConfig()
    kept = {"latent_channels": config.latent_channels, "in_channels": 1}
    ours = VQVAE(
        **kept, channels=config.channels, num_codes=config.num_codes, stride=config.stride,
        num_res_blocks=config.num_res_blocks,
    )  # fmt: skip
    theirs = VQModel(
        **kept, out_channels=1, num_vq_embeddings=config.num_codes, block_out_channels=(16, 32, 64),
        down_block_types=["DownEncoderBlock2D"] * 3, up_block_types=["UpDecoderBlock2D"] * 3, norm_num_groups=8,
    )  # fmt: skip
    x = torch.rand(config.batch_size, 1, 32, 32, generator=rng).to(device)
    inputs = x.contiguous(memory_format=torch.channels_last)

    def rebuilt(model) -> Tensor:
        out = model(inputs)
        apart = F.mse_loss(out.latents, out.codes) if isinstance(model, VQVAE) else out.commit_loss
        return F.mse_loss(out.sample, inputs) + 0.25 * apart

    models = (model.to(device, memory_format=torch.channels_last) for model in (ours, theirs))
    took = in_turns(*(_step(model, rebuilt) for model in models))
    peer = f"VQModel's, 16-32-64 channels ({_millions(theirs)} million parameters)"
    yield _times(f"a VQ-VAE's training step ({_millions(ours)} million parameters)", took[0], peer, took[1])


def _step(model: torch.nn.Module, loss: Callable[[torch.nn.Module], Tensor]) -> Callable[[], None]:
    moved = [one for one in model.train().parameters() if one.requires_grad]
    optimizer = torch.optim.AdamW(moved, lr=1e-4, fused=True)

    def step() -> None:
        loss(model).backward()
        torch.nn.utils.clip_grad_norm_(moved, 1.0)
        optimizer.step()
        optimizer.zero_grad()

    return step


COUNTS, SIDE = (1_000, 10_000, 100_000), 64  # of pictures, in pixels
PRACTICE = 15  # steps that are timed


def reading() -> Iterator[Row]:
    """What a codec's training costs with more pictures, in programs of their own."""
    if not COUNTS or not _lines("/proc/self/status"):
        return  # no other system says how much memory is a program's own
    with tempfile.TemporaryDirectory() as folder:
        first, *others = [(count, _practised(Path(folder) / str(count), count)) for count in COUNTS]
    for count, one in others:
        what, peer = f"with {count:,} pictures of {SIDE}×{SIDE}", f"with {first[0]:,}"
        yield Row(f"a VQ-VAE's training step {what}", 1000 * one["step"], "ms", peer, 1000 * first[1]["step"])
        yield Row(f"memory of that training {what}", one["memory"], "MB", peer, first[1]["memory"])
    yield Row(f"reading {count:,} pictures once, decoded", one["again"], "s", "decoding them", one["first"])


def _practised(folder: Path, count: int) -> dict[str, float]:
    """The seconds of a step, of opening so many pictures for the first time and again, and megabytes at the most."""
    pictures = folder / "pictures" / "train" / "one"
    pictures.mkdir(parents=True)
    noise = torch.randint(0, 256, (SIDE // 8, SIDE // 8, 3), generator=torch.Generator().manual_seed(0))
    picture = Image.fromarray(noise.byte().numpy()).resize((SIDE, SIDE), Image.Resampling.BICUBIC)
    for n in range(count):  # a file system may give one file no more than some ten thousand names
        if n % 10_000 == 0:
            picture.save(file := pictures / f"{n}.png")
        else:
            os.link(file, pictures / f"{n}.png")
    program = [sys.executable, "-m", __name__, str(folder), str(SIDE), str(PRACTICE)]
    environment = os.environ | {"XDG_CACHE_HOME": str(folder / "cache")}
    practised = subprocess.run(program, env=environment, cwd=ROOT, check=True, stdout=subprocess.PIPE).stdout
    shutil.rmtree(folder)
    return json.loads(practised)


def practise(folder: Path, side: int, count: int) -> dict[str, float]:
    """Some steps of a training, in a process of its own for its memory, and the first step of another one."""
    most, done = 0.0, threading.Event()

    def watch() -> None:
        nonlocal most
        while not done.wait(0.02):
            status = dict(line.split(":", 1) for line in _lines("/proc/self/status"))
            most = max(most, int(status["RssAnon"].split()[0]) / 1000)

    threading.Thread(target=watch, daemon=True).start()
    config = VQVAEConfig(dataset=str(folder / "pictures"), image_size=side, batch_size=16)

    def train(name: str, steps: int) -> list[float]:
        """When each was done, in seconds."""
        began = time.perf_counter()
        with closing(train_vqvae(config, folder / name, folder / f"{name}-run")) as records:
            return [time.perf_counter() - began for _ in islice(records, steps)]

    ends = train("first", count + 1)
    done.set()
    step = statistics.median(later - earlier for earlier, later in pairwise(ends))
    return {"first": ends[0], "again": train("again", 1)[0], "step": step, "memory": most}


# ------------------------------------------------------------------------------------------------------------- drawing


class FlowAsNoise(ModelMixin, ConfigMixin):
    """A pack's transformer for pipelines of diffusers: on the variance-preserving path, predicting the noise.

    Along both paths x_t / (a + s) is the same where s / (a + s) is, so it is asked what it was trained on.
    """

    @register_to_config
    def __init__(self, in_channels: int, out_channels: int, sample_size: int):
        super().__init__()

    @classmethod
    def of(cls, pipeline: ClassPipeline, schedule: DDIMScheduler) -> "FlowAsNoise":
        inner = pipeline.transformer
        made = cls(inner.config.in_channels, inner.config.in_channels, inner.config.sample_size)
        made.inner, made.schedule, made.flow = inner, schedule, pipeline.scheduler
        return made

    def forward(self, x: Tensor, timestep: Tensor, class_labels: Tensor):
        a, s = (level.view(-1, 1, 1, 1) for level in noise_level(self.schedule, timestep))
        labels = class_labels.clamp(max=null_class(self.inner))  # 1000 stands for no class there
        x, level = x / (a + s), s / (a + s)
        t = level.flatten() * self.flow.config.num_train_timesteps
        prediction = self.inner(x, timestep=t, class_labels=labels).sample
        x0 = x0_from_prediction("flow", prediction, x, 1 - level, level)
        return SimpleNamespace(sample=x0 + prediction)  # eps


class Unquantized:
    """A pack's codec for the same pipelines."""

    def __init__(self, pipeline: ClassPipeline):
        self._pipeline, self.config = pipeline, SimpleNamespace(scaling_factor=1.0)

    def decode(self, latents: Tensor):
        return SimpleNamespace(sample=self._pipeline.decode(latents))


def drawing(studio: Studio, pack: str) -> Iterator[Row]:
    """Sixteen pictures by the pack's default and by its student, beside fifty guided steps in diffusers' own loop."""
    described = studio.pack(pack)
    pipeline = loading.load(described)
    if prediction_type(pipeline.scheduler) != "flow":
        return  # the rest of diffusers has no loop for such a pack's transformer
    labels = [n % len(described.classes) for n in range(PICTURES)]
    names = [described.classes[n] for n in labels]
    schedule = make_schedule(DiTConfig(prediction="v"))
    schedule = DDIMScheduler.from_config(schedule.config, prediction_type="epsilon")
    peer = DiTPipeline(FlowAsNoise.of(pipeline, schedule), Unquantized(pipeline), schedule)
    peer.set_progress_bar_config(disable=True)

    def slowly():
        return peer(labels, guidance_scale=SLOW_GUIDANCE, num_inference_steps=SLOW_STEPS)

    def quickly(**settings):
        return lambda: studio.sample(pack, names, PICTURES, 0, **settings).result()

    works = {described.defaults.words(["seed"]): quickly()}
    if FAST in described.samplers:
        works |= {f"{FAST}, 4 steps": quickly(sampler=FAST), f"{FAST}, 1 step": quickly(sampler=FAST, steps=1)}
    took = in_turns(slowly, *works.values())
    for how, seconds in zip(works, took[1:], strict=True):
        what = f"{SLOW_STEPS} guided DDIM steps in diffusers' DiTPipeline, the same weights"
        yield _times(f"{PICTURES} pictures of {pack}, {how}", seconds, what, took[0])


def watching(studio: Studio, pack: str, label: str) -> Iterator[Row]:
    """Until something is to be seen, and what it costs that it is."""
    pipeline = loading.load(studio.pack(pack))
    config = pipeline.transformer.config
    x = torch.randn(2, config.in_channels, config.sample_size, config.sample_size, device=pipeline.device)

    @torch.inference_mode()
    def evaluation() -> None:
        pipeline.transformer(x, timestep=torch.tensor(500.0), class_labels=torch.zeros(2, dtype=torch.long))

    took = in_turns(lambda: next(studio.denoise(pack, label, 0)), evaluation)
    yield _times("the first picture after a click", took[0], "one evaluation of the transformer", took[1])
    watched = lambda: list(studio.denoise(pack, label, 0))  # noqa: E731
    took = in_turns(watched, lambda: studio.sample(pack, label, 1, 0).result())
    yield _times("a picture, with a picture of every step", took[0], "without", took[1])


def growing(studio: Studio, pack: str, label: str) -> Iterator[Row]:
    """What four times as much costs."""

    def draw(count: int, steps: int) -> Callable[[], object]:
        return lambda: studio.sample(pack, label, count, 0, steps).result()

    few, many, long = in_turns(draw(4, 10), draw(16, 10), draw(4, 40))
    yield _times("16 pictures in 10 steps", many, "4 pictures in 10 steps", few)
    yield _times("4 pictures in 40 steps", long, "4 pictures in 10 steps", few)


# ------------------------------------------------------------------------------------------------------------ starting

BARE = "import gradio\nwith gradio.Blocks() as page: gradio.Textbox()\npage.launch(server_port={}, ssr_mode=False)"


def starting() -> Iterator[Row]:
    """From nothing to an answer, and to models that are ready."""
    if not STARTS or not (ROOT / "app.py").is_file():
        return  # installed without the app
    pages, bare, ready, imports = [], [], [], []
    for _ in range(STARTS):
        port = _free_port()
        (answered,) = _until([sys.executable, "-c", BARE.format(port)], [f"http://127.0.0.1:{port}/"])
        bare.append(answered)
        port = _free_port()
        home = f"http://127.0.0.1:{port}/"
        answered, loaded = _until([sys.executable, "app.py", "--port", str(port)], [home, home + "health"])
        pages.append(answered)
        ready.append(loaded)
        started = time.perf_counter()
        subprocess.run([sys.executable, "-c", "import gradio, torch, diffusers.schedulers"], check=True)
        imports.append(time.perf_counter() - started)
    pages, bare, ready, imports = map(statistics.median, (pages, bare, ready, imports))
    yield Row("the page's first answer", pages, "s", "a page of gradio with one box", bare)
    yield Row("the first pack's models ready", ready, "s", "importing gradio, torch and diffusers", imports)


def _until(command: list[str], addresses: list[str]) -> list[float]:
    """Seconds from a program's start to each address's first good answer."""
    quiet = {"GRADIO_ANALYTICS_ENABLED": "False"}
    began, took = time.perf_counter(), []
    with subprocess.Popen(
        command, cwd=ROOT, env=os.environ | quiet, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    ) as program:
        try:
            for address in addresses:
                while not _is_well(address):
                    if program.poll() is not None or time.perf_counter() - began > STARTING:
                        raise OSError(f"{command[1]} did not start")
                    time.sleep(0.02)
                took.append(time.perf_counter() - began)
        finally:
            program.terminate()
    return took


def _is_well(address: str) -> bool:
    try:
        with urllib.request.urlopen(address, timeout=5) as answer:
            body = answer.read()
    except (OSError, urllib.error.URLError):
        return False
    return not address.endswith("/health") or json.loads(body)["status"] == "ready"


def _free_port() -> int:
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        return one.getsockname()[1]


def _times(what: str, seconds: float, peer: str, peer_seconds: float) -> Row:
    return Row(what, 1000 * seconds, "ms", peer, 1000 * peer_seconds)


def _millions(model: torch.nn.Module) -> str:
    return f"{sum(one.numel() for one in model.parameters()) / 1e6:.2f}"


def _lines(file: str) -> list[str]:
    path = Path(file)
    return path.read_text(encoding="utf-8").splitlines() if path.is_file() else []


if __name__ == "__main__":
    print(json.dumps(practise(Path(sys.argv[1]), *map(int, sys.argv[2:]))))
