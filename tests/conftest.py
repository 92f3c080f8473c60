"""A tiny pack with random weights, so that everything but the pictures' beauty can be tested in seconds."""

import json
import os
import shutil
import signal
from collections.abc import Iterator
from pathlib import Path

if "PYTEST_XDIST_WORKER" in os.environ:  # threads of two workers on as many cores hold each other up
    os.environ.setdefault("OMP_NUM_THREADS", "1")

import numpy as np
import pytest
import torch
from diffusers import DDIMScheduler, FlowMatchEulerDiscreteScheduler
from PIL import Image, ImageDraw
from safetensors.torch import load_file, save_file

from mmdemo import codec, data, loading, packs, provenance, samplers
from mmdemo.images import fit_square, open_image, to_images, to_tensor
from mmdemo.models.dit import DiT
from mmdemo.models.quantizer import FiniteScalarQuantizer
from mmdemo.models.vqvae import VQVAE
from mmdemo.studio import Studio
from mmdemo.training import export, lexicon
from mmdemo.words import Words

TINY_CLASSES = ("circle", "square", "triangle")
every_sampler = pytest.mark.parametrize(
    ("pack", "sampler"),
    [*(("tiny", name) for name in samplers.FLOW), *(("tiny-v", name) for name in samplers.VARIANCE_PRESERVING)],
)


def tiny_vae(**options) -> VQVAE:
    torch.manual_seed(0)
    settings = {"in_channels": 1, "channels": 8, "latent_channels": 3, "num_codes": 16, "stride": 4} | options
    return VQVAE(**settings).eval()


def tiny_fsq(levels: tuple[int, ...], **options) -> VQVAE:
    """A random VQVAE with the codes of a grid, whose latents are spread out so that many of them are used."""
    grid = FiniteScalarQuantizer(levels)
    vae = tiny_vae(quantizer="fsq", levels=levels, num_codes=grid.num_codes, latent_channels=grid.dim, **options)
    with torch.no_grad():
        last, z = (
            vae.encoder[-1],
            vae.encoder(data.load("shapes", "test", image_size=16, channels=1).pixels[:40] / 127.5 - 1),
        )
        scale = 1 / z.std((0, 2, 3))
        last.bias.sub_(z.mean((0, 2, 3))).mul_(scale)
        last.weight.mul_(scale.view(-1, 1, 1, 1))
    return vae


def tiny_dit(**options) -> DiT:
    """A random DiT whose gates are open: one fresh from its initialization predicts zero whatever it is asked."""
    torch.manual_seed(1)
    settings = {"sample_size": 4, "in_channels": 3, "hidden_size": 16, "depth": 2, "num_heads": 2, "num_classes": 3}
    transformer = DiT(**(settings | options)).eval()
    for parameter in transformer.parameters():
        torch.nn.init.normal_(parameter, std=0.2)
    return transformer


def flow_schedule() -> FlowMatchEulerDiscreteScheduler:
    return FlowMatchEulerDiscreteScheduler(num_train_timesteps=1000)


def v_schedule() -> DDIMScheduler:
    return DDIMScheduler(
        beta_schedule="squaredcos_cap_v2",
        prediction_type="v_prediction",
        clip_sample=False,
        timestep_spacing="trailing",
    )


@pytest.fixture(scope="session", autouse=True)
def cache(tmp_path_factory) -> Path:
    """Where the pictures of folders are kept, instead of the user's cache."""
    os.environ["XDG_CACHE_HOME"] = str(tmp_path_factory.mktemp("cache"))
    return Path(os.environ["XDG_CACHE_HOME"]) / "mmdemo" / "pictures"


@pytest.fixture(scope="session")
def tiny_weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of packs: `tiny` (flow) and `tiny-v` (v-prediction) sample, `tiny-codec` cannot, `broken` is damaged."""
    folder = tmp_path_factory.mktemp("weights")
    vae = tiny_vae()
    pixels = data.load("shapes", "train", image_size=16, channels=1).pixels[:300]
    statistics = codec.statistics(vae, pixels)
    # Random codes lie far from random latents: put them among the latents, so that many are used.
    cells = statistics.latents.movedim(1, -1).flatten(0, 2)
    vae.codebook.data.copy_(cells[torch.randperm(len(cells), generator=torch.Generator().manual_seed(2))[:16]])
    statistics = codec.statistics(vae, pixels)
    vae.register_to_config(latent_std=statistics.latent_std)
    training = {"dataset": "shapes", "image_size": 16, "minutes": 0.0}
    export.save_codec(folder / "tiny-codec", vae, statistics, TINY_CLASSES, training)
    for name, schedule in (("tiny", flow_schedule()), ("tiny-v", v_schedule())):
        shutil.copytree(folder / "tiny-codec", folder / name)
        export.save_transformer(folder / name, tiny_dit(), schedule, {"minutes": 0.0})
        export.set_defaults(folder / name, num_inference_steps=6)
    shutil.copytree(folder / "tiny", folder / "broken")
    weights = folder / "broken" / "vae" / "diffusion_pytorch_model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-100])
    return folder


CAPTIONS = (("a red circle", "红色 圆"), ("a large blue square on black", "蓝色 方"), ("a small red triangle", "三角"))
RECORDS = (
    {"colour": "red", "shape": "circle"},
    {"colour": "blue", "shape": "square"},
    {"colour": "red", "shape": "triangle"},
)


@pytest.fixture(scope="session")
def reading_weights(tiny_weights: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of packs: `words`, whose transformer reads captions like CAPTIONS, `tiny`, and `tiny-codec`."""
    folder = tmp_path_factory.mktemp("reading") / "weights"
    for name in ("tiny", "tiny-codec"):
        shutil.copytree(tiny_weights / name, folder / name)
    shutil.copytree(folder / "tiny-codec", folder / "words")
    words = Words.learn(CAPTIONS * 40, lexicon.learn(CAPTIONS * 40, RECORDS * 40))
    transformer = tiny_dit(num_classes=0, vocab_size=words.size)
    prompts = [some[0] for some in CAPTIONS]
    export.save_transformer(folder / "words", transformer, flow_schedule(), {"minutes": 0.0}, words, prompts)
    export.set_defaults(folder / "words", num_inference_steps=6)
    return folder


@pytest.fixture(scope="session")
def fast_weights(lively_weights: Path, reading_weights: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of packs: `fast` and `words` have a student with random weights, `tiny` and `tiny-codec` have none."""
    folder = tmp_path_factory.mktemp("fast") / "weights"
    for name, source in (("fast", "tiny"), ("tiny", "tiny"), ("tiny-codec", "tiny-codec")):
        shutil.copytree(lively_weights / source, folder / name)
    shutil.copytree(reading_weights / "words", folder / "words")
    for name, options in (
        ("fast", {}),
        ("words", {"num_classes": 0, "vocab_size": Words.load(folder / "words" / "tokenizer").size}),
    ):
        times = torch.linspace(1000, 0, samplers.MAX_JUMPS + 1).tolist()
        student = tiny_dit(times=times, **options)
        with torch.no_grad():  # a class is to make a difference
            (student.text_embed if options else student.class_embed).weight.mul_(20)
        export.save_student(folder / name, student, {"minutes": 0.0})
    return folder


@pytest.fixture(scope="session")
def lively_weights(tiny_weights: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The tiny packs with a decoder of strong contrast: an untrained one paints nearly the same for every token."""
    folder = tmp_path_factory.mktemp("lively") / "weights"
    shutil.copytree(tiny_weights, folder)
    for name in ("tiny", "tiny-v"):
        (file,) = (folder / name / "vae").glob("*.safetensors")
        weights = load_file(file)
        convolutions = [key for key in weights if key.startswith("decoder") and key.endswith("weight")]
        weights[min(convolutions)] *= 30
        weights[max(convolutions)] *= 3
        save_file(weights, file, {"format": "pt"})
    return folder


@pytest.fixture(scope="session")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder as a person has one: train/ and test/ with a folder for each class, and a flat picture among them."""
    folder = tmp_path_factory.mktemp("pictures")
    for split, count in (("train", 30), ("test", 15)):
        drawn = data.load("shapes", split, image_size=16, channels=3)
        images = to_images(drawn.pixels)
        for place, name in enumerate(TINY_CLASSES):
            (folder / split / name).mkdir(parents=True)
            chosen = [i for i, label in enumerate(drawn.labels.tolist()) if label == place][: count // 3]
            for i in chosen:
                images[i].save(folder / split / name / f"{i:04}.png")
    Image.new("RGB", (16, 16), (128, 128, 128)).save(folder / "test" / TINY_CLASSES[0] / "flat.png")
    return folder


@pytest.fixture
def sampling(tmp_path: Path, tiny_weights: Path, pictures: Path) -> Path:
    """The tiny grey pack that can sample, said to be trained on the pictures."""
    pack = shutil.copytree(tiny_weights / "tiny", tmp_path / "weights" / "sampling")
    training = provenance.read_training(pack)
    training["vqvae"]["dataset"] = f"{pictures.name}/"
    (pack / "training.json").write_text(json.dumps(training))
    return pack


@pytest.fixture(scope="module")
def pipelines(tiny_weights: Path) -> dict:
    return {name: loading.load(packs.read(tiny_weights / name), "cpu") for name in ("tiny", "tiny-v")}


def array(picture: Image.Image | Path | str | dict) -> np.ndarray:
    """The pixels of a picture, of its file, or of an entry of the gallery that a client is answered."""
    picture = picture["image"] if isinstance(picture, dict) else picture
    return np.asarray(picture if isinstance(picture, Image.Image) else Image.open(picture)).astype(int)


def same(one, other) -> bool:
    """Equal to the pixel: two pictures, or as many in two lists."""
    if not isinstance(one, (list, tuple)):
        return np.array_equal(array(one), array(other))
    return len(one) == len(other) and all(same(a, b) for a, b in zip(one, other, strict=True))


def alike(one: Image.Image, other: Image.Image) -> bool:
    """Equal but for the rounding that a batch's size brings: a grey level or two."""
    return abs(array(one) - array(other)).max() <= 2


def digit(ink: int = 255, paper: int = 0, mode: str = "L") -> Image.Image:
    picture = Image.new("L", (40, 40), paper)
    picture.paste(ink, (16, 8, 24, 32))
    return picture.convert(mode)


def noise(side: int) -> Image.Image:
    return Image.fromarray(np.random.default_rng(0).integers(0, 256, (side, side), dtype=np.uint8))


def save_codec(folder: Path, **options) -> None:
    """A codec-only pack."""
    vae = tiny_vae(**options)
    pixels = data.load("shapes", "train", image_size=16, channels=vae.config.in_channels).pixels[:50]
    export.save_codec(folder, vae, codec.statistics(vae, pixels), (), {"dataset": "shapes", "image_size": 16})


def save_colour_pack(pack: Path, codes: int, classes: tuple[str, ...] = ()) -> None:
    vae = tiny_vae(in_channels=3, num_codes=codes)
    pixels = data.load("shapes", "train", image_size=16, channels=3).pixels[:100]
    statistics = codec.statistics(vae, pixels)
    vae.codebook.data.copy_(torch.randn(codes, 3, generator=torch.Generator().manual_seed(3)))
    vae.register_to_config(latent_std=statistics.latent_std)
    training = {"dataset": "shapes", "image_size": 16, "minutes": 0.0}
    export.save_codec(pack, vae, codec.statistics(vae, pixels), classes, training)


@pytest.fixture(scope="session")
def kinds(tiny_weights: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """`cifar` samples in colour, `mnist` in grey, `photos` is a codec in colour with 4096 codes."""
    folder = tmp_path_factory.mktemp("kinds")
    save_colour_pack(folder / "photos", 4096)
    save_colour_pack(folder / "cifar", 16, ("circle", "plane"))
    export.save_transformer(folder / "cifar", tiny_dit(num_classes=2), flow_schedule(), {"minutes": 0.0})
    export.set_defaults(folder / "cifar", num_inference_steps=4)
    shutil.copytree(tiny_weights / "tiny", folder / "mnist")
    (folder / "mnist" / "examples").mkdir()
    Image.new("L", (16, 16), 99).save(folder / "mnist" / "examples" / "plain.png")
    return folder


@pytest.fixture(scope="session")
def varied(kinds: Path, tmp_path_factory: pytest.TempPathFactory) -> Studio:
    """`kinds`, but `cifar` has codes from among the photographs' latents: a picture has tokens of many kinds."""
    folder = tmp_path_factory.mktemp("varied")
    shutil.copytree(kinds, folder, dirs_exist_ok=True)
    vae = tiny_vae(in_channels=3)
    from mmdemo.ui.pictures import photographs

    pictures = torch.stack([to_tensor(fit_square(open_image(file), 32, 3)) for file in photographs()])
    cells = codec.encode(vae, pictures).movedim(1, -1).flatten(0, 2)
    vae.codebook.data.copy_(cells[torch.randperm(len(cells), generator=torch.Generator().manual_seed(4))[:16]])
    pixels = data.load("shapes", "train", image_size=16, channels=3).pixels[:100]
    shutil.rmtree(folder / "cifar")
    settings = {"dataset": "shapes", "image_size": 16, "minutes": 0.0}
    export.save_codec(folder / "cifar", vae, codec.statistics(vae, pixels), ("circle", "plane"), settings)
    export.save_transformer(folder / "cifar", tiny_dit(num_classes=2), flow_schedule(), {"minutes": 0.0})
    return Studio([folder], device="cpu")


@pytest.fixture
def hub_server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator:
    """An empty Hub, which huggingface_hub takes for the real one, with an empty cache."""
    from hub_server import served
    from huggingface_hub import constants

    with served() as (hub, address):
        point_to(address, monkeypatch)
        monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
        monkeypatch.setattr(constants, "HF_HUB_DISABLE_XET", True)
        yield hub


def point_to(address: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """What the variable HF_ENDPOINT does, which is read at import."""
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "ENDPOINT", address)
    monkeypatch.setattr(
        constants, "HUGGINGFACE_CO_URL_TEMPLATE", f"{address}/{{repo_id}}/resolve/{{revision}}/{{filename}}"
    )


# ----------------------------------------------------------------------------------------- the app, and one who asks it


@pytest.fixture(scope="session")
def running_app(tiny_weights: Path) -> Iterator[tuple[str, int]]:
    """The app as a person starts it: its address and its process. Whatever it is asked, it must not fail over it."""
    from running import free_port, start_app

    started = start_app("--port", free_port(), "--weights", str(tiny_weights), "--device", "cpu", "--memory", "0.5")
    told = started.stdout.readline()
    assert "http://" in told, started.stderr.read()
    yield told.split()[-1], started.pid
    started.send_signal(signal.SIGTERM)
    _, complaint = started.communicate(timeout=10)
    assert started.returncode == 0 and "Traceback" not in complaint, complaint


@pytest.fixture(scope="session")
def app(running_app: tuple[str, int]) -> str:
    return running_app[0]


@pytest.fixture(scope="session")
def client(app: str, tmp_path_factory: pytest.TempPathFactory):
    from gradio_client import Client

    return Client(app, verbose=False, download_files=str(tmp_path_factory.mktemp("downloads")))


@pytest.fixture(scope="session")
def drawing(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A dark triangle on light paper, larger than any model's picture and not square."""
    image = Image.new("RGB", (60, 48), "white")
    ImageDraw.Draw(image).polygon([(30, 8), (48, 40), (12, 40)], fill="black")
    path = tmp_path_factory.mktemp("drawings") / "triangle.png"
    image.save(path)
    return path


# ------------------------------------------------------------------------------------------------ the page in a browser


@pytest.fixture(scope="module")
def browser() -> Iterator:
    from browsing import CHROMIUM, QUIET, sync_api

    if CHROMIUM is None:
        pytest.skip("no Chromium is installed (Debian: apt-get install chromium)")
    with sync_api.sync_playwright() as playwright:
        chromium = playwright.chromium.launch(executable_path=CHROMIUM, args=QUIET)
        yield chromium
        chromium.close()


@pytest.fixture(scope="module")
def window(browser) -> Iterator:
    """What keeps what pages fetched: a page opened in it is there in half the time."""
    context = browser.new_context()
    context.new_page()
    yield context
    context.close()


@pytest.fixture
def watched(window) -> Iterator:
    """An empty page. Whatever is done with it, it must ask nothing of other machines and report no error."""
    from browsing import new_page

    page, complaints = new_page(window)
    yield page
    seen = list(complaints)  # closing the page cuts off whatever is still being sent, and that is complained of
    page.close()
    window.clear_permissions()
    assert seen == []


@pytest.fixture(scope="module")
def studio(request: pytest.FixtureRequest) -> Studio:
    """Of the kind and of the packs that the module names, or of the tiny ones."""
    weights = request.getfixturevalue(getattr(request.module, "WEIGHTS", "tiny_weights"))
    return getattr(request.module, "STUDIO", Studio)([weights], device="cpu")


@pytest.fixture(scope="module")
def address(studio: Studio) -> Iterator[str]:
    """Where the module's studio is being served."""
    from browsing import launched

    with launched(studio) as url:
        yield url


@pytest.fixture
def page(watched, address: str):
    watched.goto(address)
    return watched


@pytest.fixture(scope="module")
def kept(window, address: str) -> Iterator[tuple]:
    from browsing import new_page

    page, complaints = new_page(window)
    page.goto(address)
    yield page, complaints
    page.close()


@pytest.fixture
def shared(kept: tuple) -> Iterator:
    """One page for all of the module's tests, as the last one left it: to open one takes longer than most tests do.
    Each test, or a fixture of the module, says first what it needs. It is as `watched` as any."""
    page, complaints = kept
    page.bring_to_front()  # what a page behind another one shows need not be drawn
    page.set_viewport_size({"width": 1280, "height": 900})
    yield page
    page.context.clear_permissions()
    seen = list(complaints)
    complaints.clear()
    assert seen == []
