"""Mixed precision, checkpointing and compilation of the GATS part change speed and memory, not results."""

import jaxtyping
import pytest
import torch

from factotum.gats import GATS
from tests.gats.families import BY_NAME, PLAIN, ROWWISE, wake

NAMES = ["llama", "vit", "plain"]


def build(**choices):
    """A frozen steered decoder, a feature encoder and a trained decoder."""
    llama, vit = BY_NAME["llama"], BY_NAME["vit"]
    components = {
        "vit": vit.component(1),
        "llama": llama.component(0, steered=True),
        "plain": PLAIN.component(2, steered=True, frozen=False),
    }
    torch.manual_seed(0)
    model = wake(GATS(components, **{"layers": 3, "width": 16, "heads": 2, **choices}), std=0.1)
    families = {name: BY_NAME[name] for name in components}
    inputs = {name: family.inputs(2) for name, family in families.items()}
    return model, inputs, {name: family.times(2) for name, family in families.items()}


def results(model, inputs, times):
    """Outputs and gradients of all that is trained."""
    model.zero_grad()
    outputs = model(inputs, times)
    logits = torch.cat([outputs["llama"].logits.flatten(), outputs["plain"].flatten()])
    logits.float().square().mean().backward()
    return [logits.detach()] + [
        p.grad.clone() for p in model.parameters() if p.requires_grad and p.grad is not None
    ]


def assert_same(found, expected, **tolerance):
    assert len(found) == len(expected)
    for a, b in zip(found, expected, strict=True):
        torch.testing.assert_close(a, b, **tolerance)


def test_checkpointing_computes_the_same_twice():
    model, inputs, times = build()
    expected = results(model, inputs, times)
    calls = []
    for layer in model.layers:
        layer.query.register_forward_hook(lambda *_: calls.append(1))
    model.gradient_checkpointing_enable()
    assert_same(results(model, inputs, times), expected, atol=0, rtol=0)
    assert len(calls) == 2 * len(model.layers) * 2  # two steered components, forward and again in backward
    model.gradient_checkpointing_enable(False)
    assert_same(results(model, inputs, times), expected, atol=0, rtol=0)


def test_components_that_checkpoint_their_own_blocks():
    model, inputs, times = build()
    expected = results(model, inputs, times)
    module = model.towers["llama"].module
    module.gradient_checkpointing_enable()
    module.train()  # blocks are checkpointed in training mode alone; this family has no dropout
    assert_same(results(model, inputs, times), expected, atol=1e-6, rtol=1e-5)


def test_compiled_layers_give_the_same(monkeypatch):
    """Also with other lengths. Checks of shapes while tests run cannot be compiled."""
    monkeypatch.setattr(jaxtyping.config, "jaxtyping_disable", True)
    model, inputs, times = build(layers=1)
    expected = results(model, inputs, times)
    torch._dynamo.reset()
    model.compile(backend="eager")
    assert_same(results(model, inputs, times), expected, atol=1e-5, rtol=1e-4)
    counters = torch._dynamo.utils.counters
    assert counters["stats"]["unique_graphs"] >= 1
    assert not counters["graph_break"]
    shorter = (
        {**inputs, "plain": {"tokens": inputs["plain"]["tokens"][:, :3]}},
        {**times, "plain": times["plain"][:, :3]},
    )
    compiled = model(*shorter)["plain"]
    torch._dynamo.reset()
    plain, _, _ = build(layers=1)
    torch.testing.assert_close(compiled, plain(*shorter)["plain"], atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("checkpointing", [False, True])
def test_bf16_autocast_keeps_to_single_precision_within_its_rounding(checkpointing):
    model, inputs, times = build()
    expected = results(model, inputs, times)
    model.gradient_checkpointing_enable(checkpointing)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        found = results(model, inputs, times)
    assert found[0].dtype == torch.bfloat16 or found[0].dtype == torch.float32
    scale = expected[0].abs().max()
    assert (found[0].float() - expected[0]).abs().max() < 0.05 * scale
    for a, b in zip(found[1:], expected[1:], strict=True):
        assert (a - b).norm() <= 0.15 * b.norm() + 1e-4


def test_under_autocast_the_composite_still_starts_as_its_components():
    model, inputs, times = build()
    for layer in model.layers:
        for scatter in layer.scatters.values():
            torch.nn.init.zeros_(scatter.up.weight)
    with torch.autocast("cpu", dtype=torch.bfloat16), torch.no_grad():
        found = model(inputs, times)
        assert torch.equal(found["llama"].logits, model.towers["llama"].module(**inputs["llama"]).logits)
        assert torch.equal(found["plain"], model.towers["plain"].module(**inputs["plain"]))


def test_components_in_half_precision_with_a_connection_in_single():
    model, inputs, times = build()
    single = model(inputs, times)["llama"].logits
    model.components.bfloat16()
    inputs["vit"] = {"pixel_values": inputs["vit"]["pixel_values"].bfloat16()}
    found = model(inputs, times)["llama"].logits
    assert found.dtype == torch.bfloat16
    assert model.layers[0].query.weight.dtype == torch.float32
    assert (found.float() - single).abs().max() < 0.05 * single.abs().max()


@pytest.mark.parametrize("update", ["residual", "gated", "scaled"])
@pytest.mark.parametrize("positions", ["index", "time", "none"])
@pytest.mark.parametrize("graft", ["round", "floor"])
def test_every_choice_trains_from_nothing(update, positions, graft):
    choices = {
        "update": update,
        "positions": positions,
        "graft": graft,
        "feed_forward": float(graft == "floor"),
    }
    components = {"eyes": ROWWISE.component(0), "hands": PLAIN.component(1, steered=True)}
    torch.manual_seed(0)
    model = GATS(components, layers=2, width=16, heads=2, **choices)
    inputs = {"eyes": ROWWISE.inputs(2), "hands": PLAIN.inputs(2)}
    times = {"eyes": ROWWISE.times(2), "hands": PLAIN.times(2)}
    optimizer = torch.optim.Adam([p for p in model.parameters() if p.requires_grad], lr=0.02)
    losses = []
    for _ in range(15):
        loss = torch.nn.functional.cross_entropy(
            model(inputs, times)["hands"].flatten(0, 1), torch.arange(10)
        )
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < 0.8 * losses[0]
