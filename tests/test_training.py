"""Real training on `shapes`: it learns, and a run that was interrupted ends as if it had not been."""

import fcntl
import math
import os
import resource
import shlex
import shutil
import signal
import subprocess
import sys
from contextlib import contextmanager
from dataclasses import fields, replace
from functools import partial
from pathlib import Path

import pytest
import scenes
import torch
from running import is_mapped, is_one_sentence, one_line, quietly
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import nn
from torch.nn.modules.module import register_module_forward_hook
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from mmdemo import codec, data, loading, packs, provenance
from mmdemo.__main__ import main
from mmdemo.errors import ArgumentError, DataError, MmdemoError, PackError, TrainingError
from mmdemo.images import from_bytes, to_images
from mmdemo.models.dit import DiT, timestep_embedding
from mmdemo.models.vqvae import VQVAE
from mmdemo.samplers import FAST, MAX_JUMPS
from mmdemo.schedules import noise_level, prediction_type, x0_from_prediction
from mmdemo.training import export, student
from mmdemo.training.config import DecoderConfig, DiTConfig, StudentConfig, VQVAEConfig
from mmdemo.training.decoder import Discriminator, train_decoder
from mmdemo.training.dit import examples, loss_weight, make_schedule, read_latents, sample_times, train_dit
from mmdemo.training.loop import learning_rate_factor, load_checkpoint, save_checkpoint, step_generator
from mmdemo.training.student import train_student
from mmdemo.training.vqvae import train_vqvae

SCHEDULE = {"eps": "linear", "v": "cosine", "flow": "cosine"}  # that each prediction is at home on

CODEC = VQVAEConfig(  # of small tokens, so that 200 steps tell one that learns from one that does not
    dataset="shapes", image_size=16, channels=16, num_codes=64, stride=2, steps=200, batch_size=64, warmup=20,
    ema_decay=0.99,
)  # fmt: skip
TRANSFORMER = DiTConfig(
    patch_size=1, hidden_size=48, depth=2, num_heads=4, steps=150, batch_size=64, warmup=20, ema_decay=0.99
)
GRID = VQVAEConfig(
    dataset="shapes", image_size=16, channels=32, quantizer="fsq", levels=(5, 4, 3), steps=150, batch_size=64,
    warmup=120, ema_decay=0.99,
)  # fmt: skip
SHORT_CODEC = replace(CODEC, channels=8, num_codes=16, stride=4, steps=12, warmup=3)
SHORT_TRANSFORMER = replace(TRANSFORMER, hidden_size=16, depth=1, num_heads=2, steps=12, warmup=3)
SHORT_DECODER = DecoderConfig(channels=8, steps=12, batch_size=16, warmup=1)
ROOT = Path(__file__).parent.parent


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A codec and a transformer trained to the end, and the Records of both runs."""
    folder = tmp_path_factory.mktemp("trained")
    codec_records = list(train_vqvae(CODEC, folder / "pack", folder / "run"))
    shutil.copytree(folder / "pack", folder / "codec-only")
    dit_records = list(train_dit(replace(TRANSFORMER, patch_size=2), folder / "pack", folder / "run"))
    return folder, codec_records, dit_records


@pytest.fixture(scope="module")
def short(tmp_path_factory):
    """The same in a dozen steps, for what does not depend on having learnt anything."""
    folder = tmp_path_factory.mktemp("short")
    list(train_vqvae(SHORT_CODEC, folder / "codec", folder / "run"))
    shutil.copytree(folder / "codec", folder / "pack")
    list(train_dit(SHORT_TRANSFORMER, folder / "pack", folder / "run"))
    return folder


@pytest.fixture
def codec_only(short, tmp_path) -> tuple[Path, Path]:
    """A pack with a codec, and a run that holds its latents: a transformer's training may begin."""
    shutil.copytree(short / "codec", tmp_path / "pack")
    (tmp_path / "run").mkdir()
    shutil.copy2(short / "run" / "latents.safetensors", tmp_path / "run")
    return tmp_path / "pack", tmp_path / "run"


def everything_in(folder: Path) -> dict[str, bytes]:
    files = [file for file in folder.rglob("*") if file.is_file()]
    return {file.relative_to(folder).as_posix(): file.read_bytes() for file in files}


def mean(records, name: str) -> float:
    return sum(record.metrics[name] for record in records) / len(records)


# -------------------------------------------------------------------------------------------------------- it learns


def test_the_codecs_loss_falls_and_its_psnr_rises(trained):
    _, records, _ = trained
    assert [record.step for record in records] == list(range(1, 201)) and {record.steps for record in records} == {200}
    assert mean(records[-10:], "loss") < 0.25 * mean(records[:10], "loss")
    assert mean(records[-10:], "psnr") > mean(records[:10], "psnr") + 6
    assert all(math.isfinite(number) for record in records for number in record.metrics.values())


def test_most_codes_are_used(trained):
    counts = packs.read_codebook(packs.read(trained[0] / "pack"))["counts"]
    assert sum(count > 0 for count in counts) > 0.75 * 64
    assert codec.perplexity(torch.tensor(counts)) > 16


def test_the_saved_codec_reconstructs_pictures_it_was_not_trained_on(trained):
    """As well as those it was trained on, and far better than with each one's mean colour: by 5.2 dB. With two
    codes it would be 2.0, with codes that are never moved 2.3."""
    vae = loading.load(packs.read(trained[0] / "pack"), "cpu").vae
    x = from_bytes(data.load("shapes", "test", image_size=16).pixels[:200])
    rebuilt = codec.decode_ids(vae, codec.encode_ids(vae, x))
    psnr = 10 * torch.log10(4 / (rebuilt - x).square().mean())
    plain = 10 * torch.log10(4 / (x.mean((2, 3), keepdim=True) - x).square().mean())
    assert psnr > mean(trained[1][-10:], "psnr") - 1 and psnr > plain + 4


def test_a_codec_of_either_quantizer_learns_and_is_trained_on_and_drawn_from(tmp_path):
    """The other one: everything after `train vqvae` knows nothing of the quantizer."""
    pack, run = tmp_path / "pack", tmp_path / "run"
    records = list(train_vqvae(GRID, pack, run))
    assert mean(records[-10:], "psnr") > mean(records[:10], "psnr") + 6
    described = packs.read(pack)
    assert described.problem is None and (described.codes, described.dim) == (60, 3)
    vae = loading.load(described, "cpu").vae
    assert torch.allclose(vae.codebook, vae.quantizer.codebook(), atol=1e-3), "the grid has moved"
    assert sum(count > 0 for count in packs.read_codebook(described)["counts"]) > 10
    list(train_dit(SHORT_TRANSFORMER, pack, run))
    list(train_decoder(DecoderConfig(channels=8, steps=3, batch_size=16, warmup=1), pack, run))
    assert loading.load(packs.read(pack), "cpu")([0], num_inference_steps=2).images[0].size == (16, 16)
    assert provenance.read_training(pack)["vqvae"]["levels"] == [5, 4, 3]


def test_a_resumed_codec_of_fsq_is_the_uninterrupted_one_bit_for_bit(tmp_path):
    config, file = replace(GRID, steps=8), "vae/diffusion_pytorch_model.safetensors"
    list(train_vqvae(config, tmp_path / "whole", tmp_path / "whole-run"))
    stop_after(train_vqvae(config, tmp_path / "pack", tmp_path / "run", checkpoint_every=3), 5)
    assert [record.step for record in train_vqvae(config, tmp_path / "pack", tmp_path / "run", resume=True)][0] == 4
    assert (tmp_path / "pack" / file).read_bytes() == (tmp_path / "whole" / file).read_bytes()


def test_levels_are_the_papers_for_about_as_many_codes_and_make_the_codes():
    made = [VQVAEConfig(quantizer="fsq", num_codes=count) for count in (256, 1024, 4096, 16384, 65536)]
    assert [config.num_codes for config in made] == [240, 1000, 4375, 15360, 64000]
    assert [config.latent_channels for config in made] == [3, 4, 5, 5, 6]
    given = VQVAEConfig(quantizer="fsq", levels=[4, 4, 4])
    assert (given.levels, given.num_codes, given.latent_channels) == ((4, 4, 4), 64, 3)
    assert replace(given, seed=1).levels == (4, 4, 4)


@pytest.mark.parametrize(
    ("options", "said"),
    [({"levels": (4, 4)}, "levels is 4 4, but quantizer is 'vq'"), ({"quantizer": "x"}, "quantizer is 'x'"),
     ({"quantizer": "fsq", "commitment": 0.5}, "commitment is 0.5"),
     ({"quantizer": "fsq", "codebook_decay": 0.9}, "codebook_decay is 0.9"),
     ({"quantizer": "fsq", "latent_channels": 8}, "latent_channels is 8.*1000 codes of 4 numbers"),
     ({"quantizer": "fsq", "levels": (4, 4), "num_codes": 512}, "num_codes is 512.*16 codes"),
     ({"quantizer": "fsq", "num_codes": 20}, "num_codes is 20.*levels"),
     ({"quantizer": "fsq", "levels": (1, 4)}, "levels is 1"),
     ({"quantizer": "fsq", "levels": (256, 256, 2)}, "num_codes is 131072")],
)  # fmt: skip
def test_an_option_that_a_quantizer_does_not_have_is_refused_by_its_name(options, said):
    with pytest.raises(ArgumentError, match=said):
        VQVAEConfig(**options)


def test_the_latents_standard_deviation_is_measured_over_the_training_split(trained):
    vae = loading.load(packs.read(trained[0] / "pack"), "cpu").vae
    z = codec.encode(vae, from_bytes(data.load("shapes", "train", image_size=16).pixels))
    assert vae.config.latent_std == pytest.approx(float(z.std()), rel=0.01)
    assert abs(vae.config.latent_std - 1) > 1e-3


def test_the_transformers_loss_falls(trained):
    _, _, records = trained
    assert [record.step for record in records] == list(range(1, 151))
    assert mean(records[-20:], "loss") < 0.6 * mean(records[:10], "loss")


def test_after_training_the_pack_samples_its_classes(trained):
    pack = packs.read(trained[0] / "pack")
    assert pack.problem is None and pack.classes == data.SHAPES and pack.samplers[0] == "euler"
    pipeline = loading.load(pack, "cpu")
    made = pipeline([0, 1, 2, 3, 4], [torch.Generator().manual_seed(i) for i in range(5)], 5, output_type="pt").images
    assert made.shape == (5, 3, 16, 16) and made.std() > 0.05


def test_eps_is_refused_on_a_schedule_that_ends_in_pure_noise():
    with pytest.raises(MmdemoError, match="schedule is 'cosine'.*linear"):
        DiTConfig(prediction="eps", schedule="cosine")


@torch.no_grad()
def error_of_x0(pipeline, stored: dict) -> float:
    """Mean squared error of the clean latents seen through as much noise, over their power: 1 = no idea of them."""
    x0, y = stored["latents"][:200] / codec.latent_std(pipeline.vae), stored["labels"][:200]
    times = torch.arange(1000.0)
    t = times[(noise_level(pipeline.scheduler, times)[0] - noise_level(pipeline.scheduler, times)[1]).abs().argmin()]
    a, s = noise_level(pipeline.scheduler, t)
    x_t = a * x0 + s * torch.randn(x0.shape, generator=torch.Generator().manual_seed(0))
    prediction = pipeline.transformer(x_t, timestep=t, class_labels=y).sample
    guess = x0_from_prediction(prediction_type(pipeline.scheduler), prediction, x_t, a, s)
    return float((guess - x0).square().mean() / x0.square().mean())


@pytest.mark.parametrize(
    ("prediction", "schedule", "weighting", "steps"),
    [
        ("eps", "linear", "none", 120),
        ("v", "cosine", "none", 60),
        ("v", "linear", "min-snr", 60),
        ("flow", "linear", "min-snr", 60),
    ],
)
def test_every_target_can_be_trained_and_sampled_from(codec_only, prediction, schedule, weighting, steps):
    pack, run = codec_only
    options = {"prediction": prediction, "schedule": schedule, "weighting": weighting, "steps": steps}
    config = replace(TRANSFORMER, hidden_size=32, learning_rate=3e-3, time_sampling="uniform", **options)
    records = list(train_dit(config, pack, run))
    assert mean(records[-10:], "loss") < 0.5 * mean(records[:5], "loss")
    pipeline = loading.load(packs.read(pack), "cpu")
    assert error_of_x0(pipeline, load_file(run / "latents.safetensors")) < 0.5
    (*_, last) = pipeline.steps([0, 1], [torch.Generator().manual_seed(i) for i in range(2)], 25, 1.0)
    assert last.latents.isfinite().all() and 0.3 < last.latents.std() < 8  # the data's is 1


def test_eps_on_a_schedule_that_ends_in_pure_noise_is_refused(codec_only):
    """There x0 = (x_t - s eps) / a divides the smallest error by nearly zero, so that no training would ever do."""
    with pytest.raises(MmdemoError, match="schedule.*cosine.*linear"):
        next(train_dit(replace(TRANSFORMER, prediction="eps", schedule="cosine"), *codec_only))


def test_what_is_saved_is_the_average_of_the_weights(short):
    """EMA weights: the checkpoint's shadows in half precision, and not the last weights."""
    for model, part in (("vqvae", "vae"), ("dit", "transformer")):
        state = torch.load(short / "run" / f"{model}.pt", weights_only=True)
        saved = load_file(short / "pack" / part / "diffusion_pytorch_model.safetensors")
        names = [name for name in state["model"]]
        shadows = dict(zip(names, state["ema"]["shadow_params"], strict=True))
        assert all(torch.equal(saved[name], shadows[name].half()) for name in names)
        assert any(not torch.equal(saved[name], state["model"][name].half()) for name in names)


# ------------------------------------------------------------------------------------------------- resume is exact


def alike(a: dict, b: dict) -> bool:
    """Whether two nested states hold the same numbers, bit for bit."""
    if isinstance(a, torch.Tensor):
        return torch.equal(a, b)
    if isinstance(a, dict):
        return a.keys() == b.keys() and all(alike(a[name], b[name]) for name in a)
    if isinstance(a, (list, tuple)):
        return len(a) == len(b) and all(alike(x, y) for x, y in zip(a, b, strict=True))
    return a == b


def checkpoint(file: Path) -> dict:
    state = torch.load(file, weights_only=True)
    state.pop("seconds")
    return state


def stop_after(records, steps: int) -> None:
    """As Ctrl-C would: no further step, and no goodbye."""
    for _ in range(steps):
        next(records)
    records.close()


def test_a_resumed_codec_is_the_uninterrupted_one_bit_for_bit(short, tmp_path):
    pack, run = tmp_path / "pack", tmp_path / "run"
    stop_after(train_vqvae(SHORT_CODEC, pack, run, checkpoint_every=5), 8)
    assert not pack.exists(), "half a training must leave no pack"
    stop_after(train_vqvae(SHORT_CODEC, pack, run, resume=True, checkpoint_every=2), 3)
    rest = list(train_vqvae(SHORT_CODEC, pack, run, resume=True))
    assert [record.step for record in rest] == [9, 10, 11, 12], "5 steps, then to 8, of which 8 were saved"
    for file in ("vae/diffusion_pytorch_model.safetensors", "vae/config.json", "codebook/codebook.json"):
        assert (pack / file).read_bytes() == (short / "codec" / file).read_bytes(), file
    assert alike(checkpoint(run / "vqvae.pt"), checkpoint(short / "run" / "vqvae.pt"))


def test_a_resumed_transformer_is_the_uninterrupted_one_bit_for_bit(short, codec_only):
    pack, run = codec_only
    stop_after(train_dit(SHORT_TRANSFORMER, pack, run, checkpoint_every=5), 8)
    assert not packs.read(pack).can_sample
    rest = list(train_dit(SHORT_TRANSFORMER, pack, run, resume=True))
    assert [record.step for record in rest] == list(range(6, 13))
    file = "transformer/diffusion_pytorch_model.safetensors"
    assert (pack / file).read_bytes() == (short / "pack" / file).read_bytes()
    assert alike(checkpoint(run / "dit.pt"), checkpoint(short / "run" / "dit.pt"))


def test_the_same_seed_trains_the_same_and_another_seed_another_model(short, tmp_path):
    for seed, same in ((0, True), (1, False)):
        list(train_vqvae(replace(SHORT_CODEC, seed=seed), tmp_path / f"{seed}", tmp_path / f"run-{seed}"))
        file = "vae/diffusion_pytorch_model.safetensors"
        assert ((tmp_path / f"{seed}" / file).read_bytes() == (short / "codec" / file).read_bytes()) == same


def test_a_finished_run_resumed_has_nothing_left_to_do(short, tmp_path):
    shutil.copytree(short / "run", tmp_path / "run")
    assert list(train_vqvae(SHORT_CODEC, tmp_path / "pack", tmp_path / "run", resume=True)) == []
    file = "vae/diffusion_pytorch_model.safetensors"
    assert (tmp_path / "pack" / file).read_bytes() == (short / "codec" / file).read_bytes()


@pytest.mark.parametrize(
    ("name", "value"), [("batch_size", 32), ("seed", 3), ("learning_rate", 1e-4), ("steps", 13), ("num_codes", 32)]
)
def test_resuming_with_another_option_is_refused_by_its_name(short, tmp_path, name, value):
    with pytest.raises(PackError) as error:
        next(train_vqvae(replace(SHORT_CODEC, **{name: value}), tmp_path / "pack", short / "run", resume=True))
    text = str(error.value)
    assert name in text and str(value) in text and str(getattr(SHORT_CODEC, name)) in text and "\n" not in text
    assert not (tmp_path / "pack").exists()


def test_resuming_a_transformer_with_another_option_is_refused_by_its_name(short):
    with pytest.raises(PackError, match="prediction is '?v'?, .* made with '?flow"):
        next(train_dit(replace(SHORT_TRANSFORMER, prediction="v"), short / "pack", short / "run", resume=True))


def test_resuming_a_transformer_on_another_codec_is_refused(short, tmp_path):
    """Its latents have changed meaning: what it learnt so far was learnt on others."""
    list(train_vqvae(replace(SHORT_CODEC, seed=5), tmp_path / "pack", tmp_path / "run"))
    shutil.copy(short / "run" / "dit.pt", tmp_path / "run")
    with pytest.raises(PackError, match="codec"):
        next(train_dit(SHORT_TRANSFORMER, tmp_path / "pack", tmp_path / "run", resume=True))


def test_without_a_checkpoint_there_is_nothing_to_resume(short, tmp_path):
    with pytest.raises(PackError, match="no checkpoint .*without --resume"):
        next(train_vqvae(SHORT_CODEC, tmp_path / "pack", tmp_path / "run", resume=True))


class Unwritable:
    """Breaks whoever saves it, once everything before it is already in the file."""

    def __reduce__(self):
        raise RuntimeError("the disk is full")


def test_a_save_that_fails_halfway_leaves_the_old_checkpoint(tmp_path):
    file, good = tmp_path / "run" / "model.pt", {"config": {}, "weights": torch.arange(1000.0)}
    save_checkpoint(file, good)
    for _ in range(2):
        with pytest.raises(RuntimeError, match="disk is full"):
            save_checkpoint(file, {"config": {}, "weights": torch.zeros(500_000), "last": Unwritable()})
        assert alike(load_checkpoint(file, {}), good)
    with file.open("rb") as still_open:
        before = still_open.read()
        save_checkpoint(file, {"config": {}, "weights": torch.ones(3)})
        still_open.seek(0)
        assert still_open.read() == before, "the old file was written over, not replaced"
    assert torch.equal(load_checkpoint(file, {})["weights"], torch.ones(3))
    assert [path.name for path in file.parent.iterdir()] == ["model.pt"]


def test_a_checkpoint_on_a_full_disk_is_refused_in_one_sentence_and_leaves_the_old_one(tmp_path):
    """Also if torch covers what the system says with an error of its own."""
    save_checkpoint(tmp_path / "model.pt", {"config": {}})
    for size in (100, 100_000):
        with (
            files_of_at_most(size),
            pytest.raises(PackError, match=r"model.pt cannot be written \(File too large") as error,
        ):
            save_checkpoint(tmp_path / "model.pt", {"config": {}, "weights": torch.zeros(500_000)})
        assert is_one_sentence(str(error.value)) and load_checkpoint(tmp_path / "model.pt", {}) == {"config": {}}
    assert [path.name for path in tmp_path.iterdir()] == ["model.pt"]


def test_a_process_killed_while_it_saves_leaves_the_old_checkpoint(tmp_path):
    file, good = tmp_path / "model.pt", {"config": {}, "weights": torch.arange(1000.0)}
    save_checkpoint(file, good)

    class Deadly:
        def __reduce__(self):
            os.kill(os.getpid(), signal.SIGKILL)

    half = {"config": {}, "weights": torch.zeros(500_000), "last": Deadly()}
    if not (child := os.fork()):
        save_checkpoint(file, half)
        os._exit(0)
    assert os.WTERMSIG(os.waitpid(child, 0)[1]) == signal.SIGKILL
    assert alike(load_checkpoint(file, {}), good)


def test_a_checkpoint_that_is_no_checkpoint_is_told_in_one_sentence(tmp_path):
    (tmp_path / "model.pt").write_bytes(b"Dear reader" * 100)
    with pytest.raises(PackError) as error:
        load_checkpoint(tmp_path / "model.pt", {})
    assert "model.pt" in str(error.value) and "\n" not in str(error.value)


@pytest.mark.parametrize("damage", [{"config": 7}, {"ema": None}, {"optimizer": {}}, {"step": None}])
def test_a_checkpoint_with_a_part_damaged_or_lost_is_told_in_one_sentence(short, tmp_path, damage):
    whole = load_checkpoint(short / "run" / "vqvae.pt", {})
    save_checkpoint(tmp_path / "vqvae.pt", {name: part for name, part in (whole | damage).items() if part is not None})
    with pytest.raises(PackError) as error:
        next(train_vqvae(SHORT_CODEC, tmp_path / "pack", tmp_path, resume=True))
    assert "vqvae.pt cannot be read" in str(error.value) and "\n" not in str(error.value)


def test_a_training_that_diverged_says_so_and_leaves_the_pack_that_was_there(short, tmp_path):
    shutil.copytree(short / "codec", tmp_path / "pack")
    vae = loading.load(packs.read(tmp_path / "pack"), "cpu").vae
    statistics = codec.statistics(vae, data.load("shapes", "train", image_size=16).pixels[:50])
    vae.decoder[0].weight[0, 0] = 1e6  # finite, but not in half precision
    with pytest.raises(PackError) as error:
        export.save_codec(tmp_path / "pack", vae, statistics, (), {"dataset": "shapes"})
    assert "diverged" in str(error.value) and "learning_rate" in str(error.value) and "\n" not in str(error.value)
    assert loading.load(packs.read(tmp_path / "pack"), "cpu").vae
    assert [path.name for path in tmp_path.iterdir()] == ["pack"]


def test_each_steps_randomness_depends_on_seed_and_step_only():
    device = torch.device("cpu")
    drawn = {
        (seed, step): tuple(torch.rand(4, generator=step_generator(device, seed, step)).tolist())
        for seed in (0, 1, 7)
        for step in (0, 1, 20_000)
    }
    assert len(set(drawn.values())) == len(drawn)
    assert drawn[1, 1] == tuple(torch.rand(4, generator=step_generator(device, 1, 1)).tolist())


def test_the_learning_rate_warms_up_and_falls_to_zero():
    factors = [learning_rate_factor(step, 100, 10) for step in range(100)]
    assert factors[:10] == pytest.approx([0.1 * n for n in range(1, 11)])
    assert factors[9:] == sorted(factors[9:], reverse=True) and max(factors) == 1
    assert factors[55] == pytest.approx(0.5) and 0 < factors[-1] < 0.01
    assert all(0 < learning_rate_factor(step, 5, 20) <= 1 for step in range(5)), "shorter than its warm-up"


# --------------------------------------------------------------------------------- what ends a training before its end


def with_a_bad_picture(run: Path, step: int, config: DiTConfig) -> None:
    """The latents of a picture that the step after that one sees first are no numbers."""
    place = data.permuted(6000, step * config.batch_size, step * config.batch_size + 1, config.seed)
    stored = load_file(run / "latents.safetensors")
    with safe_open(run / "latents.safetensors", "pt") as opened:
        about = opened.metadata()
    stored["latents"][place] = torch.nan
    save_file(stored, run / "latents.safetensors", about)


def test_a_transformer_stops_at_the_first_loss_that_is_no_number_and_keeps_its_last_checkpoint(short, codec_only):
    pack, run = codec_only
    with_a_bad_picture(run, 8, SHORT_TRANSFORMER)
    records = train_dit(SHORT_TRANSFORMER, pack, run, checkpoint_every=5)
    assert [next(records).step for _ in range(8)] == list(range(1, 9))
    with pytest.raises(TrainingError) as error:
        next(records)
    text = str(error.value)
    assert "step 9 " in text and "--learning-rate than 0.001" in text and "kept step 5" in text and "\n" not in text
    state = checkpoint(run / "dit.pt")
    assert state["step"] == 5 and all(weight.isfinite().all() for weight in state["model"].values())
    assert not packs.read(pack).can_sample, "it was written all the same"


@pytest.mark.parametrize("part", ["encoder", "decoder"])
def test_a_codec_that_diverges_says_so_in_one_sentence(tmp_path, part):
    records = train_vqvae(SHORT_CODEC, tmp_path / "pack", tmp_path / "run")
    assert [next(records).step for _ in range(3)] == [1, 2, 3]
    vae = records.gi_yieldfrom.gi_frame.f_locals["vae"]
    with torch.no_grad():  # as a step too far would leave them
        for weight in getattr(vae, part).parameters():
            weight.fill_(1e30)
    with pytest.raises(TrainingError, match="diverged.* step 4 .*--learning-rate"):
        next(records)
    assert not (tmp_path / "run" / "vqvae.pt").exists() and not (tmp_path / "pack").exists()


def test_a_decoders_opponent_that_diverges_ends_the_training(codec_only):
    config = DecoderConfig(channels=8, steps=4, batch_size=16, warmup=1)
    records = train_decoder(config, *codec_only)
    next(records)
    discriminator = records.gi_yieldfrom.gi_frame.f_locals["discriminator"]
    with torch.no_grad():
        discriminator.layers[-1].bias.fill_(torch.nan)
    with pytest.raises(TrainingError, match="diverged.* step 2 "):
        next(records)


def command(model: str, config, folder: Path, pictures: Path) -> list[str]:
    """The words after `python -m mmdemo` that train the pack `pack` of a folder on a folder of pictures."""
    options = {"pack": "pack", "weights": folder, "runs": folder / "runs", "data_dir": pictures}
    options |= {field.name: getattr(config, field.name) for field in fields(config)}
    options |= {"dataset": pictures} if model == "vqvae" else {}
    words = {
        name: [] if value is True else [str(value)] for name, value in options.items() if value not in (None, False)
    }
    return ["train", model, *(word for name in words for word in (f"--{name.replace('_', '-')}", *words[name]))]


@contextmanager
def signalled(kind: type, call: int, *numbers: int):
    """Signals that come in the middle of a step: in the given call of a module of that kind."""
    calls = []

    def come(module, given, out):
        calls.extend([module] * isinstance(module, kind))
        if isinstance(module, kind) and len(calls) == call:
            for number in numbers:
                signal.raise_signal(number)

    handle = register_module_forward_hook(come)
    try:
        yield calls
    finally:
        handle.remove()


@pytest.fixture(scope="module")
def pictures(tmp_path_factory) -> Path:
    """120 pictures in class folders. One of the training split cannot be read."""
    folder, shapes = tmp_path_factory.mktemp("folder"), data.load("shapes", "test", image_size=16)
    for i, image in enumerate(to_images(shapes.pixels[:120])):
        file = folder / shapes.classes[shapes.labels[i]] / f"{i:03}.png"
        file.parent.mkdir(exist_ok=True)
        image.save(file)
    (folder / "ring" / "001.png").write_bytes(b"no picture")
    return folder


@pytest.fixture(scope="module")
def codec_of_pictures(pictures, tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("codec")
    list(train_vqvae(replace(SHORT_CODEC, dataset=str(pictures)), folder / "pack", folder / "run"))
    return folder / "pack"


@pytest.fixture
def home(codec_of_pictures, tmp_path) -> Path:
    """A folder of packs, of which `pack` has a codec."""
    shutil.copytree(codec_of_pictures, tmp_path / "home" / "pack")
    return tmp_path / "home"


@pytest.mark.parametrize(
    ("model", "config", "kind", "call", "number"),
    [
        ("vqvae", SHORT_CODEC, VQVAE, 5, signal.SIGINT),
        ("dit", SHORT_TRANSFORMER, DiT, 5, signal.SIGTERM),
        ("decoder", SHORT_DECODER, Discriminator, 10, signal.SIGTERM),  # called twice a step
    ],
)
def test_a_signal_ends_a_training_after_its_step_and_the_command_it_prints_ends_it_bit_for_bit(
    pictures, home, tmp_path, capsys, model, config, kind, call, number
):
    if model == "vqvae":
        shutil.rmtree(home / "pack")
    shutil.copytree(home, tmp_path / "whole")
    with signalled(kind, call, number):
        assert main(command(model, config, home, pictures)) == 128 + number
    line = capsys.readouterr().err
    assert line.startswith("stopped; step 5 is saved; go on: python -m mmdemo train ") and line.count("\n") == 1
    assert load_checkpoint(home / "runs" / "pack" / f"{model}.pt", {})["step"] == 5
    assert {path.name for path in home.glob("runs/*/*")} <= {f"{model}.pt", "latents.safetensors"}
    assert not list(home.glob(".*")), "something is left of what was under way"
    assert (
        quietly(*shlex.split(line.split(" -m mmdemo ")[1]))
        == quietly(*command(model, config, tmp_path / "whole", pictures))
        == 0
    )
    one, whole = (everything_in(folder) for folder in (home, tmp_path / "whole"))
    weights = [name for name in whole if name.endswith("model.safetensors")]
    assert weights and all(one[name] == whole[name] for name in weights)


def test_a_second_signal_ends_a_training_at_once(pictures, tmp_path, capsys):
    with signalled(VQVAE, 5, signal.SIGTERM, signal.SIGTERM) as calls:
        assert main(command("vqvae", SHORT_CODEC, tmp_path, pictures)) == 143
    told = capsys.readouterr().err
    assert len(calls) == 5 and told.startswith("stopped before anything was saved; start again: python -m mmdemo ")
    assert told.count("\n") == 1 and "--resume" not in told and everything_in(tmp_path) == {}


@contextmanager
def files_of_at_most(size: int):
    """A disk that is soon full: no file of this process may grow beyond that many bytes."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


@pytest.fixture
def export_again(home):
    """Writes the codec of the pack `pack` once more, with the classes given."""
    vae = loading.load(packs.read(home / "pack"), "cpu").vae
    noise = torch.randint(256, (200, 3, 16, 16), generator=torch.Generator().manual_seed(0), dtype=torch.uint8)
    statistics = codec.statistics(vae, noise)
    return lambda classes: export.save_codec(home / "pack", vae, statistics, classes, {"dataset": "shapes"})


def test_an_export_to_a_full_disk_leaves_the_pack_that_was_there_and_nothing_else(home, export_again):
    """Whichever of its files is the first that has no room."""
    export_again(["a"])
    before = everything_in(home)
    assert "patches.jpg" in max(before, key=lambda name: len(before[name])), "Pillow is silent where no JPEG has room"
    for size in {len(file) - 1 for file in before.values()}:
        with files_of_at_most(size), pytest.raises(PackError, match=r"pack cannot be written \(.*too large") as error:
            export_again(["a"])
        assert is_one_sentence(str(error.value)) and ".new" not in str(error.value)
        assert everything_in(home) == before and [path.name for path in home.iterdir()] == ["pack"]


def test_an_export_that_a_signal_ends_leaves_the_pack_that_was_there_and_nothing_else(home, export_again):
    def classes():
        yield "a"
        assert [path.name for path in home.glob(".*")] == [".pack.new"], "it is not being written"
        signal.default_int_handler(signal.SIGINT, None)

    before = everything_in(home)
    with pytest.raises(KeyboardInterrupt):
        export_again(classes())
    assert everything_in(home) == before and [path.name for path in home.iterdir()] == ["pack"]


def test_an_export_puts_back_the_pack_that_an_earlier_one_had_moved_away(home, export_again):
    """It was killed between two renamings, and then the disk is full."""
    before = everything_in(home)
    (home / "pack").rename(home / ".pack.old")
    with files_of_at_most(1_000), pytest.raises(PackError):
        export_again(["a"])
    assert everything_in(home) == before


def test_a_training_on_a_full_disk_says_so_in_one_line_and_leaves_no_half_file(pictures, home, capsys):
    """First there is no room for the latents, then for a checkpoint."""
    options, run = command("dit", replace(SHORT_TRANSFORMER, steps=2), home, pictures), home / "runs" / "pack"
    left = []
    for size, what in ((10_000, "latents.safetensors"), (30_000, "dit.pt")):
        with files_of_at_most(size):
            assert main(options) == 1
        assert f"{what} cannot be written (" in one_line(capsys.readouterr().err)
        assert [file.name for file in run.iterdir()] == left and not packs.read(home / "pack").can_sample
        left = ["latents.safetensors"]
    assert main(options) == 0


def test_a_signal_before_there_is_anything_to_clean_up_ends_the_process_where_it_is():
    """An exception would come out of an import of torch as another one, or as an abort."""
    script = """
import signal
from mmdemo.training.stopping import heeded
with heeded(lambda: print("how to go on", flush=True)):
    try:
        signal.raise_signal(signal.SIGTERM)
    except BaseException as error:
        raise ImportError from error
"""
    done = subprocess.run([sys.executable, "-c", script], cwd=ROOT, timeout=60, capture_output=True, text=True)
    assert (done.returncode, done.stdout, done.stderr) == (143, "how to go on\n", "")


def test_a_second_training_in_a_run_folder_is_told_of_the_first(codec_only):
    pack, run = codec_only
    first = train_dit(SHORT_TRANSFORMER, pack, run)
    next(first)
    for second in (train_dit(SHORT_TRANSFORMER, pack, run), train_vqvae(SHORT_CODEC, pack, run)):
        with pytest.raises(TrainingError) as error:
            next(second)
        text = str(error.value)
        assert f"a transformer, process {os.getpid()}, since 20" in text and str(run) in text and "\n" not in text
    next(first)
    first.close()
    next(train_dit(SHORT_TRANSFORMER, pack, run))


def test_a_second_training_on_a_pack_is_told_of_the_first_wherever_its_run_is(codec_only, tmp_path):
    pack, run = codec_only
    first = train_dit(SHORT_TRANSFORMER, pack, run)
    next(first)
    with pytest.raises(TrainingError, match=f"pack is in use by another .*a transformer, process {os.getpid()}, since"):
        next(train_vqvae(SHORT_CODEC, pack, tmp_path / "another run"))
    next(train_vqvae(SHORT_CODEC, tmp_path / "another pack", tmp_path / "another run"))
    first.close()
    assert not list(tmp_path.glob(".*")) and not list(tmp_path.glob("*/lock")), "a lock outlives its training"


def test_a_lock_that_its_last_holder_has_just_removed_is_not_taken(codec_only, monkeypatch):
    """Between opening and locking it: the next training would make a new one, and both would run."""
    pack, run = codec_only

    def flock(file, how, real=fcntl.flock):
        Path(file.name).unlink()
        real(file, how)

    monkeypatch.setattr("mmdemo.training.loop.fcntl.flock", flock)
    with pytest.raises(TrainingError, match="in use"):
        next(train_dit(SHORT_TRANSFORMER, pack, run))


def test_a_killed_trainings_lock_is_gone_with_it(tmp_path):
    script = f"""
import pathlib, time
from mmdemo.training.config import VQVAEConfig
from mmdemo.training.vqvae import train_vqvae
config = VQVAEConfig(dataset="shapes", image_size=16, channels=8, num_codes=16, batch_size=16)
folder = pathlib.Path({str(tmp_path)!r})
records = train_vqvae(config, folder / "pack", folder / "run")
next(records)
print("training", flush=True)
time.sleep(120)
"""
    other = subprocess.Popen([sys.executable, "-c", script], cwd=ROOT, stdout=subprocess.PIPE, text=True)
    try:
        assert other.stdout.readline() == "training\n"
        with pytest.raises(TrainingError, match=f"a codec, process {other.pid}, since"):
            next(train_vqvae(SHORT_CODEC, tmp_path / "pack", tmp_path / "run"))
    finally:
        other.kill()
        other.wait(timeout=20)
    assert (tmp_path / ".pack.lock").exists() and (tmp_path / "run" / "lock").exists()
    next(train_vqvae(SHORT_CODEC, tmp_path / "pack", tmp_path / "run"))


def test_where_nothing_can_be_locked_a_training_warns_and_goes_on(codec_only, monkeypatch, caplog):
    monkeypatch.setattr("mmdemo.training.loop.fcntl", None)
    next(train_dit(SHORT_TRANSFORMER, *codec_only))
    assert ["cannot be locked" in warning for warning in caplog.messages] == [True, True]


def test_a_checkpoint_from_before_an_option_existed_is_resumed_as_one_of_its_default(short, tmp_path):
    state = torch.load(short / "run" / "vqvae.pt", weights_only=True)
    del state["config"]["quantizer"], state["config"]["levels"]
    save_checkpoint(tmp_path / "run" / "vqvae.pt", state)
    assert list(train_vqvae(SHORT_CODEC, tmp_path / "pack", tmp_path / "run", resume=True)) == []


def test_neighbours_by_parts_are_those_of_all_distances_at_once(monkeypatch):
    codes = torch.randn(300, 5, generator=torch.Generator().manual_seed(0))
    distances, nearest = torch.cdist(codes, codes).fill_diagonal_(torch.inf).topk(8, largest=False)
    monkeypatch.setattr(export, "DISTANCES", 7 * 300)
    found = export.neighbours(codes, 8)
    assert torch.equal(found[1], nearest) and torch.allclose(found[0], distances, atol=1e-5)


def test_neighbours_are_found_without_all_distances_in_memory():
    """65 536 codes would have 17 GB of them; of the 14 000 here they are 784 MB."""
    largest = 0

    class Watched(TorchDispatchMode):  # the process's own memory tells of its other threads too
        def __torch_dispatch__(self, function, types, args=(), kwargs=None):
            nonlocal largest
            results = function(*args, **kwargs or {})
            largest = max(largest, *(x.nbytes for x in tree_leaves(results) if isinstance(x, torch.Tensor)), 0)
            return results

    with Watched():
        export.neighbours(torch.randn(14_000, 4), 8)
    assert 10e6 < largest < 100e6


# ----------------------------------------------------------------------------------------------- latents and labels


def test_latents_are_encoded_once_and_reused(codec_only):
    pack, run = codec_only
    file = run / "latents.safetensors"
    os.utime(file, ns=(1, 1))
    next(train_dit(SHORT_TRANSFORMER, pack, run))
    assert file.stat().st_mtime_ns == 1


def test_latents_are_mapped_from_their_file_and_divided_as_they_are_read(codec_only):
    pack, run = codec_only
    config = replace(SHORT_TRANSFORMER, mirrored=0.5)
    latents, _ = read_latents(pack, run, None, config)
    assert is_mapped(latents.plain, run / "latents.safetensors")
    assert is_mapped(latents.mirrored, run / "mirrored.safetensors")
    vae = loading.load(packs.read(pack), "cpu").vae
    x, some = from_bytes(data.load("shapes", "train", image_size=16).pixels[:256]), torch.arange(256)
    for z, seen in zip(latents.read(some), (x, x.flip(-1)), strict=True):
        assert torch.allclose(z * codec.latent_std(vae), codec.encode(vae, seen), atol=0.05)  # in half precision since
    os.utime(run / "mirrored.safetensors", ns=(1, 1))
    read_latents(pack, run, None, config)
    assert (run / "mirrored.safetensors").stat().st_mtime_ns == 1


def test_latents_of_pictures_that_changed_are_made_again(pictures, tmp_path):
    folder = shutil.copytree(pictures, tmp_path / "pictures")
    list(train_vqvae(replace(SHORT_CODEC, dataset=str(folder)), tmp_path / "pack", tmp_path / "run"))
    read = partial(read_latents, tmp_path / "pack", tmp_path / "run", folder, SHORT_TRANSFORMER)
    before, _ = read()
    shutil.copy2(folder / "ring" / "006.png", folder / "ring" / "011.png")
    after, _ = read()
    changed = (before.plain != after.plain).flatten(1).any(1)
    assert len(after) == len(before) and changed.any() and before.digest != after.digest
    (folder / "ring" / "011.png").touch()
    assert read()[0].digest == after.digest, "it is the same picture"


def test_a_whole_data_set_is_encoded_as_its_parts_are(short):
    vae = loading.load(packs.read(short / "codec"), "cpu").vae
    pixels = data.load("shapes", "test", image_size=16).pixels[:50]
    asked, given = [], torch.full((50, vae.config.latent_channels, 4, 4), torch.nan)
    latents = codec.encode_all(vae, pixels, lambda shape: asked.append(shape) or given, batch_size=20)
    assert latents is given and asked == [given.shape]
    assert torch.equal(latents, torch.cat([codec.encode(vae, from_bytes(part)) for part in pixels.split(20)]))


def test_latents_of_another_codec_are_made_again(short, tmp_path):
    list(train_vqvae(replace(SHORT_CODEC, seed=5), tmp_path / "pack", tmp_path / "elsewhere"))
    shutil.copytree(short / "run", tmp_path / "run")  # holds the latents of the codec of seed 0
    file = tmp_path / "run" / "latents.safetensors"
    os.utime(file, ns=(1, 1))
    next(train_dit(SHORT_TRANSFORMER, tmp_path / "pack", tmp_path / "run"))
    assert file.stat().st_mtime_ns != 1
    with safe_open(file, "pt") as opened:
        assert opened.metadata()["codec"] == provenance.fingerprint(tmp_path / "pack")
        z, labels = opened.get_tensor("latents"), opened.get_tensor("labels")
    images = data.load("shapes", "train", image_size=16)
    vae = loading.load(packs.read(tmp_path / "pack"), "cpu").vae
    assert torch.allclose(z[:100], codec.encode(vae, from_bytes(images.pixels[:100])), atol=1e-4)
    assert torch.equal(labels, images.labels)


def test_latents_made_again_are_nearly_those_that_training_left(short, tmp_path):
    """The pack's weights are rounded to half precision, so nearly, not exactly."""
    shutil.copytree(short / "codec", tmp_path / "pack")
    next(train_dit(SHORT_TRANSFORMER, tmp_path / "pack", tmp_path / "new-run"))
    again = load_file(tmp_path / "new-run" / "latents.safetensors")
    left = load_file(short / "run" / "latents.safetensors")
    assert torch.equal(again["labels"], left["labels"])
    assert (again["latents"] - left["latents"]).abs().max() < 0.02 * left["latents"].std()


@contextmanager
def watched(kind: type):
    """What every module of a kind is called with while training runs."""
    calls = []
    handle = register_module_forward_hook(
        lambda module, given, out: calls.append((module, given, out)) if isinstance(module, kind) else None
    )
    try:
        yield calls
    finally:
        handle.remove()


def test_labels_are_dropped_once_a_sample_at_the_rate_asked_for(codec_only):
    steps, rate = 60, 0.25
    config = replace(SHORT_TRANSFORMER, label_dropout=rate, steps=steps, hidden_size=8, depth=3)
    with watched(nn.Embedding) as calls:
        list(train_dit(config, *codec_only))
    assert len(calls) == steps, "the class table is asked once a step, not once a block"
    asked = torch.cat([given[0] for _, given, _ in calls])
    dropped = asked == 5
    spread = math.sqrt(rate * (1 - rate) / len(asked))
    assert abs(dropped.float().mean() - rate) < 4 * spread
    order = data.permuted(6000, 0, steps * config.batch_size, config.seed)
    true = data.load("shapes", "train", image_size=16).labels[order]
    assert torch.equal(asked[~dropped], true[~dropped]), "a label that was not dropped is its picture's"
    for label in range(5):  # no class is dropped more than another
        assert abs(dropped[true == label].float().mean() - rate) < 4 * spread * math.sqrt(5)


def test_no_label_is_dropped_where_none_is_to_be(codec_only):
    with watched(nn.Embedding) as calls:
        list(train_dit(replace(SHORT_TRANSFORMER, label_dropout=0.0), *codec_only))
    assert all((given[0] < 5).all() for _, given, _ in calls)


@pytest.mark.parametrize(("prediction", "whole"), [("v", True), ("flow", False)])
def test_times_are_whole_where_the_schedule_is_known_at_whole_times_only(codec_only, prediction, whole):
    with watched(nn.Sequential) as calls:
        next(train_dit(replace(SHORT_TRANSFORMER, prediction=prediction), *codec_only))
    seen = next(given[0] for module, given, _ in calls if given[0].shape == (64, 256))  # what time_embed is given
    nearest = torch.cdist(seen, timestep_embedding(torch.arange(1000.0), 256)).min(1).values
    assert (nearest < 1e-2).all() == whole


@pytest.mark.parametrize("prediction", ["eps", "v", "flow"])
def test_the_loss_is_that_of_the_papers_target(codec_only, prediction):
    """Step one, from the outside: with a zero prediction the loss is the target's mean square, known in closed form."""
    options = {"schedule": SCHEDULE[prediction], "batch_size": 512, "time_sampling": "uniform"}
    config = replace(SHORT_TRANSFORMER, prediction=prediction, **options)
    with watched(DiT) as calls:
        record = next(train_dit(config, *codec_only))
    (_, _, out) = calls[0]
    assert out.sample.eq(0).all()
    # eps has variance 1, the latents about 1 (their mean is not taken off), and eps - x0 the sum of both.
    stored = load_file(codec_only[1] / "latents.safetensors")["latents"]
    power = float((stored / stored.std()).square().mean())
    expected = {"eps": (1, 1), "v": (min(1, power), max(1, power)), "flow": (1 + power, 1 + power)}[prediction]
    assert 0.93 * expected[0] < record.metrics["loss"] < 1.07 * expected[1]


# ------------------------------------------------------------------------------------------------ times and weights


def drawn(how: str) -> torch.Tensor:
    return sample_times(
        DiTConfig(time_sampling=how), 20_000, torch.Generator().manual_seed(0), torch.device("cpu")
    ).double()


def largest_gap(values: torch.Tensor, cdf) -> float:
    """Kolmogorov and Smirnov's statistic: of 20 000 true draws it exceeds 0.014 once in a thousand."""
    ordered = values.sort().values
    return float((cdf(ordered) - torch.arange(1, len(ordered) + 1) / len(ordered)).abs().max())


def test_uniform_times_are_uniform():
    t = drawn("uniform")
    assert t.min() >= 0 and t.max() < 1000
    assert largest_gap(t, lambda v: v / 1000) < 0.014


def test_logit_normal_times_have_normal_logits():
    t = drawn("logit-normal")
    assert t.min() > 0 and t.max() < 1000
    assert largest_gap((t / 1000).logit(), torch.special.ndtr) < 0.014
    assert largest_gap(t, lambda v: v / 1000) > 0.1


@pytest.mark.parametrize(
    ("prediction", "schedule"), [("eps", "linear"), ("v", "linear"), ("v", "cosine"), ("flow", "cosine")]
)
def test_min_snr_weights_are_the_papers(prediction, schedule):
    """arXiv:2303.09556, eq. 8 and after: min(SNR, 5) on x0's error; / SNR on eps', / (SNR + 1) on v's."""
    config = replace(TRANSFORMER, prediction=prediction, weighting="min-snr", schedule=schedule)
    t = torch.tensor([1.0, 50.0, 200.0, 500.0, 800.0, 990.0])
    a, s = noise_level(make_schedule(config), t)
    snr = (a.double() / s.double()) ** 2
    expected = {"eps": snr.clamp(max=5) / snr, "v": snr.clamp(max=5) / (snr + 1), "flow": snr.clamp(max=5) * s**2}
    weight = loss_weight(config, a, s)
    assert torch.allclose(weight.double(), expected[prediction], rtol=1e-3)
    assert torch.equal(loss_weight(replace(config, weighting="none"), a, s), torch.ones(6))


@pytest.mark.parametrize("prediction", ["eps", "v", "flow"])
def test_the_weight_turns_an_error_of_the_target_into_one_of_x0(prediction):
    """Without the cap, weight times the target's squared error is SNR times x0's, for any prediction."""
    config = replace(TRANSFORMER, prediction=prediction, schedule=SCHEDULE[prediction], weighting="min-snr")
    scheduler = make_schedule(config)
    a, s = noise_level(scheduler, torch.tensor([700.0, 900.0]))
    snr = (a / s).square()
    assert snr.max() < 5, "the cap is reached"
    one, other, x_t = torch.randn(3, 2, 7, generator=torch.Generator().manual_seed(0))
    column = a[:, None], s[:, None]
    x0 = [x0_from_prediction(prediction_type(scheduler), target, x_t, *column) for target in (one, other)]
    of_target = loss_weight(config, a, s) * (one - other).square().mean(1)
    assert torch.allclose(of_target, snr * (x0[0] - x0[1]).square().mean(1), rtol=1e-3)


# ------------------------------------------------------------------------------------------------- what is refused


def test_a_pack_without_a_codec_cannot_get_a_transformer(tmp_path):
    (tmp_path / "empty").mkdir()
    with pytest.raises(PackError, match="'empty'.*train vqvae --pack empty"):
        next(train_dit(SHORT_TRANSFORMER, tmp_path / "empty", tmp_path / "run"))


def test_pictures_without_classes_cannot_train_a_transformer(tmp_path):
    from PIL import Image

    (tmp_path / "pictures").mkdir()
    for i in range(20):
        Image.new("RGB", (16, 16), (i, 90, 3 * i)).save(tmp_path / "pictures" / f"{i}.png")
    config = replace(SHORT_CODEC, dataset=str(tmp_path / "pictures"), steps=2)
    list(train_vqvae(config, tmp_path / "pack", tmp_path / "run"))
    with pytest.raises(PackError, match="without classes.*FOLDER/<class>"):
        next(train_dit(SHORT_TRANSFORMER, tmp_path / "pack", tmp_path / "run"))


@pytest.mark.parametrize(
    ("model", "config"), [("vqvae", SHORT_CODEC), ("dit", SHORT_TRANSFORMER), ("decoder", SHORT_DECODER)]
)
def test_strict_refuses_the_picture_that_a_training_passes_over(pictures, home, capsys, model, config):
    options = [
        *command(model, replace(config, steps=2), home, pictures),
        *(["--overwrite"] if model == "vqvae" else []),
    ]
    assert main([*options, "--strict"]) == 1
    assert "'ring/001.png': image '001.png' cannot be read" in one_line(capsys.readouterr().err)
    assert main(options) == 0


def test_resuming_where_a_picture_was_mended_is_refused(pictures, tmp_path):
    """All others would come in another order."""
    folder = shutil.copytree(pictures, tmp_path / "pictures")
    config = replace(SHORT_CODEC, dataset=str(folder))
    list(train_vqvae(config, tmp_path / "pack", tmp_path / "run"))
    shutil.copy(folder / "ring" / "006.png", folder / "ring" / "001.png")
    with pytest.raises(PackError, match="pictures is 108, but the checkpoint .* was made with 107"):
        next(train_vqvae(config, tmp_path / "pack", tmp_path / "run", resume=True))


def test_an_unknown_data_set_is_refused_and_leaves_no_file(tmp_path):
    with pytest.raises(DataError, match="minst"):
        next(train_vqvae(replace(SHORT_CODEC, dataset="minst"), tmp_path / "pack", tmp_path / "run"))
    assert everything_in(tmp_path) == {}


@pytest.mark.parametrize(
    ("name", "value"),
    [("stride", 3), ("stride", 0), ("image_size", 18), ("image_size", 0), ("steps", 0), ("batch_size", 0),
     ("channels", 0), ("num_codes", 0), ("latent_channels", 0), ("learning_rate", float("nan")),
     ("learning_rate", -1.0), ("codebook_decay", 1.5), ("ema_decay", 2.0), ("warmup", -1), ("commitment", float("inf")),
     ("num_res_blocks", -1), ("seed", -1)],
)  # fmt: skip
def test_a_codecs_bad_option_is_refused_by_its_name_before_training(tmp_path, name, value):
    with pytest.raises(MmdemoError) as error:
        next(train_vqvae(replace(SHORT_CODEC, **{name: value}), tmp_path / "pack", tmp_path / "run"))
    text = str(error.value)
    assert str(value) in text and "\n" not in text and not (tmp_path / "pack").exists()
    assert name in text or (name, value) == ("image_size", 18) and "stride" in text


@pytest.mark.parametrize(
    ("name", "value"),
    [("patch_size", 3), ("patch_size", 0), ("hidden_size", 10), ("depth", -1), ("num_heads", 5), ("prediction", "x"),
     ("schedule", "x"), ("time_sampling", "x"), ("weighting", "x"), ("label_dropout", 1.5), ("label_dropout", -0.1),
     ("steps", 0), ("batch_size", 0), ("learning_rate", float("nan")), ("ema_decay", 2.0), ("seed", -1)],
)  # fmt: skip
def test_a_transformers_bad_option_is_refused_by_its_name_before_training(codec_only, name, value):
    with pytest.raises(MmdemoError) as error:
        next(train_dit(replace(SHORT_TRANSFORMER, **{name: value}), *codec_only))
    assert name in str(error.value) and str(value) in str(error.value) and "\n" not in str(error.value)


# ---------------------------------------------------------------------------------------------- several processes

ALL_MODELS = """
from dataclasses import replace
import torch
from accelerate import PartialState
from mmdemo.training.config import DecoderConfig, DiTConfig, VQVAEConfig
from mmdemo.training.decoder import train_decoder
from mmdemo.training.dit import train_dit
from mmdemo.training.vqvae import train_vqvae

codec = VQVAEConfig(image_size=16, channels=8, num_codes=16, steps=6, batch_size=32, warmup=2)
dit = DiTConfig(patch_size=1, hidden_size=16, depth=1, num_heads=2, steps=6, batch_size=32, warmup=2, mirrored=0.5)
decoder = DecoderConfig(channels=8, steps=6, batch_size=32, warmup=2)

def train(loop, variable, config, folder, pictures):
    # Before its last step a run is done by the generator itself; what it trains is looked at while it is still there.
    records = loop(config, folder / "pack", folder / "run", pictures)
    for record in records:
        if record.step == record.steps:
            model = records.gi_yieldfrom.gi_frame.f_locals[variable]
            torch.save(model.state_dict(), folder / f"{variable}-{PartialState().process_index}.pt")

def train_all(folder, pictures):
    train(train_vqvae, "vae", replace(codec, dataset=str(pictures)), folder, pictures)
    train(train_dit, "transformer", dit, folder, pictures)
    train(train_decoder, "discriminator", decoder, folder, pictures)
"""
IN_PROCESSES = """
import signal
import sys
from contextlib import suppress
from pathlib import Path
from mmdemo.__main__ import main
from mmdemo.errors import ArgumentError
from mmdemo.training.stopping import Stopped, heeded

folder, pictures = Path(sys.argv[1]), Path(sys.argv[2])
codec = replace(codec, dataset=str(pictures))
try:
    next(train_vqvae(replace(codec, batch_size=33), folder / "odd", folder / "run"))
except ArgumentError as error:
    assert "batch_size is 33" in str(error)
else:
    raise SystemExit("33 pictures were shared by two processes")
train_all(folder, pictures)
with suppress(Stopped), heeded(lambda: None):
    for record in train_vqvae(codec, folder / "stopped", folder / "run"):
        if record.step == 3 and PartialState().process_index == 1:
            signal.raise_signal(signal.SIGTERM)
            signal.raise_signal(signal.SIGTERM)  # as a launcher sends its own after the terminal's
assert main(sys.argv[3:]) == 0
"""


@pytest.mark.skipif(not torch.distributed.is_gloo_available(), reason="this torch was built without gloo")
def test_two_processes_train_the_model_that_one_does_and_the_command_speaks_once(pictures, tmp_path):
    """Two on this machine's CPU, found by accelerate as those that `accelerate launch` starts."""
    (tmp_path / "both.py").write_text(ALL_MODELS + IN_PROCESSES)
    options = "--dataset shapes --image-size 16 --channels 8 --num-codes 16 --steps 4 --batch-size 32 --warmup 2"
    where = ["--weights", str(tmp_path / "weights"), "--runs", str(tmp_path / "runs")]
    done = subprocess.run(
        [
            *(sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"),
            *(tmp_path / "both.py", tmp_path, pictures, "train", "vqvae", "--pack", "two", *options.split(), *where),
        ],
        cwd=ROOT,
        env={
            **os.environ,
            **{"ACCELERATE_USE_CPU": "true", "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)},
            "XDG_CACHE_HOME": str(tmp_path / "cache"),  # where nothing is decoded yet
        },
        capture_output=True,
        text=True,
        timeout=280,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    (tmp_path / "one").mkdir()
    exec(ALL_MODELS, namespace := {})
    namespace["train_all"](tmp_path / "one", pictures)
    for model in ("vae", "transformer", "discriminator"):
        files = (tmp_path / f"{model}-0.pt", tmp_path / f"{model}-1.pt", tmp_path / "one" / f"{model}-0.pt")
        first, second, alone = (torch.load(file, weights_only=True) for file in files)
        assert alike(first, second), f"the processes' {model}s went different ways"
        for name, weight in alone.items():
            assert torch.allclose(first[name], weight, atol=1e-4 * float(weight.abs().max())), (model, name)
    assert load_checkpoint(tmp_path / "run" / "vqvae.pt", {})["step"] == 3, "the second was stopped, and not the first"
    pack = packs.read(tmp_path / "pack")
    assert pack.problem is None and pack.can_sample
    assert loading.load(pack, "cpu")([0], num_inference_steps=2).images[0].size == (16, 16)
    assert sorted(path.name for path in tmp_path.iterdir() if path.name.startswith(".")) == []
    assert packs.read(tmp_path / "weights" / "two").problem is None
    assert done.stdout.count("wrote ") == 1 and done.stdout.count("step 4/4") == 1
    assert "2 processes" in provenance.read_training(tmp_path / "weights" / "two")["vqvae"]["machine"]


# ------------------------------------------------------------------------------------------------------------- text


READING = replace(SHORT_TRANSFORMER, condition="text")


def test_captions_train_a_transformer_that_reads_and_a_pack_that_says_so(codec_only):
    list(train_dit(READING, *codec_only))
    pack = packs.read(codec_only[0])
    assert pack.problem is None and pack.words and pack.classes == () and len(pack.prompts) >= 4
    pipeline = loading.load(pack, "cpu")
    asked = pipeline(
        ["a red circle", "红色的圆"], [torch.Generator().manual_seed(0) for _ in "12"], 2, output_type="pt"
    )
    assert asked.images.shape == (2, 3, 16, 16)

    # Its student's drawings are by the captions too, though the data set has classes, and made anew for others.
    export.set_defaults(pack.path, num_inference_steps=MAX_JUMPS, sampler="euler")
    config = StudentConfig(trajectories=4, steps=1, batch_size=2)
    list(train_student(config, *codec_only))
    pack, (drawn,) = packs.read(pack.path), (codec_only[1] / "drawings").iterdir()
    assert FAST in pack.samplers
    assert len({drawn.name, *(student._digest(pack, [text], config) for text in ("a circle", "a square"))}) == 3


def test_only_a_text_changes_what_a_trained_reader_predicts(codec_only):
    """By its words and by their order, and by nothing that fills a shorter text up."""
    list(train_dit(replace(READING, steps=40, learning_rate=1e-2), *codec_only))
    pipeline = loading.load(packs.read(codec_only[0]), "cpu")
    x, t = torch.randn(1, 4, 4, 4, generator=torch.Generator().manual_seed(0)), torch.tensor(500.0)

    def predicted(*texts: str) -> torch.Tensor:
        ids = pipeline.label_ids(texts)
        return pipeline.transformer(x.expand(len(ids), -1, -1, -1), timestep=t, class_labels=ids).sample

    with torch.no_grad():
        red, blue, turned, none = predicted("a red circle", "a blue circle", "circle red a", "")
        alone = predicted("a red circle")[0]
    assert torch.allclose(red, alone, atol=1e-5)
    assert all((red - other).abs().max() > 1e-4 for other in (blue, turned, none))


def test_a_transformer_starts_from_another_by_the_text_of_its_tokens(codec_only, tmp_path):
    list(train_dit(replace(READING, steps=20), *codec_only))
    first = loading.load(packs.read(codec_only[0]), "cpu")
    other = shutil.copytree(codec_only[0], tmp_path / "other")
    for again in ("pack", None):
        config = replace(READING, start_from=again, steps=1, learning_rate=0.0, ema_decay=0.0, seed=5)
        list(train_dit(config, other, codec_only[1]))
        made = loading.load(packs.read(other), "cpu")
        same = torch.equal(first.transformer.text.embed.weight, made.transformer.text.embed.weight)
        assert same == (again is not None)
    assert first.words.tokenizer.get_vocab() == made.words.tokenizer.get_vocab()


def test_a_pack_that_goes_on_from_its_own_weights_remembers_how_those_were_made(short, codec_only):
    """Once each, also if a finished training is resumed; another pack's weights have a card of their own."""
    pack, run = codec_only
    own = [replace(SHORT_TRANSFORMER, steps=steps, start_from="pack") for steps in (2, 2, 3)]
    for config in (SHORT_TRANSFORMER, *own):
        list(train_dit(config, pack, run))
    list(train_dit(own[-1], pack, run, resume=True))
    made = provenance.in_order(provenance.read_training(pack)["dit"])
    assert [(one["steps"], one["start_from"]) for one in made] == [(12, None), (2, "pack"), (2, "pack"), (3, "pack")]
    codec = replace(SHORT_CODEC, steps=3, start_from="pack")
    list(train_vqvae(codec, pack, run))
    assert [one["steps"] for one in provenance.in_order(provenance.read_training(pack)["vqvae"])] == [12, 3]
    list(train_vqvae(replace(codec, start_from="codec"), shutil.copytree(pack, short / "other"), run))
    assert "earlier" not in provenance.read_training(short / "other")["vqvae"]


@pytest.mark.parametrize(("condition", "what"), [("text", "without captions"), ("auto", "without classes or captions")])
def test_pictures_without_captions_cannot_train_a_reader(condition, what, tmp_path):
    folder = tmp_path / "plain"
    folder.mkdir()
    for i, image in enumerate(to_images(data.load("shapes", "test", image_size=16).pixels[:30])):
        image.save(folder / f"{i:02}.png")
    config = replace(SHORT_CODEC, dataset=str(folder), steps=2)
    list(train_vqvae(config, tmp_path / "pack", tmp_path / "run"))
    with pytest.raises(PackError, match=what):
        list(train_dit(replace(READING, condition=condition), tmp_path / "pack", tmp_path / "run"))


# ----------------------------------------------------------------------------------------------------------- captions


def test_a_caption_too_long_for_a_prompt_is_no_example():
    captions = [["a circle", "x" * 1001]] * 100 + [["y" * 1000]] * 50 + [["z" * 1001]] * 50
    assert examples(captions, 8) == ("a circle", "y" * 1000)


def test_pictures_may_have_one_caption_or_several():
    captions = [["a circle", "a ring"]] * 50 + [["a cross"]] * 100
    assert examples(captions, 8) == ("a circle", "a cross", "a cross")


@pytest.fixture(scope="module")
def captioned(tmp_path_factory) -> Path:
    """A folder of captioned pictures, a codec of them and a transformer's training with its checkpoint."""
    folder = tmp_path_factory.mktemp("captioned")
    scenes.save(scenes.scenes(40), folder / "pictures")
    list(train_vqvae(replace(SHORT_CODEC, dataset=str(folder / "pictures")), folder / "pack", folder / "run"))
    list(train_dit(SHORT_TRANSFORMER, folder / "pack", folder / "run", folder / "pictures"))
    return folder


def with_purple(captioned: Path, folder: Path) -> Path:
    """The same folder, whose captions now say purple for blue."""
    shutil.copytree(captioned, folder)
    metadata = folder / "pictures" / "metadata.jsonl"
    metadata.write_text(metadata.read_text(encoding="utf-8").replace("blue", "purple"), encoding="utf-8")
    return folder


def test_captions_that_changed_are_read_anew_and_others_are_not(captioned, tmp_path):
    latents = captioned / "run" / "latents.safetensors"
    before = latents.read_bytes()
    read_latents(captioned / "pack", captioned / "run", captioned / "pictures", SHORT_TRANSFORMER)
    assert latents.read_bytes() == before
    folder = with_purple(captioned, tmp_path / "new")
    read = partial(read_latents, folder / "pack", folder / "run", config=SHORT_TRANSFORMER)
    assert "blue" in read(data_dir=None)[1].words.known  # the folder is not at hand
    _, captions = read(data_dir=folder / "pictures")
    assert "purple" in captions.words.known and "blue" not in captions.words.known


def test_resuming_a_transformer_with_other_captions_is_refused(captioned, tmp_path):
    assert not list(train_dit(SHORT_TRANSFORMER, captioned / "pack", captioned / "run", resume=True))
    folder = with_purple(captioned, tmp_path / "new")
    with pytest.raises(PackError, match="the captions' digest is") as error:
        next(train_dit(SHORT_TRANSFORMER, folder / "pack", folder / "run", folder / "pictures", resume=True))
    assert is_one_sentence(str(error.value))


@pytest.mark.parametrize("told", [b"", b"{", b"[]", b"{}", b'{"classes": [], "captions": [["a"]], "records": []}'])
def test_latents_whose_captions_are_damaged_are_made_again(captioned, tmp_path, told):
    shutil.copytree(captioned / "run", tmp_path / "run")
    file = tmp_path / "run" / "latents.safetensors"
    with safe_open(file, "pt") as opened:
        kept = opened.metadata()
    tensors = load_file(file) | {"told": torch.tensor(list(told), dtype=torch.uint8)}
    save_file(tensors, file, kept)
    _, captions = read_latents(captioned / "pack", tmp_path / "run", captioned / "pictures", SHORT_TRANSFORMER)
    assert "blue" in captions.words.known
