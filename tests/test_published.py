"""What others published, in diffusers' own format: small models of the same structure, made and saved by diffusers.

Nothing here was downloaded. The configurations are those of the repositories named, as diffusers' documentation and
tests have them; the small models differ from them in widths and counts alone.
"""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import alike, array, noise, same
from diffusers import AutoencoderKL, DDIMScheduler, DiTPipeline, DiTTransformer2DModel, VQModel
from huggingface_hub.utils import filter_repo_objects
from PIL import Image
from safetensors.torch import load_file, save_file

from mmdemo import checks, codec, loading, packs
from mmdemo.errors import NO_CODEBOOK, PackError
from mmdemo.images import fit_square, to_images, to_tensor
from mmdemo.studio import Studio

DOWN, UP = "DownEncoderBlock2D", "UpDecoderBlock2D"
VQ_F4 = {
    "_class_name": "VQModel",
    "act_fn": "silu",
    "block_out_channels": [128, 256, 512],
    "down_block_types": [DOWN] * 3,
    "in_channels": 3,
    "latent_channels": 3,
    "layers_per_block": 2,
    "norm_num_groups": 32,
    "num_vq_embeddings": 8192,
    "out_channels": 3,
    "sample_size": 256,
    "up_block_types": [UP] * 3,
    "vq_embed_dim": 3,
}
AMUSED = {
    "_class_name": "VQModel",
    "act_fn": "silu",
    "block_out_channels": [128, 256, 256, 512, 768],
    "down_block_types": [DOWN] * 5,
    "force_upcast": True,
    "in_channels": 3,
    "latent_channels": 64,
    "layers_per_block": 2,
    "lookup_from_codebook": True,
    "mid_block_add_attention": False,
    "norm_num_groups": 32,
    "norm_type": "group",
    "num_vq_embeddings": 8192,
    "out_channels": 3,
    "sample_size": 32,
    "scaling_factor": 0.18215,
    "up_block_types": [UP] * 5,
    "vq_embed_dim": None,
}
MOVQ = {
    "_class_name": "VQModel",
    "act_fn": "silu",
    "block_out_channels": [128, 256, 256, 512],
    "down_block_types": [DOWN, DOWN, DOWN, "AttnDownEncoderBlock2D"],
    "in_channels": 3,
    "latent_channels": 4,
    "layers_per_block": 2,
    "norm_num_groups": 32,
    "norm_type": "spatial",
    "num_vq_embeddings": 16384,
    "out_channels": 3,
    "sample_size": 32,
    "scaling_factor": 0.18215,
    "up_block_types": ["AttnUpDecoderBlock2D", UP, UP, UP],
    "vq_embed_dim": 4,
}
KL_F8 = {
    "_class_name": "AutoencoderKL",
    "act_fn": "silu",
    "block_out_channels": [128, 256, 512, 512],
    "down_block_types": [DOWN] * 4,
    "in_channels": 3,
    "latent_channels": 4,
    "layers_per_block": 2,
    "norm_num_groups": 32,
    "out_channels": 3,
    "sample_size": 256,
    "up_block_types": [UP] * 4,
}
DIT_XL = {
    "_class_name": "Transformer2DModel",  # its name when this was published
    "activation_fn": "gelu-approximate",
    "attention_bias": True,
    "attention_head_dim": 72,
    "cross_attention_dim": None,
    "dropout": 0.0,
    "in_channels": 4,
    "norm_elementwise_affine": False,
    "norm_num_groups": 32,
    "norm_type": "ada_norm_zero",
    "num_attention_heads": 16,
    "num_embeds_ada_norm": 1000,
    "num_layers": 28,
    "num_vector_embeds": None,
    "only_cross_attention": False,
    "out_channels": 8,
    "patch_size": 2,
    "sample_size": 32,
    "upcast_attention": False,
    "use_linear_projection": False,
}
DDIM = {
    "_class_name": "DDIMScheduler",
    "beta_end": 0.02,
    "beta_schedule": "linear",
    "beta_start": 0.0001,
    "clip_sample": False,
    "num_train_timesteps": 1000,
    "prediction_type": "epsilon",
    "set_alpha_to_one": True,
    "steps_offset": 0,
    "trained_betas": None,
}
SMALLER = {"num_layers": 2, "num_attention_heads": 2, "attention_head_dim": 8, "norm_num_groups": 4}
INDEX = {  # of a pipeline, by its class: what it is made of
    "DiTPipeline": {"scheduler": "DDIMScheduler", "transformer": "Transformer2DModel", "vae": "AutoencoderKL"},
    "AmusedPipeline": {"scheduler": "AmusedScheduler", "transformer": "UVit2DModel", "vqvae": "VQModel"},
    "LDMPipeline": {"scheduler": "DDIMScheduler", "unet": "UNet2DModel", "vqvae": "VQModel"},
    "KandinskyV22Pipeline": {"scheduler": "DDPMScheduler", "unet": "UNet2DConditionModel", "movq": "VQModel"},
}
KINDS = {"VQModel": VQModel, "AutoencoderKL": AutoencoderKL, "Transformer2DModel": DiTTransformer2DModel}


def made(config: dict):
    """The model of a configuration, as diffusers makes it."""
    torch.manual_seed(0)
    return KINDS[config["_class_name"]].from_config(config).eval()


def small(config: dict, **options) -> dict:
    less = 4 if config.get("norm_type") == "spatial" else 16  # such norms have 32 groups whatever is asked
    widths = {"block_out_channels": [wide // less for wide in config.get("block_out_channels", [])]}
    changes = SMALLER | widths | {"num_vq_embeddings": 48}
    return config | {key: value for key, value in changes.items() if key in config} | options


def publish(folder: Path, config: dict, names: str = "") -> None:
    """A model's folder: the configuration as it was published, and the weights as diffusers saves them.

    names: "old", as they were called by the first diffusers.
    """
    model = made(config)
    with torch.no_grad():
        if config["_class_name"] == "VQModel":  # codes among the latents: fresh ones are all alike
            z = model.encode(torch.rand(1, 3, 128, 128) * 2 - 1).latents.movedim(1, -1).flatten(0, 2)
            codes = model.quantize.embedding.weight
            codes.copy_(z[torch.randperm(len(z))[: len(codes)]] + 0.01 * torch.randn_like(codes))
        if isinstance(model, DiTTransformer2DModel):
            for parameter in model.parameters():
                torch.nn.init.normal_(parameter, std=0.1)
    model.save_pretrained(folder)
    (folder / "config.json").write_text(json.dumps({"_diffusers_version": "0.12.0.dev0"} | config))
    if names == "old":
        file = folder / checks.WEIGHTS
        weights = load_file(file)
        for new, old in (("to_q", "query"), ("to_k", "key"), ("to_v", "value"), ("to_out.0", "proj_attn")):
            weights = {key.replace(f".{new}.", f".{old}."): one for key, one in weights.items()}
        save_file(weights, file)


def publish_index(pack: Path, pipeline: str, **more) -> None:
    parts = {part: ["diffusers", kind] for part, kind in INDEX[pipeline].items()}
    pack.mkdir(exist_ok=True)
    (pack / "model_index.json").write_text(json.dumps({"_class_name": pipeline} | parts | more))


LABELS = [f"kind {i}" for i in range(1000)]
LABELS[134] = LABELS[517] = "crane"


@pytest.fixture(scope="module")
def published(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("published")
    publish(folder / "alone", small(VQ_F4, sample_size=32))
    publish(folder / "amused" / "vqvae", small(AMUSED))
    publish_index(folder / "amused", "AmusedPipeline")
    publish(folder / "ldm" / "vqvae", small(VQ_F4, vq_embed_dim=2, sample_size=32), names="old")
    publish_index(folder / "ldm", "LDMPipeline")
    publish(folder / "kandinsky" / "movq", small(MOVQ))
    publish_index(folder / "kandinsky", "KandinskyV22Pipeline")
    publish(folder / "kl", small(KL_F8, shift_factor=0.1))
    dit = folder / "dit"
    publish(dit / "vae", small(KL_F8), names="old")
    publish(dit / "transformer", small(DIT_XL, sample_size=4))
    (dit / "scheduler").mkdir()
    (dit / "scheduler" / "scheduler_config.json").write_text(json.dumps(DDIM))
    publish_index(dit, "DiTPipeline", id2label={str(i): name for i, name in enumerate(LABELS)})
    return folder


@pytest.fixture(scope="module")
def studio(published: Path) -> Studio:
    return Studio([published], device="cpu")


CODECS = {"alone": (4, 3, 32), "amused": (16, 64, 128), "ldm": (4, 2, 32), "kandinsky": (8, 4, 64)}
every_codec = pytest.mark.parametrize("name", CODECS)


@pytest.mark.parametrize("config", [VQ_F4, AMUSED, MOVQ, KL_F8, DIT_XL], ids=lambda one: str(one["_class_name"]))
def test_a_small_model_has_the_tensors_of_the_published_one(config):
    with torch.device("meta"):
        full, smaller = (made(one).state_dict() for one in (config, small(config)))
    if "num_layers" in config:  # every block is like the first
        full = {key: one for key, one in full.items() if "_blocks." not in key or int(key.split(".")[1]) < 2}
    assert full.keys() == smaller.keys()
    assert [one.ndim for one in full.values()] == [one.ndim for one in smaller.values()]


@pytest.mark.parametrize(
    ("config", "millions"), [(VQ_F4, 55.3), (AMUSED, 146.2), (MOVQ, 67.8), (KL_F8, 83.7), (DIT_XL, 749.8)]
)
def test_the_published_sizes_are_within_bounds(config, millions):
    checks.bounded(config, "config.json")
    assert config["_class_name"] in packs.CODECS | packs.TRANSFORMERS
    with torch.device("meta"):
        count = sum(one.numel() for one in made(config).state_dict().values())
    assert count / 1e6 == pytest.approx(millions, abs=0.1) and count < checks.MAX_PARAMETERS


@every_codec
def test_a_published_codec_is_described(studio, name):
    pack, (stride, dim, side) = studio.pack(name), CODECS[name]
    assert (pack.stride, pack.dim, pack.image_size, pack.channels, pack.codes) == (stride, dim, side, 3, 48)
    assert not pack.can_sample and pack.classes == ()
    with pytest.raises(PackError, match="no transformer"):
        studio.sample(name, "anything")


@every_codec
def test_a_published_codec_reconstructs_as_diffusers_does(studio, published, name):
    seen = studio.reconstruct(name, noise(200))
    (folder,) = (file.parent for file in (published / name).rglob("config.json"))
    theirs = VQModel.from_pretrained(folder, use_safetensors=True, low_cpu_mem_usage=False).eval()
    with torch.inference_mode():
        x = to_tensor(fit_square(noise(200).convert("RGB"), CODECS[name][2], 3))[None]
        expected = to_images(theirs(x).sample.clamp(-1, 1))[0]
    assert alike(seen.image, expected)
    assert len({id for row in seen.tokens for id in row}) > 3, "too few tokens for this test to tell"
    assert seen.token_map.size == seen.image.size and seen.psnr > 0 and seen.bits_per_pixel > 0
    assert same(studio.decode(name, seen.tokens), seen.image)
    code = seen.tokens[0][0]
    changed = studio.replace(name, seen.tokens, code, (code + 1) % 48)
    assert (0, 0) in changed.places and alike(changed.before, seen.image)
    assert len(studio.interpolate(name, noise(64), Image.new("RGB", (64, 64)), 3).tokens) == 3


@every_codec
def test_the_codes_of_a_published_codec_are_shown_without_torch_by_their_numbers(studio, published, name):
    fresh = Studio([published])
    book, plane, card = fresh.codebook(name), fresh.code_map(name), fresh.code(name, 5)
    assert not fresh.is_loaded(name)
    codes = codec.codebook(loading.load(studio.pack(name), "cpu").vae)
    far = (codes - codes[5]).norm(dim=1)
    far[5] = torch.inf
    assert [one["code"] for one in card.nearest] == far.argsort()[:8].tolist()
    assert [one["distance"] for one in card.nearest] == pytest.approx(far.sort().values[:8].tolist(), abs=1e-3)
    assert sorted(book.order) == list(range(48)) and len(plane.points) == 48
    assert book.json() == {"codes": 48, "used": None, "perplexity": None, "dim": CODECS[name][1]}
    assert card.json()["share"] is None and card.patches == [] and plane.json()["counts"] is None
    for answer in (book, card, plane):
        json.dumps(answer.json(), allow_nan=False)
    # Colours: codes that are near each other look alike, compared with any two.
    colours = np.array([array(book.swatch(code))[0, 0] for code in range(48)])
    near = [abs(colours[k] - colours[codes.sub(codes[k]).norm(dim=1).argsort()[1]]).sum() for k in range(48)]
    assert np.mean(near) < 0.7 * abs(colours[:, None] - colours).sum(-1).mean()
    assert len(fresh.cover(name).getcolors(99999)) > 16, "not a picture of codes"


def test_a_dit_pipeline_is_described(studio):
    pack = studio.pack("dit")
    assert (pack.codes, pack.dim, pack.stride, pack.image_size) == (0, 4, 8, 32)
    assert pack.can_sample and pack.samplers[0] == "ddim" and len(pack.classes) == 1000
    assert pack.classes[1] == "kind 1" and (pack.classes[134], pack.classes[517]) == ("crane", "crane (517)")
    assert pack.json()["codes"] == 0


def test_a_dit_pipeline_draws_as_diffusers_does(studio, published, tmp_path):
    renamed = shutil.copytree(published / "dit", tmp_path / "dit")
    index = json.loads((renamed / "model_index.json").read_text())
    index["transformer"] = ["diffusers", "DiTTransformer2DModel"]
    (renamed / "model_index.json").write_text(json.dumps(index))
    options = {"use_safetensors": True, "low_cpu_mem_usage": False}
    theirs = DiTPipeline(
        transformer=DiTTransformer2DModel.from_pretrained(renamed / "transformer", **options).eval(),
        vae=AutoencoderKL.from_pretrained(renamed / "vae", **options).eval(),
        scheduler=DDIMScheduler.from_pretrained(renamed / "scheduler"),
    )
    theirs.set_progress_bar_config(disable=True)
    generators = [torch.Generator().manual_seed(3 + i) for i in range(2)]
    expected = theirs([7, 517], guidance_scale=3.0, generator=generators, num_inference_steps=5).images
    drawn = studio.sample("dit", ["kind 7", "crane (517)"], 2, seed=3, steps=5, guidance=3.0, sampler="ddim").images
    assert all(map(alike, drawn, expected)) and not alike(*drawn)
    labelled = studio.sample("dit", "kind 8", seed=3, steps=5, guidance=3.0, sampler="ddim").images[0]
    assert not alike(labelled, drawn[0])


def test_a_dit_pipeline_is_watched_without_tokens(studio):
    frames = list(studio.denoise("dit", "crane", seed=1, steps=4))
    assert len(frames) == 4 and all((one.tokens, one.flips, one.distance) == (None, [], None) for one in frames)
    drawn = studio.sample("dit", "crane", seed=1, steps=4).images[0]
    assert alike(frames[-1].x0, drawn) and frames[0].x_t.size == (32, 32)
    assert json.loads(json.dumps(frames[-1].json(), allow_nan=False))["tokens"] is None
    edited = studio.edit("dit", noise(40), "crane", strength=0.5, seed=1, steps=4)
    assert edited.image.size == (32, 32) and edited.taken == 2
    assert len(studio.noise("dit", noise(40), seed=1, steps=4).result()) == 4
    assert len(studio.morph("dit", "crane", "kind 3", seed=1, count=3, steps=2).images) == 3


def test_a_dit_pipeline_classifies(studio):
    told = studio.classify("dit", noise(40)).result()
    assert told.map.size == (32, 32) and len(told.probabilities) == 1000
    assert sum(told.probabilities.values()) == pytest.approx(1)


@pytest.mark.parametrize("name", ["dit", "kl"])
def test_a_codec_without_a_codebook_reconstructs_and_says_that_it_has_no_tokens(studio, name):
    seen = studio.reconstruct(name, noise(64), size=32)
    vae = loading.load(studio.pack(name), "cpu").vae
    with torch.inference_mode():
        mean = vae.encode(to_tensor(seen.original)[None]).latent_dist.mean
        expected = to_images(vae.decode(mean).sample.clamp(-1, 1))[0]
    assert same(seen.image, expected) and seen.psnr > 0
    assert (seen.tokens, seen.token_map, seen.bits_per_pixel, seen.compression_ratio) == (None,) * 4
    json.dumps(seen.json(), allow_nan=False)
    for ask in (
        lambda: studio.codebook(name),
        lambda: studio.code(name, 1),
        lambda: studio.code_map(name),
        lambda: studio.decode(name, [[1]]),
        lambda: studio.replace(name, [[1]], 1, 2),
        lambda: studio.interpolate(name, noise(8), noise(8)),
    ):
        with pytest.raises(PackError) as error:
            ask()
        assert str(error.value) == f"{name!r}: {NO_CODEBOOK}"
    assert studio.cover(name).size == (128, 128)


def test_latents_are_scaled_and_shifted_as_the_codec_was_published(studio):
    vae = loading.load(studio.pack("kl"), "cpu").vae
    x = to_tensor(fit_square(noise(64).convert("RGB"), 32, 3))[None]
    with torch.inference_mode():
        mean = vae.encode(x).latent_dist.mean
    assert torch.allclose(codec.encode(vae, x) / codec.latent_std(vae), (mean - 0.1) * 0.18215, atol=1e-5)
    with pytest.raises(PackError, match="no codebook"):
        codec.encode_ids(vae, x)


def test_of_a_published_pipeline_only_what_is_read_is_fetched():
    files = [
        "model_index.json", "README.md", "vqvae/config.json", "text_encoder/model.safetensors", "model.safetensors",
        "vqvae/diffusion_pytorch_model.safetensors", "vqvae/diffusion_pytorch_model.bin",
        "vqvae/diffusion_pytorch_model.fp16.safetensors", "vae/diffusion_pytorch_model-00001-of-00002.safetensors",
        "transformer/config.json", "transformer/diffusion_pytorch_model.safetensors", "unet/diffusion.safetensors",
    ]  # fmt: skip
    weights = [
        "vqvae/diffusion_pytorch_model.safetensors",
        "vae/diffusion_pytorch_model-00001-of-00002.safetensors",
    ]
    for pipeline in INDEX:
        fetched = list(filter_repo_objects(files, allow_patterns=packs.wanted({"_class_name": pipeline})))
        of_models = [file for file in fetched if not file.endswith((".json", ".md"))]
        drawing = ["transformer/diffusion_pytorch_model.safetensors"] if pipeline == "DiTPipeline" else []
        assert sorted(of_models) == sorted(weights + drawing)
        assert {"model_index.json", "vqvae/config.json"} < set(fetched)


@pytest.mark.parametrize(
    ("change", "word"),
    [
        ({"norm_type": "ada_norm_single"}, "ada_norm_single"),
        ({"out_channels": 5}, "5 channels"),
        ({"sample_size": 1024}, "sample_size / patch_size is 512"),
        ({"in_channels": 3}, "another size"),
        ({"num_embeds_ada_norm": 10}, "knows 10 classes"),
    ],
)
def test_a_transformer_of_another_kind_is_refused(published, tmp_path, change, word):
    file = shutil.copytree(published / "dit", tmp_path / "other") / "transformer" / "config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | change))
    assert word in packs.read(tmp_path / "other").problem


def test_the_page_shows_what_there_is_and_says_what_there_is_not(page, studio):
    from browsing import choose_pack, expect, open_tab

    expect(page.locator("#codebook-view")).to_contain_text(NO_CODEBOOK)  # it opens with what can draw
    page.get_by_role("tab", name="Reconstruct", exact=True).click()
    rebuilt = page.locator("#reconstruct-view")
    expect(rebuilt).to_contain_text(NO_CODEBOOK)
    expect(rebuilt.locator(".mm-compare")).to_be_visible()
    expect(rebuilt.locator(".mm-tile")).to_have_count(2)
    open_tab(page, "Denoise")
    film = page.locator("#denoise-view")
    expect(film).to_contain_text(NO_CODEBOOK)
    expect(film.locator(".mm-curve:visible")).to_have_count(1)
    expect(film.locator(".mm-tokens")).to_have_count(0)
    film.get_by_role("slider").fill("3")
    expect(film).to_contain_text("step 4 of")
    choose_pack(page, "amused")
    page.get_by_role("tab", name="Codebook", exact=True).click()
    expect(page.locator("#codebook-view .mm-card")).to_contain_text("how often it is used is not known")
    expect(page.locator("#codebook-view .mm-swatches canvas")).to_be_visible()
    expect(page.locator("#codebook-view .mm-bars")).to_be_hidden()
    open_tab(page, "Reconstruct")
    expect(rebuilt.locator(".mm-tile")).to_have_count(4)
    choose_pack(page, "kl")
    expect(rebuilt).to_contain_text(NO_CODEBOOK)
    expect(rebuilt.locator(".mm-tokens")).to_have_count(0)


def test_endpoints_answer_in_the_same_order_without_tokens(address, drawing):
    from gradio_client import Client, handle_file
    from gradio_client.exceptions import AppError

    client = Client(address, verbose=False)
    image, token_map, told = client.predict("dit", handle_file(drawing), api_name="/reconstruct")
    assert Image.open(image).size == (32, 32) and token_map is None and told["tokens"] is None and told["psnr"] > 0
    image, told = client.predict("dit", "crane", 1, 2, api_name="/denoise")
    assert Image.open(image).size == (32, 32) and told["tokens"] is None
    sheet, told = client.predict("ldm", api_name="/codebook")
    assert Image.open(sheet).size[0] > 7 * 4 and told["codes"] == 48 and told["used"] is None
    for arguments, name in ((["dit"], "/codebook"), (["dit", 3], "/code"), (["kl", [[1]]], "/decode")):
        with pytest.raises(AppError, match="this codec has no codebook"):
            client.predict(*arguments, api_name=name)
