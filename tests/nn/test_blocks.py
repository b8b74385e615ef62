"""The decoder stepwise equals the decoder in parallel, also beyond its window."""

import pytest
import torch

from factotum.nn.attention import rotate
from factotum.nn.blocks import Decoder


def decoder(positions, window=8):
    torch.manual_seed(0)
    model = Decoder(layers=2, width=16, heads=2, head_size=8, hidden=32, window=window, positions=positions)
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    return model.eval()


@pytest.mark.parametrize("positions", ["rotary", "relative"])
@pytest.mark.parametrize("length", [5, 30])
def test_stepwise_equals_parallel(positions, length):
    model = decoder(positions)
    x = torch.randn(3, length, 16)
    parallel = model(x)
    state = model.initial_state(3)
    outputs = []
    with torch.no_grad():
        for start in range(0, length, 3):
            chunk = x[:, start : start + 3]
            y, state = model.step((chunk, torch.ones(chunk.shape[:2], dtype=torch.bool)), state)
            outputs.append(y)
    torch.testing.assert_close(torch.cat(outputs, 1), parallel, atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("positions", ["rotary", "relative"])
def test_ring_wraps_and_absent_positions_change_nothing(positions):
    model = decoder(positions)
    model.CHUNK = 4  # a small ring, so that it wraps many times
    length = 50
    x = torch.randn(1, length, 16)
    parallel = model(x)
    state = model.initial_state(2)
    seen = []
    with torch.no_grad():
        for t in range(length):
            chunk = torch.stack([torch.cat([x[0, t : t + 1], torch.full((1, 16), 7.0)]), torch.zeros(2, 16)])
            y, state = model.step((chunk, torch.tensor([[True, False], [t % 2 == 0, False]])), state)
            seen.append(y[:1, :1])
    torch.testing.assert_close(torch.cat(seen, 1), parallel, atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("positions", ["rotary", "relative"])
def test_segments_do_not_see_one_another(positions):
    model = decoder(positions)
    x = torch.randn(1, 8, 16)
    segments = torch.tensor([[0, 0, 0, 1, 1, 1, 1, 1]])
    together = model(x, segments)
    torch.testing.assert_close(together[:, 3:], model(x[:, 3:]), atol=1e-5, rtol=1e-4)
    torch.testing.assert_close(together[:, :3], model(x[:, :3]), atol=1e-5, rtol=1e-4)


def test_causal():
    model = decoder("rotary", window=16)
    x = torch.randn(1, 6, 16)
    changed = x.clone()
    changed[:, 4] += torch.randn(16)
    assert torch.equal(model(x)[:, :4], model(changed)[:, :4])
    assert not torch.allclose(model(x)[:, 4:], model(changed)[:, 4:])


def test_reset_row_equals_fresh_state():
    model = decoder("rotary")
    x, on = torch.randn(2, 3, 16), torch.ones(2, 3, dtype=torch.bool)
    with torch.no_grad():
        _, state = model.step(
            (torch.randn(2, 5, 16), torch.ones(2, 5, dtype=torch.bool)), model.initial_state(2)
        )
        state.reset_rows(torch.tensor([1]))
        after, _ = model.step((x, on), state)
        fresh, _ = model.step((x, on), model.initial_state(2))
    torch.testing.assert_close(after[1], fresh[1])
    assert not torch.allclose(after[0], fresh[0])


def test_stochastic_depth_keeps_the_expectation_and_rests_in_evaluation():
    model = Decoder(layers=1, width=8, heads=1, head_size=8, hidden=16, window=4, drop=0.5)
    x = torch.randn(1, 4, 8)
    model.eval()
    assert torch.equal(model(x), model(x))
    block = model.blocks[0].train()
    torch.manual_seed(0)
    kept = torch.stack([block._keep(torch.ones(1, 1, 1)) for _ in range(2000)])
    assert set(kept.flatten().tolist()) == {0.0, 2.0}
    assert abs(kept.mean().item() - 1.0) < 0.1


@pytest.mark.parametrize("compiling", [False, True])
def test_rotation_turns_neighbours_by_their_angle(compiling, monkeypatch):
    monkeypatch.setattr(torch.compiler, "is_compiling", lambda: compiling)
    x, angles = torch.randn(2, 3, 5, 8), torch.rand(1, 1, 5, 4) * 6
    turned = rotate(x, angles)
    for pair in range(4):
        first, second, angle = x[..., 2 * pair], x[..., 2 * pair + 1], angles[..., pair]
        torch.testing.assert_close(turned[..., 2 * pair], first * angle.cos() - second * angle.sin())
        torch.testing.assert_close(turned[..., 2 * pair + 1], first * angle.sin() + second * angle.cos())


def test_rotation_keeps_the_precision_it_was_given():
    x, angles = torch.randn(1, 1, 3, 4), torch.rand(1, 1, 3, 2)
    halved = rotate(x.bfloat16(), angles)
    assert halved.dtype == torch.bfloat16
    torch.testing.assert_close(halved.float(), rotate(x, angles), atol=0.05, rtol=0.02)
