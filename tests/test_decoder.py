"""A decoder trained further against a discriminator: sharper pictures, and every token as it was."""

import json
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from test_training import SHORT_CODEC, SHORT_TRANSFORMER, alike, checkpoint, stop_after

from mmdemo import codec, data, loading, metrics, packs, provenance
from mmdemo.errors import DataError, PackError
from mmdemo.images import from_bytes, to_bytes
from mmdemo.training import export
from mmdemo.training.config import DecoderConfig, DiTConfig, VQVAEConfig
from mmdemo.training.decoder import Discriminator, train_decoder
from mmdemo.training.dit import read_latents, train_dit
from mmdemo.training.vqvae import train_vqvae

SHORT = DecoderConfig(channels=8, steps=12, batch_size=16, warmup=3, ema_decay=0.9)


@pytest.fixture(scope="module")
def before(tmp_path_factory) -> Path:
    """A pack with codec and transformer, and defaults of its own, whose decoder has not been touched."""
    folder = tmp_path_factory.mktemp("before")
    list(train_vqvae(SHORT_CODEC, folder / "pack", folder / "run"))
    list(train_dit(SHORT_TRANSFORMER, folder / "pack", folder / "run"))
    export.set_defaults(folder / "pack", num_inference_steps=7, guidance_scale=3.0)
    return folder


@pytest.fixture(scope="module")
def after(before, tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("after")
    shutil.copytree(before, folder, dirs_exist_ok=True)
    list(train_decoder(SHORT, folder / "pack", folder / "run"))
    return folder


@pytest.fixture
def copied(before, tmp_path) -> Path:
    shutil.copytree(before, tmp_path / "copied")
    return tmp_path / "copied"


def weights(pack: Path) -> dict[str, torch.Tensor]:
    return loading.load(packs.read(pack), "cpu").vae.state_dict()


def test_the_decoder_alone_has_changed(before, after):
    old, new = weights(before / "pack"), weights(after / "pack")
    changed = {name for name in old if not torch.equal(old[name], new[name])}
    assert changed == {name for name in old if name.startswith("decoder.")}


def test_tokens_transformer_and_defaults_are_what_they_were(before, after):
    kept = ("transformer/diffusion_pytorch_model.safetensors", "scheduler/scheduler_config.json")
    for file in (*kept, "model_index.json", "vae/config.json"):  # the last two would name the folder it was loaded from
        assert (after / "pack" / file).read_bytes() == (before / "pack" / file).read_bytes(), file
    described = packs.read(after / "pack")
    assert described == replace(
        packs.read(before / "pack"), path=described.path, codec=described.codec, stamp=described.stamp
    )
    assert described.problem is None and (described.defaults.steps, described.defaults.guidance) == (7, 3.0)
    old, new = (json.loads((folder / "pack" / "codebook" / "codebook.json").read_text()) for folder in (before, after))
    moved = sum(abs(a - b) for a, b in zip(old["counts"], new["counts"], strict=True)) / 2
    assert sum(old["counts"]) == sum(new["counts"])
    assert moved < 0.002 * sum(old["counts"])  # those counted in full precision that lay between two codes
    old, new = (provenance.read_training(folder / "pack") for folder in (before, after))
    assert new.pop("decoder")["steps"] == 12 and new == old


def test_the_transformers_latents_and_checkpoint_still_fit(after, tmp_path):
    shutil.copytree(after, tmp_path / "copy")
    pack, run = tmp_path / "copy" / "pack", tmp_path / "copy" / "run"
    left = (run / "latents.safetensors").stat().st_mtime_ns
    read_latents(pack, run, tmp_path / "nowhere", DiTConfig())
    assert (run / "latents.safetensors").stat().st_mtime_ns == left
    assert list(train_dit(SHORT_TRANSFORMER, pack, run, resume=True)) == []
    assert provenance.read_training(pack)["decoder"]["steps"] == 12


def test_the_explorers_pictures_are_the_new_decoders(before, after):
    old, new = ((folder / "pack" / "codebook" / "swatches.png").read_bytes() for folder in (before, after))
    assert old != new


def test_resumed_it_is_the_uninterrupted_one_bit_for_bit(copied, after):
    pack, run = copied / "pack", copied / "run"
    stop_after(train_decoder(SHORT, pack, run, checkpoint_every=5), 8)
    assert "decoder" not in provenance.read_training(pack)
    rest = list(train_decoder(SHORT, pack, run, resume=True))
    assert [record.step for record in rest] == list(range(6, 13))
    file = "vae/diffusion_pytorch_model.safetensors"
    assert (pack / file).read_bytes() == (after / "pack" / file).read_bytes()
    assert alike(checkpoint(run / "decoder.pt"), checkpoint(after / "run" / "decoder.pt"))


def test_a_second_time_is_refused(after):
    with pytest.raises(PackError, match="already"):
        next(train_decoder(SHORT, after / "pack", after / "run"))


def test_resuming_on_another_codec_or_with_another_option_is_refused(after, copied, tmp_path):
    with pytest.raises(PackError, match="weight is 0.5"):
        next(train_decoder(replace(SHORT, weight=0.5), after / "pack", after / "run", resume=True))
    list(train_vqvae(replace(SHORT_CODEC, seed=5), tmp_path / "other", tmp_path / "run"))
    with pytest.raises(PackError, match="codec"):
        next(train_decoder(SHORT, tmp_path / "other", after / "run", resume=True))


def test_a_damaged_pack_and_missing_pictures_are_told_in_one_sentence(copied, tiny_weights):
    with pytest.raises(PackError, match="cannot be used: vae"):
        next(train_decoder(SHORT, tiny_weights / "broken", copied / "run"))
    training = provenance.read_training(copied / "pack")
    training["vqvae"]["dataset"] = "photographs/"
    (copied / "pack" / "training.json").write_text(json.dumps(training))
    with pytest.raises(DataError):
        next(train_decoder(SHORT, copied / "pack", copied / "run"))


def test_a_number_of_the_discriminator_sees_26_pixels_of_each_side():
    x = torch.zeros(1, 3, 64, 64, requires_grad=True)
    out = Discriminator(3, 4)(x)
    assert out.shape == (1, 1, 16, 16)
    out[0, 0, 8, 8].backward()
    seen = x.grad[0].abs().sum(0).nonzero()
    assert (seen.max(0).values - seen.min(0).values + 1).tolist() == [26, 26]


def test_pictures_become_sharper_and_the_mean_squared_error_alone_leaves_them_blurred(tmp_path):
    """On `shapes` in colour, through far too few codes to tell them apart."""
    config = VQVAEConfig(dataset="shapes", image_size=16, channels=16, num_codes=8, steps=150, batch_size=64, warmup=20)
    list(train_vqvae(replace(config, ema_decay=0.99), tmp_path / "pack", tmp_path / "run"))
    shutil.copytree(tmp_path / "pack", tmp_path / "plain")
    further = DecoderConfig(channels=16, steps=150, batch_size=64, warmup=20, ema_decay=0.99, learning_rate=2e-3)
    list(train_decoder(replace(further, weight=0.1), tmp_path / "pack", tmp_path / "run"))
    list(train_decoder(replace(further, weight=0.0), tmp_path / "plain", tmp_path / "plain-run"))
    pixels = data.load("shapes", "test", image_size=16).pixels[:200]
    sharp, blurred = (metrics.detail(rebuilt(tmp_path / name, pixels), pixels) for name in ("pack", "plain"))
    assert blurred < sharp < 1.5
    assert sharp > 1.1 * blurred


def rebuilt(pack: Path, pixels: torch.Tensor) -> torch.Tensor:
    vae = loading.load(packs.read(pack), "cpu").vae
    return to_bytes(codec.decode_ids(vae, codec.encode_ids(vae, from_bytes(pixels))))


@pytest.mark.parametrize(
    ("training", "said"),
    [({}, "no dataset"), ({"vqvae": None}, "no dataset"), ({"vqvae": {"dataset": 5}}, "no dataset"),
     ({"vqvae": {"dataset": "shapes", "image_size": "16"}}, "image_size is '16'"),
     ({"vqvae": {"dataset": "shapes", "image_size": 18}}, "18 is no multiple")],
)  # fmt: skip
def test_a_pack_that_does_not_say_what_it_was_trained_on_is_told_in_one_sentence(copied, training, said):
    (copied / "pack" / "training.json").write_text(json.dumps(training))
    with pytest.raises(PackError, match=said):
        next(train_decoder(SHORT, copied / "pack", copied / "run"))


def test_a_codec_stored_in_full_precision_stays_so(copied):
    file = copied / "pack" / "vae" / "diffusion_pytorch_model.safetensors"
    nudged = {name: tensor.float() * 1.0001 for name, tensor in load_file(file).items()}
    save_file(nudged, file)
    before = provenance.fingerprint(copied / "pack")
    list(train_decoder(SHORT, copied / "pack", copied / "run"))
    assert provenance.fingerprint(copied / "pack") == before
    assert {tensor.dtype for tensor in load_file(file).values()} == {torch.float32}
