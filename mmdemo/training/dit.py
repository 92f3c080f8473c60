"""The diffusion transformer's training loop. It adds a transformer and a schedule to a pack that has a codec."""

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cache, lru_cache, partial
from hashlib import sha256
from pathlib import Path

import torch
from diffusers import DDIMScheduler, FlowMatchEulerDiscreteScheduler
from safetensors import SafetensorError
from torch import Tensor

from mmdemo import codec, data, files, loading, packs, provenance
from mmdemo.errors import ArgumentError, PackError
from mmdemo.kinds import MAX_PROMPT
from mmdemo.models.dit import DiT
from mmdemo.pipeline import padded
from mmdemo.schedules import noise_level
from mmdemo.training import export, lexicon
from mmdemo.training.config import DiTConfig
from mmdemo.training.loop import Record, Run, accelerated, alone, in_turn, step_generator
from mmdemo.words import Words

PREDICTIONS = {"eps": "epsilon", "v": "v_prediction", "flow": "flow"}
SCHEDULES = {"linear": "linear", "cosine": "squaredcos_cap_v2"}
LONG = 0.7  # a caption with that share of the longest one's tokens is among the longest
PROMPTS = 8  # captions kept as examples of what may be asked for


@alone("a transformer")
def train_dit(
    config: DiTConfig,
    pack: Path,  # the folder to add to
    run_folder: Path,  # checkpoints and latents live here
    data_dir: str | Path | None = None,  # where the codec's data set is, if its latents are not in `run_folder`
    resume: bool = False,
    mixed_precision: str | None = None,  # None = as accelerate was configured, or else bf16 on a GPU
    checkpoint_every: int | None = None,  # steps; None = every half minute
    strict: bool = False,  # pass over no picture of a folder that cannot be read
    compiled: bool | None = None,  # by torch.compile; None = on a GPU
) -> Iterator[Record]:
    """Train, one Record a step; after the last one the pack on disk can sample.

    Raises PackError if the pack has no codec, its data neither classes nor captions, or there is nothing fitting to
    resume.
    """
    accelerator = accelerated(mixed_precision)
    device = accelerator.device
    with in_turn(accelerator):  # one process encodes, the others read what it wrote
        latents, labels = read_latents(pack, run_folder, data_dir, config, strict, device)
    latents, labels = latents.near(device), labels.to(device)

    torch.manual_seed(config.seed)
    try:
        transformer = DiT(
            sample_size=latents.plain.shape[-1],
            patch_size=config.patch_size,
            in_channels=latents.plain.shape[1],
            hidden_size=config.hidden_size,
            depth=config.depth,
            num_heads=config.num_heads,
            text_depth=config.text_depth,
            long_skips=config.long_skips,
            **labels.sizes,
        ).to(device)
    except ValueError as error:  # sizes that do not fit each other
        raise ArgumentError(str(error)) from None
    if config.start_from and not resume:
        start_from(transformer, labels.words, pack.parent / config.start_from)
    scheduler = make_schedule(config)
    optimizer = torch.optim.AdamW(transformer.parameters(), lr=config.learning_rate, weight_decay=0.0, fused=True)
    identity = {"codec": provenance.fingerprint(pack), "pictures": len(latents)} | labels.identity
    identity |= {"the pictures' digest": latents.digest}
    checkpoint = run_folder / "dit.pt"
    run = Run(accelerator, config, transformer, optimizer, checkpoint, checkpoint_every, resume, identity, compiled)

    for step, (x0, turned_x0) in run.batches(len(latents), latents.read):
        rng = step_generator(device, config.seed, step)
        x0, size = x0.to(device), config.batch_size
        y = run.share(labels.draw(run.places(step, len(latents)), config, step, rng)).to(device)
        if turned_x0 is not None:
            turned = run.share(torch.rand(size, generator=rng, device=device)) < config.mirrored
            x0 = torch.where(turned.view(-1, 1, 1, 1), turned_x0.to(device), x0)
        t = run.share(sample_times(config, size, rng, device))
        if config.prediction != "flow":
            t = t.floor()  # the variance-preserving schedule is known at whole times only
        a, s = (level.view(-1, 1, 1, 1) for level in noise_level(scheduler, t))
        eps = run.share(torch.randn((size, *x0.shape[1:]), generator=rng, device=device))
        x_t = a * x0 + s * eps

        with accelerator.autocast():
            prediction = run.model(x_t, timestep=t, class_labels=y).sample
        target = {"eps": eps, "v": a * eps - s * x0, "flow": eps - x0}[config.prediction]
        error = (prediction.float() - target).square().mean((1, 2, 3))  # (B,)
        loss = (error * loss_weight(config, a.flatten(), s.flatten())).mean()
        run.descend(loss)
        yield run.finish(loss=loss.item())

    if accelerator.is_main_process:
        prompts = labels.prompts if labels.words else ()
        export.save_transformer(pack, run.averaged(), scheduler, run.summary(), labels.words, prompts, resume)
    accelerator.wait_for_everyone()


def make_schedule(config: DiTConfig):
    """The 1000-step schedule that a pack trained so is saved with."""
    if config.prediction == "flow":
        return FlowMatchEulerDiscreteScheduler(num_train_timesteps=1000)
    return DDIMScheduler(
        num_train_timesteps=1000,
        beta_schedule=SCHEDULES[config.schedule],
        prediction_type=PREDICTIONS[config.prediction],
        clip_sample=False,  # latents are not pixels: they leave [-1, 1]
        timestep_spacing="trailing",  # starts at pure noise (arXiv:2305.08891)
    )


def sample_times(config: DiTConfig, count: int, rng: torch.Generator, device: torch.device) -> Tensor:
    """(count,) times in (0, 1000), uniform or logit-normal."""
    if config.time_sampling == "uniform":
        return 1000 * torch.rand(count, generator=rng, device=device)
    normal = config.time_mean + torch.randn(count, generator=rng, device=device)
    return 1000 * normal.sigmoid().clamp(1e-4, 1 - 1e-4)


def loss_weight(config: DiTConfig, a: Tensor, s: Tensor) -> Tensor:
    """Weight of each sample's squared error, (B,).  Min-SNR caps the weight of x0's error at min(SNR, 5)."""
    if config.weighting == "none":
        return torch.ones_like(a)
    snr = (a / s).square()
    of_x0 = {"eps": 1 / snr, "v": s.square(), "flow": s.square()}[config.prediction]  # x0's squared error / target's
    return snr.clamp(max=5) * of_x0


@dataclass(frozen=True)
class Classes:
    """What pictures are drawn by: their classes."""

    ids: Tensor  # (N,) int64
    count: int
    words: None = None
    prompts: tuple = ()

    @property
    def identity(self) -> dict[str, str]:
        return {}

    @property
    def sizes(self) -> dict[str, int]:
        return {"num_classes": self.count}

    def to(self, device: torch.device) -> "Classes":
        return replace(self, ids=self.ids.to(device))

    def draw(self, places: Tensor, config: DiTConfig, step: int, rng: torch.Generator) -> Tensor:
        """Labels of the pictures at these places, some replaced by the null class: (B,)."""
        dropped = torch.rand(len(places), generator=rng, device=rng.device) < config.label_dropout
        return self.ids[places.to(self.ids.device)].masked_fill(dropped.to(self.ids.device), self.count)


@dataclass(frozen=True)
class Captions:
    """What pictures are drawn by: their captions, one of them at a time."""

    texts: Sequence[Sequence[str]]  # every picture's captions
    ids: list[list[list[int]]]  # of each of them, its token ids
    longest: list[list[list[int]]]  # those of them that are at least LONG of the longest
    words: Words
    prompts: tuple[str, ...]
    identity: dict[str, str]  # what a training must agree in to be resumed

    @classmethod
    def read(cls, captions: Sequence[Sequence[str]], records: Sequence[dict], length: int) -> "Captions":
        words = Words.learn(captions, lexicon.learn(captions, records), length)
        encode = cache(words.encode)  # many captions are the same
        ids = [[encode(caption) for caption in some] for some in captions]
        longest = [[one for one in some if len(one) >= LONG * max(map(len, some))] for some in ids]
        digest = sha256((words.tokenizer.to_str() + json.dumps(captions)).encode()).hexdigest()
        return cls(captions, ids, longest, words, examples(captions, PROMPTS), {"the captions' digest": digest[:16]})

    @property
    def sizes(self) -> dict[str, int]:
        return {"num_classes": 0, "vocab_size": self.words.size}

    def to(self, device: torch.device) -> "Captions":
        """Itself: a batch's captions are put together on the CPU."""
        return self

    def draw(self, places: Tensor, config: DiTConfig, step: int, rng: torch.Generator) -> Tensor:
        """Token ids of a caption of each picture at these places, some replaced by the empty one: (B, L)."""
        which, dropped = torch.rand(2, len(places), generator=rng, device=rng.device).tolist()
        ids, rows = self.longest if step < config.longest_first * config.steps else self.ids, []
        for place, share, drop in zip(places.tolist(), which, dropped, strict=True):
            some = ids[place]
            rows.append(self.words.encode("") if drop < config.label_dropout else some[int(share * len(some))])
        return padded(rows)


def examples(captions: Sequence[Sequence[str]], count: int) -> tuple[str, ...]:
    """Captions of different pictures, each of another form: the longest of some, so that they name much.

    One that is too long to be asked for is none of them.
    """
    forms = [
        [some[i % len(some)] for some in captions[i * 50 : i * 50 + 50]]
        for i in range(min(count, -(-len(captions) // 50)))
    ]
    fitting = ([one for one in some if len(one) <= MAX_PROMPT] for some in forms)
    return tuple(max(some, key=len) for some in fitting if some)


def start_from(transformer: DiT, words: Words | None, pack: Path) -> None:
    """Gives a transformer what fits of another's weights; of the embeddings of tokens, those of the same text.

    Raises PackError if the other pack has no transformer of its own kind.
    """
    described = packs.read(pack)
    other = loading.load(described, device="cpu")
    if not isinstance(other.transformer, DiT):
        raise PackError(f"pack {pack.name!r} has no transformer of mmdemo's own, so there is no starting from it")
    own, found = transformer.state_dict(), other.transformer.state_dict()
    own |= {name: weight for name, weight in found.items() if name in own and weight.shape == own[name].shape}
    if words is not None and other.words is not None:
        theirs = other.words.tokenizer.get_vocab()
        for token, id in words.tokenizer.get_vocab().items():
            if token in theirs:
                own["text.embed.weight"][id] = found["text.embed.weight"][theirs[token]]
    transformer.load_state_dict(own)


@dataclass(frozen=True)
class Latents:
    """A training split's latents, mapped from their files."""

    plain: Tensor  # (N, d, h, w) as the encoder gave them
    mirrored: Tensor | None  # those of the same pictures seen in a mirror: an encoder's are not its latents mirrored
    std: float
    digest: str  # of the pictures; "" where that is not known

    def __len__(self) -> int:
        return len(self.plain)

    def read(self, places: Tensor) -> tuple[Tensor, Tensor | None]:
        """Those at these places, as the transformer is to draw them."""
        return tuple(
            None if stored is None else stored[places.to(stored.device)] / self.std
            for stored in (self.plain, self.mirrored)
        )

    def near(self, device: torch.device) -> "Latents":
        """Itself, in a GPU's memory if they take little of it: then nothing needs to be sent at every step."""
        stored = [one for one in (self.plain, self.mirrored) if one is not None]
        if device.type != "cuda" or 4 * sum(one.nbytes for one in stored) > torch.cuda.mem_get_info(device)[0]:
            return self
        plain, *mirrored = (one.to(device) for one in stored)
        return replace(self, plain=plain, mirrored=mirrored[0] if mirrored else None)


def read_latents(
    pack: Path,
    run: Path,
    data_dir: str | Path | None,
    config: DiTConfig,
    strict: bool = False,
    device: torch.device | None = None,  # where they are encoded, if they are; None = on the CPU
) -> tuple[Latents, Classes | Captions]:
    """The training split's latents, and what they are drawn by.

    Encoded once: `train vqvae` left them in `run`. Where they are missing, damaged, another codec's, or the pictures or
    captions of a folder at hand are no longer those, they are made again.
    """
    described = packs.read(pack)
    if described.problem:
        raise PackError(f"pack {pack.name!r} has no usable codec: {described.problem}; train one: "
                        f"python -m mmdemo train vqvae --pack {pack.name}")  # fmt: skip
    training, fingerprint = provenance.read_training(pack)["vqvae"], provenance.fingerprint(pack)
    vae = loading.load(described, device=device.type if device else "cpu").vae
    shape = training["image_size"], described.channels
    load = lru_cache(lambda: data.load(training["dataset"], "train", data_dir, *shape, strict))
    folder = data.folder_of(training["dataset"], data_dir)
    digest = load().digest if folder and folder.is_dir() else ""

    def made(file: Path, mirrored: bool) -> Path:
        if not _are_latents(file, fingerprint, digest):
            latents = codec.encode_all(vae, load().pixels, partial(files.empty, file), mirrored)
            export.save_latents(file, latents, load(), fingerprint)
        return file

    file = made(run / export.LATENTS, mirrored=False)
    plain, ids, told = files.read(file, "latents", "labels", "told")
    told, rows = json.loads(told.numpy().tobytes()), slice(None)
    classes = told["classes"]
    if config.condition == "text" or (config.condition == "auto" and not classes):
        if not told["captions"]:
            how = "put them in FOLDER/<class>/*.png, or beside a metadata.jsonl with a text for each"
            what = "without captions" if config.condition == "text" else "without classes or captions"
            raise PackError(f"pack {pack.name!r} was trained on pictures {what}; {how}")
        labels = Captions.read(told["captions"], told["records"], config.max_length)
    elif classes:
        rows = data.where(ids >= 0)  # a picture beside the class folders has none
        labels = Classes(ids[rows], len(classes))
    else:
        raise PackError(f"pack {pack.name!r} was trained on pictures without classes; put them in FOLDER/<class>/*.png")
    mirrored = files.read(made(run / "mirrored.safetensors", mirrored=True), "latents")[0] if config.mirrored else None
    digest = files.about(file).get("pictures", "")
    return Latents(plain[rows], mirrored if mirrored is None else mirrored[rows], codec.latent_std(vae), digest), labels


def _are_latents(file: Path, fingerprint: str, digest: str) -> bool:
    """Whether a file has latents by the codec of that fingerprint, is not damaged, and its pictures have that digest.

    digest: "" = any.
    """
    try:
        made = files.about(file)
        labels, told = files.read(file, "labels", "told")
        told = json.loads(told.numpy().tobytes())  # older ones tell nothing
        lengths = [len(told[name]) for name in ("classes", "captions", "records")]
    except (OSError, SafetensorError, KeyError, TypeError, ValueError):
        return False
    whole = all(length in (0, len(labels)) for length in lengths[1:])
    return whole and made.get("codec") == fingerprint and digest in ("", made.get("pictures"))
