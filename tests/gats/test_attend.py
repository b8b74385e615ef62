"""One GATS layer against plain attention written out, and its parts against the whole."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from factotum.gats import GATS, Component, GATSConfig, GATSLayer
from factotum.gats.attend import layer_angles
from tests.gats.families import Rowwise, wake

SIZES = {"width": 16, "heads": 2}


def plain_heads(x, heads=2):
    return x.unflatten(-1, (heads, -1)).transpose(1, 2)


def turned(x_BHSK, positions, config):
    """Rotation as products with 2 x 2 matrices."""
    angles = layer_angles(positions, config)
    if angles is None:
        return x_BHSK
    cos, sin = angles.cos(), angles.sin()
    turn = torch.stack([torch.stack([cos, -sin], -1), torch.stack([sin, cos], -1)], -2)
    return (turn.to(x_BHSK.dtype) @ x_BHSK.unflatten(-1, (-1, 2))[..., None])[..., 0].flatten(-2)


def plain_update(layer, name, x, keys, positions, mask):
    """x' by plain attention: keys is a list of (component, activations), in the order of the mask."""
    u = layer.down[name](layer.norms[name](x))
    stream = torch.cat([layer.down[n](layer.norms[n](y)) for n, y in keys], 1)
    q = turned(plain_heads(layer.query(u)), positions[0], layer.config)
    k, v = layer.key_value(stream).chunk(2, -1)
    k = turned(plain_heads(k), positions[1], layer.config)
    scores = (q @ k.transpose(-1, -2)) / k.shape[-1] ** 0.5
    weights = scores.masked_fill(~mask, float("-inf")).softmax(-1)
    a = layer.output((weights @ plain_heads(v)).transpose(1, 2).flatten(2))
    y = a
    if layer.feed_forward is not None:
        h = layer.feed_forward_norm(u + a)
        value, gate = layer.feed_forward.input(h).chunk(2, -1)
        y = a + layer.feed_forward.output(value * F.gelu(gate))
    return x + layer.scatters[name].up(y)


@pytest.mark.parametrize("positions", ["index", "time", "none"])
@pytest.mark.parametrize("feed_forward", [0.0, 4.0])
def test_one_modality_with_a_large_window_is_a_plain_causal_transformer(positions, feed_forward):
    torch.manual_seed(0)
    component = Component(Rowwise(), window=100, bidirectional=False, steered=True)
    model = GATS({"a": component}, layers=4, **SIZES, positions=positions, feed_forward=feed_forward)
    wake(model)
    x, times = torch.randn(2, 7, 6), torch.arange(7.0).expand(2, -1) * 0.5
    where = times if positions == "time" else torch.arange(7.0).expand(2, -1)
    causal = torch.ones(7, 7).tril().bool()
    expected = x
    for block, layer in zip(model.towers["a"].module.blocks, model.layers, strict=True):
        expected = block(expected)
        expected = plain_update(layer, "a", expected, [("a", expected)], (where, where), causal)
    torch.testing.assert_close(
        model({"a": {"x": x}}, {"a": times})["a"]["stream"], expected, atol=1e-5, rtol=1e-5
    )


def test_one_unsteered_and_one_steered_that_is_not_read_is_cross_attention():
    torch.manual_seed(0)
    components = {
        "memory": Component(Rowwise(depth=2), window=100, bidirectional=True),
        "a": Component(Rowwise(depth=4), window=0, bidirectional=False, steered=True),
    }
    model = GATS(components, layers=2, **SIZES, positions="none")
    wake(model)
    memory, x = torch.randn(2, 3, 6), torch.randn(2, 5, 6)
    everything = torch.ones(5, 3).bool()
    times = {"memory": torch.zeros(2, 1), "a": torch.ones(2, 5)}
    found = model({"memory": {"x": memory}, "a": {"x": x}}, times)
    read, expected = memory, x
    for number, block in enumerate(model.towers["a"].module.blocks):
        expected = block(expected)
        if number % 2:
            layer = model.layers[number // 2]
            read = model.towers["memory"].module.blocks[number // 2](read)
            expected = plain_update(
                layer, "a", expected, [("memory", read)], (torch.zeros(2, 5), torch.zeros(2, 3)), everything
            )
    torch.testing.assert_close(found["a"]["stream"], expected, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(found["memory"]["stream"], read)


def test_an_element_that_sees_nothing_gets_the_feed_forward_part_alone_and_no_nan():
    layer = GATSLayer({"a": 6}, ["a"], GATSConfig(**SIZES, feed_forward=0.0))
    wake(nn.ModuleDict({"x": layer}))
    q, (k, v) = torch.randn(2, 2, 3, 8), (torch.randn(2, 2, 4, 8), torch.randn(2, 2, 4, 8))
    mask = torch.ones(2, 1, 3, 4).bool()
    mask[0, 0, 1] = False
    q.requires_grad_()
    a = layer.attend(q, k, v, mask)
    a.sum().backward()
    assert torch.equal(a[0, 1], torch.zeros(16))
    assert bool(q.grad.isfinite().all())
    assert torch.equal(q.grad[0, :, 1], torch.zeros(2, 8))
    assert a[0, 0].abs().max() > 0


def test_the_parts_one_by_one_are_the_layer():
    torch.manual_seed(0)
    config = GATSConfig(**SIZES)
    layer = wake(nn.ModuleDict({"x": GATSLayer({"a": 6, "b": 10}, ["b"], config)}))["x"]
    x = {"a": torch.randn(2, 4, 6), "b": torch.randn(2, 3, 10)}
    angles = {
        "a": layer_angles(torch.arange(4.0).expand(2, -1), config),
        "b": layer_angles(torch.ones(2, 3), config),
    }
    mask = torch.rand(2, 1, 3, 7) < 0.7
    present = {"a": torch.rand(2, 4) < 0.7, "b": torch.tensor([[True, True, False]] * 2)}
    expected = layer(x, angles, mask, present)["b"]
    u = {name: layer.enter(name, x[name], present[name]) for name in x}
    kv = [layer.keys_values(u[name], angles[name]) for name in x]
    k, v = torch.cat([kv[0][0], kv[1][0]], 2), torch.cat([kv[0][1], kv[1][1]], 2)
    y = layer.branches(u["b"], layer.attend(layer.queries(u["b"], angles["b"]), k, v, mask))
    found = layer.leave("b", x["b"], y, present["b"])
    assert torch.equal(found, expected)
    assert torch.equal(found[:, 2], x["b"][:, 2])
    assert not torch.equal(found[:, :2], x["b"][:, :2])


def test_unsteered_modalities_have_no_way_out():
    layer = GATSLayer({"a": 6, "b": 10}, ["b"], GATSConfig(**SIZES))
    assert list(layer.scatters) == ["b"]
    assert set(layer.down) == {"a", "b"}


def test_scores_depend_on_distances_even_late_in_a_long_episode():
    config = GATSConfig(width=32, heads=2, rotary=1.0)
    layer = GATSLayer({"a": 6}, ["a"], config)
    u = torch.randn(1, 2, 32)
    scores = []
    for start in (0.0, 3e6):
        angles = layer_angles(torch.tensor([[start, start + 5]]), config)
        q, (k, _) = layer.queries(u, angles), layer.keys_values(u, angles)
        scores.append((q @ k.transpose(-1, -2))[0, :, 1, 0])
    torch.testing.assert_close(scores[0], scores[1], atol=1e-5, rtol=1e-4)


def test_the_share_of_features_that_is_not_turned_sees_content_alone():
    half = layer_angles(torch.tensor([[7.0]]), GATSConfig(width=32, heads=2, rotary=0.5))
    assert half.shape == (1, 1, 1, 8)
    assert (half[..., :4] != 0).all()
    assert (half[..., 4:] == 0).all()
