"""The transformer: it starts as the identity, knows its class, and puts every patch back where it was."""

import pytest
import torch
from conftest import tiny_dit
from diffusers import DiTTransformer2DModel

from mmdemo.models.dit import GELU, Block, DiT, sincos_2d, timestep_embedding
from mmdemo.words import PAD_ID


def fresh(**options) -> DiT:
    torch.manual_seed(0)
    settings = {"sample_size": 4, "in_channels": 3, "hidden_size": 16, "depth": 3, "num_heads": 2, "num_classes": 3}
    return DiT(**(settings | options))


def inputs(batch: int = 2, channels: int = 3, side: int = 4):
    rng = torch.Generator().manual_seed(5)
    return torch.randn(batch, channels, side, side, generator=rng), torch.tensor([100.0] * batch), torch.arange(batch)


@torch.no_grad()
def test_a_fresh_model_predicts_exactly_zero():
    x, t, y = inputs()
    prediction = fresh()(x, timestep=t, class_labels=y).sample
    assert prediction.shape == x.shape and prediction.eq(0).all()


@torch.no_grad()
def test_every_fresh_block_is_the_identity():
    model = fresh()
    x, c = torch.randn(2, 4, 16), torch.randn(2, 16)
    for block in model.blocks:
        assert torch.equal(block(x, c), x)
    torch.nn.init.normal_(model.blocks[0].modulation.weight)
    assert not torch.allclose(model.blocks[0](x, c), x, atol=1e-3), "open gates change nothing either"


def test_from_zero_it_can_learn():
    """Zero gates and a zero output must not be a place that gradients cannot leave."""
    model = fresh()
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-2)
    before = {name: weight.detach().clone() for name, weight in model.named_parameters()}
    x, t, y = inputs()
    for _ in range(4):
        loss = (model(x, timestep=t, class_labels=y).sample - x).square().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert [name for name, weight in model.named_parameters() if torch.equal(weight, before[name])] == []


@torch.no_grad()
def test_the_label_changes_the_prediction():
    model = tiny_dit()
    x, t, _ = inputs(batch=1)
    answers = [model(x, timestep=t, class_labels=torch.tensor([k])).sample for k in range(model.null_class + 1)]
    for i, a in enumerate(answers):
        for b in answers[:i]:
            assert (a - b).abs().max() > 1e-3


@torch.no_grad()
def test_the_time_changes_the_prediction_also_between_whole_times():
    model = tiny_dit()
    x, _, y = inputs(batch=1)
    at = {t: model(x, timestep=torch.tensor([t]), class_labels=y).sample for t in (500.0, 500.5, 501.0, 900.0)}
    assert (at[500.0] - at[900.0]).abs().max() > 1e-3
    assert (at[500.0] - at[500.5]).abs().max() > 1e-5
    assert not torch.equal(at[500.5], at[501.0])


@torch.no_grad()
def test_samples_of_a_batch_do_not_mix():
    model = tiny_dit()
    x, _, y = inputs(batch=2)
    t = torch.tensor([20.0, 900.0])
    together = model(x, timestep=t, class_labels=y).sample
    for i in range(2):
        alone = model(x[i : i + 1], timestep=t[i : i + 1], class_labels=y[i : i + 1]).sample
        assert torch.allclose(together[i : i + 1], alone, atol=1e-5)


@torch.no_grad()
def test_one_time_for_the_whole_batch_is_that_time_for_each():
    model = tiny_dit()
    x, _, y = inputs()
    each = model(x, timestep=torch.tensor([30.0, 30.0]), class_labels=y).sample
    assert torch.equal(model(x, timestep=torch.tensor(30.0), class_labels=y).sample, each)


@torch.no_grad()
@pytest.mark.parametrize("patch", [1, 2, 4])
def test_patches_go_back_to_where_they_were_cut(patch):
    """A patch's pixels, read by a patch_embed that copies them and written by an unpatch that copies them, stay."""
    side, channels = 8, 3
    size = channels * patch**2
    model = fresh(sample_size=side, patch_size=patch, in_channels=channels, hidden_size=48, depth=1)
    x = torch.randn(2, channels, side, side)
    # Layer norm would change the copied pixels, so only which of them were set is compared.
    model.patch_embed.weight.copy_(torch.eye(48, size).view(48, channels, patch, patch))
    model.patch_embed.bias.zero_()
    model.positions.zero_()
    model.unpatch.weight.copy_(torch.eye(size, 48))
    for channel in range(channels):
        for row, column in ((0, 0), (1, 2), (5, 3), (7, 7)):
            x = torch.zeros(1, channels, side, side)
            x[0, channel, row, column] = 1.0
            out = model(x, timestep=torch.tensor([0.0]), class_labels=torch.tensor([0])).sample
            brightest = torch.unravel_index(out.argmax(), out.shape)
            assert tuple(map(int, brightest)) == (0, channel, row, column)


@torch.no_grad()
def test_a_number_of_the_output_layer_only_touches_its_own_place_in_each_patch():
    model = tiny_dit(sample_size=4, patch_size=2)
    x, t, y = inputs(batch=1)
    before = model(x, timestep=t, class_labels=y).sample
    touched = set()
    for n in range(3 * 4):
        model.unpatch.bias[n] += 1
        changed = (model(x, timestep=t, class_labels=y).sample - before)[0]
        model.unpatch.bias[n] -= 1
        places = (changed.abs() > 0.5).nonzero().tolist()
        channel, row, column = places[0]
        expected = [[channel, row % 2 + 2 * i, column % 2 + 2 * j] for i in range(2) for j in range(2)]
        assert places == expected
        touched.add((channel, row % 2, column % 2))
    assert len(touched) == 12


@torch.no_grad()
def test_a_token_sees_where_it_is():
    """Without positions a transformer cannot tell one patch's place from another's: alike patches would stay alike."""
    model = tiny_dit()
    out = model(torch.ones(1, 3, 4, 4), timestep=torch.tensor([10.0]), class_labels=torch.tensor([0])).sample
    assert (out[..., :2, :2] - out[..., 2:, 2:]).abs().max() > 1e-3
    table = sincos_2d(16, 4)
    assert table.shape == (16, 16) and len({tuple(row) for row in table.tolist()}) == 16


@torch.no_grad()
def test_attention_is_softmax_of_scaled_products():
    """The block against the formulas of the paper, written out head by head."""
    torch.manual_seed(2)
    block, x, c = Block(8, 2), torch.randn(1, 5, 8), torch.randn(1, 8)
    shift_a, scale_a, gate_a, shift_m, scale_m, gate_m = block.modulation(c)[0].split(8)

    def norm(v):
        return (v - v.mean(-1, keepdim=True)) / (v.var(-1, unbiased=False, keepdim=True) + 1e-6).sqrt()

    q, k, v = block.qkv(norm(x[0]) * (1 + scale_a) + shift_a).split(8, dim=-1)
    heads = []
    for h in (slice(0, 4), slice(4, 8)):
        heads.append((q[:, h] @ k[:, h].T / 2).softmax(-1) @ v[:, h])
    y = x[0] + gate_a * block.out(torch.cat(heads, -1))
    y = y + gate_m * block.mlp(norm(y) * (1 + scale_m) + shift_m)
    assert torch.allclose(block(x, c)[0], y, atol=1e-5)


def test_a_compiled_gelu_takes_no_tanh_and_is_the_same_with_its_gradient():
    x, traced = torch.linspace(-9, 9, 999), []

    def backend(graph, _):
        traced.append(graph.code)
        return graph

    def both(gelu) -> tuple[torch.Tensor, torch.Tensor]:
        at = x.clone().requires_grad_()
        y = gelu(at)
        return y, *torch.autograd.grad(y.sum(), at)

    pairs = zip(both(torch.compile(GELU(), backend=backend)), both(GELU()), strict=True)
    assert all(torch.allclose(*pair, atol=1e-5) for pair in pairs)
    assert len(traced) == 1 and "sigmoid" in traced[0] and "gelu" not in traced[0]


@torch.no_grad()
@pytest.mark.parametrize("reads", [False, True])
def test_a_mixture_of_labels_is_each_of_them_at_its_end_and_a_label_with_itself_is_that_label(reads):
    model = tiny_dit(vocab_size=9 if reads else 0)
    labels = torch.tensor([[1, 2, 3, PAD_ID], [4, 5, PAD_ID, PAD_ID]] * 2 if reads else [0, 1] * 2)
    shares = torch.tensor([[1, 0, 0, 0], [0, 1, 0, 0], [0, 0.3, 0, 0.7], [0.5, 0.5, 0, 0], [0.99999, 0.00001, 0, 0]])
    x, t, _ = inputs(batch=1)
    each = model(x.expand(2, -1, -1, -1), t, labels[:2]).sample
    mixed = model(x.expand(5, -1, -1, -1), t, model.read(labels).mixed(shares)).sample
    expected = {0: each[0], 1: each[1], 2: each[1], 4: each[0]}
    assert all(torch.allclose(mixed[i], one, atol=1e-3) for i, one in expected.items())
    assert all((mixed[3] - one).abs().max() > 1e-2 for one in each)


@torch.no_grad()
def test_it_is_called_as_diffusers_model_is():
    theirs = DiTTransformer2DModel(
        num_attention_heads=2, attention_head_dim=8, in_channels=3, num_layers=1, sample_size=4, num_embeds_ada_norm=3,
        norm_num_groups=1,
    ).eval()  # fmt: skip
    x, t, y = inputs()
    for model in (theirs, tiny_dit()):
        sample = model(x, timestep=t.long(), class_labels=y).sample
        (same,) = model(x, timestep=t.long(), class_labels=y, return_dict=False)
        assert torch.equal(sample, same) and sample.shape[0] == 2 and sample.shape[2:] == x.shape[2:]


def test_sizes_that_do_not_divide_are_refused_by_name():
    with pytest.raises(ValueError, match="patch_size is 3; it must divide .* 8"):
        DiT(sample_size=8, patch_size=3)
    with pytest.raises(ValueError, match=r"hidden_size is 100; .*num_heads \(6\)"):
        DiT(hidden_size=100, num_heads=6)
    with pytest.raises(ValueError, match="hidden_size is 6; .* of 4"):
        DiT(hidden_size=6, num_heads=2)


def test_times_far_apart_and_close_together_have_different_embeddings():
    t = torch.tensor([0.0, 0.25, 1.0, 500.0, 999.0, 1000.0])
    embedded = timestep_embedding(t, 256)
    assert embedded.shape == (6, 256) and embedded.abs().max() <= 1
    assert torch.cdist(embedded, embedded).add(torch.eye(6)).min() > 0.1


@torch.no_grad()
def test_the_null_class_is_one_past_the_last_and_nothing_lies_beyond():
    model = tiny_dit(num_classes=3)
    x, t, _ = inputs(batch=1)
    assert model.null_class == 3
    assert model(x, timestep=t, class_labels=torch.tensor([3])).sample.isfinite().all()
    with pytest.raises(IndexError):
        model(x, timestep=t, class_labels=torch.tensor([4]))
