"""A tiny pack with random weights, so that everything but the pictures' beauty can be tested in seconds."""

import shutil
from pathlib import Path

import pytest
import torch
from diffusers import DDIMScheduler, FlowMatchEulerDiscreteScheduler

from mmdemo import codec, data
from mmdemo.models.dit import DiT
from mmdemo.models.vqvae import VQVAE
from mmdemo.training import export

TINY_CLASSES = ("circle", "square", "triangle")


def tiny_vae(**options) -> VQVAE:
    torch.manual_seed(0)
    settings = {"in_channels": 1, "channels": 8, "latent_channels": 3, "num_codes": 16, "stride": 4} | options
    return VQVAE(**settings).eval()


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
