"""Losses of the components, conditions that are hidden, a batch that moves."""

import pytest
import torch
import torch.nn.functional as F

from factotum.core.checks import UserError
from factotum.gats import GATS, Features
from factotum.gats.objective import IGNORED, GATSBatch, GATSObjective, encode_present
from tests.gats.families import BY_NAME, wake


def make_model():
    components = {
        "text": BY_NAME["llama"].component(0, window=4, steered=True),
        "action": BY_NAME["gpt2"].component(2, window=4, steered=True, frozen=False),
    }
    return wake(GATS(components, layers=2, width=16, heads=2))


def make_batch(rows=3):
    generator = torch.Generator().manual_seed(0)
    ids = {name: torch.randint(3, 40, (rows, 5), generator=generator) for name in ("text", "action")}
    targets = {name: torch.randint(3, 40, (rows, 5), generator=generator) for name in ids}
    targets["action"][0, 2:] = IGNORED
    times = {"text": torch.arange(5.0).expand(rows, -1), "action": torch.arange(5.0).expand(rows, -1) + 0.5}
    return GATSBatch({name: {"input_ids": value} for name, value in ids.items()}, times, targets)


def test_the_loss_is_the_weighted_sum_of_the_means():
    model, batch = make_model().eval(), make_batch()
    loss, weight, metrics = GATSObjective(weights={"text": 0.25})(model, batch)
    outputs = model(batch.inputs, batch.times)
    means = {
        name: F.cross_entropy(outputs[name].logits.flatten(0, 1), target.flatten(), ignore_index=IGNORED)
        for name, target in batch.targets.items()
    }
    assert loss.item() == pytest.approx((0.25 * means["text"] + means["action"]).item(), rel=1e-5)
    assert weight == 15 + 12
    assert metrics["loss/action"].item() == pytest.approx(means["action"].item(), rel=1e-5)
    right = (outputs["action"].logits.argmax(-1) == batch.targets["action"])[
        batch.targets["action"] != IGNORED
    ]
    assert metrics["accuracy/action"].item() == pytest.approx(right.float().mean().item())


def test_a_component_without_targets_in_this_batch_gives_a_loss_of_zero():
    model, batch = make_model().eval(), make_batch()
    batch.targets["action"][:] = IGNORED
    _, weight, metrics = GATSObjective()(model, batch)
    assert metrics["loss/action"] == 0
    assert weight == 15


def test_hidden_conditions_are_as_if_they_had_never_come():
    model, batch = make_model(), make_batch(rows=64)
    del batch.targets["text"]
    objective = GATSObjective(hidden={"text": 0.5})
    seen = {}

    class Watched(torch.nn.Module):
        def forward(self, inputs, times, present):
            seen.update(times)
            return model(inputs, times, present)

    watched = Watched().train()
    torch.manual_seed(0)
    objective(watched, batch)
    hidden = seen["text"].isnan()
    assert torch.equal(hidden.all(1), hidden.any(1)), "whole rows"
    assert 16 < hidden.all(1).sum() < 48
    assert torch.equal(seen["action"], batch.times["action"])
    model.eval()
    without = model({"action": batch.inputs["action"]}, {"action": batch.times["action"]})["action"].logits
    some = model(batch.inputs, seen)["action"].logits
    assert torch.allclose(some[hidden[:, 0]], without[hidden[:, 0]], atol=1e-5)
    assert not torch.allclose(some[~hidden[:, 0]], without[~hidden[:, 0]], atol=1e-3)
    objective(watched.eval(), batch)
    assert not seen["text"].isnan().any(), "in evaluation nothing is hidden"


def test_gradients_reach_what_is_trained_alone():
    model = make_model().train()
    loss, _, _ = GATSObjective(hidden={"text": 0.3})(model, make_batch())
    loss.backward()
    for name, parameter in model.named_parameters():
        assert (parameter.grad is not None) == parameter.requires_grad, name
    assert not any(parameter.requires_grad for parameter in model.towers["text"].parameters())


def test_a_batch_moves_whole():
    batch = make_batch()
    batch.inputs["vision"] = Features((torch.zeros(3, 2, 4),))
    moved = batch.to("meta")
    assert moved.inputs["text"]["input_ids"].device.type == "meta"
    assert moved.inputs["vision"].hidden[0].device.type == "meta"
    assert {value.device.type for part in (moved.times, moved.targets) for value in part.values()} == {"meta"}
    assert batch.times["text"].device.type == "cpu"


@pytest.mark.parametrize("share", [1.0, -0.1])
def test_bad_choices_are_named(share):
    with pytest.raises(UserError, match="'text'"):
        GATSObjective(hidden={"text": share})
    with pytest.raises(UserError, match="'text'"):
        GATSObjective(weights={"text": -1.0})


def test_frames_that_are_not_there_are_not_run():
    torch.manual_seed(0)
    parts = {
        "vit": BY_NAME["vit"].component(1, window=4),
        "action": BY_NAME["gpt2"].component(2, window=4, steered=True, frozen=False),
    }
    model, family = wake(GATS(parts, layers=2, width=16, heads=2)), BY_NAME["vit"]
    pictures = torch.randn(6, *family.shape)
    times = torch.tensor([[0.0, 1.0, 2.0], [0.0, torch.nan, torch.nan]])
    ids = torch.randint(3, 40, (2, 3))
    given = {"vit": {family.key: pictures}, "action": {"input_ids": ids}}
    batch = GATSBatch(given, {"vit": times, "action": times + 0.5}, {"action": ids})
    whole = model.eval()(batch.inputs, batch.times)["action"].logits
    run: list[int] = []
    model.towers["vit"].module.register_forward_pre_hook(
        lambda module, args, kwargs: run.append(len(kwargs[family.key])), with_kwargs=True
    )
    found = encode_present(model, batch)
    assert run == [4]
    assert torch.allclose(model(found.inputs, found.times)["action"].logits[0], whole[0], atol=1e-5)
    assert torch.allclose(model(found.inputs, found.times)["action"].logits[1, 0], whole[1, 0], atol=1e-5)
    loss, _, _ = GATSObjective()(model, batch)
    assert run == [4, 4]
    loss.backward()
    full = GATSBatch(batch.inputs, {"vit": times.nan_to_num(0.0), "action": times}, batch.targets)
    assert encode_present(model, full).inputs["vit"] is batch.inputs["vit"]
