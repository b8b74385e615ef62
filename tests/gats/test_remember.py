"""Features of frozen encoders that are kept: the same as those that are run, each row run once."""

from dataclasses import replace

import torch

from factotum.gats import GATS, Component, GATSBatch, GATSObjective
from factotum.gats.remember import PIECE, Remember
from tests.gats.families import BY_NAME, wake


def make_model(layers=4, **text):
    torch.manual_seed(0)
    parts = {
        "text": BY_NAME["bert"].component(0, window=8, **text),
        "eyes": BY_NAME["vit"].component(1, window=8),
        "action": BY_NAME["gpt2"].component(2, window=4, steered=True, frozen=False),
    }
    return wake(GATS(parts, layers=layers, width=16, heads=2))


def make_batch(rows=3, frames=2, elements=6, seed=0):
    generator = torch.Generator().manual_seed(seed)
    ids = torch.randint(3, 40, (rows, elements), generator=generator)
    mask = torch.arange(elements) < torch.randint(1, elements + 1, (rows, 1), generator=generator)
    mask[0] = True
    pictures = torch.randn(rows * frames, *BY_NAME["vit"].shape, generator=generator)
    said = torch.randint(3, 40, (rows, frames), generator=generator)
    steps = torch.arange(float(frames)).expand(rows, -1)
    times = {
        "text": torch.zeros(rows, elements).masked_fill(~mask, torch.nan),
        "eyes": steps.clone(),
        "action": steps + 0.5,
    }
    times["eyes"][-1, 1:] = torch.nan
    inputs = {
        "text": {"input_ids": ids.masked_fill(~mask, 0), "attention_mask": mask.long()},
        "eyes": {BY_NAME["vit"].key: pictures},
        "action": {"input_ids": said},
    }
    return GATSBatch(inputs, times, {"action": said})


def count_runs(model, name):
    run = []
    model.towers[name].module.register_forward_pre_hook(
        lambda module, args, kwargs: run.append(len(next(iter(kwargs.values())))), with_kwargs=True
    )
    return run


def test_the_loss_is_the_same_and_rows_run_once():
    model, batch = make_model().eval(), make_batch()
    plain = GATSObjective()(model, batch)[0]
    runs = {name: count_runs(model, name) for name in ("text", "eyes")}
    remembered = GATSObjective(encode=Remember(dtype=torch.float32))
    for _ in range(3):
        assert torch.allclose(remembered(model, batch)[0], plain, atol=1e-5)
    assert runs == {"text": [PIECE], "eyes": [PIECE]}
    assert torch.allclose(GATSObjective(encode=Remember())(model, batch)[0], plain, atol=2e-2)


def test_a_sentence_is_the_same_in_other_company_and_another_padding():
    model, memory = make_model().eval(), Remember(dtype=torch.float32)
    tower, given = model.towers["text"], make_batch(rows=4, elements=6).inputs["text"]
    first = memory.features(tower, given)
    run = count_runs(model, "text")
    wide = {key: torch.nn.functional.pad(x, (0, 20)) for key, x in given.items()}
    again = memory.features(tower, {key: x[[2, 1]] for key, x in wide.items()})
    assert not run
    assert again.hidden[0].shape[1] == 26 - tower.skip
    there = first.unpadded_RE[[2, 1]]
    for before, after in zip(first.hidden, again.hidden, strict=True):
        assert torch.equal(after[:, : there.shape[1]][there], before[[2, 1]][there])
    alone = Remember(dtype=torch.float32).features(tower, {key: x[[2]] for key, x in wide.items()})
    assert torch.equal(alone.hidden[-1][0, : there.shape[1]][there[0]], first.hidden[-1][2][there[0]])
    whole = tower.features(given)
    assert torch.allclose(whole.hidden[1][first.unpadded_RE], first.hidden[1][first.unpadded_RE], atol=1e-5)


def test_layers_grafted_to_one_block_share_what_is_kept():
    tower, memory = make_model(layers=8).towers["eyes"], Remember(dtype=torch.float32)
    given = make_batch().inputs["eyes"]
    found = memory.features(tower, given)
    assert len(found.hidden) == 8
    assert {len(x_KED) for x_KED in memory.known.values()} == {len(set(tower.grafts))}
    for mine, own in zip(found.hidden, tower.features(given).hidden, strict=True):
        assert torch.allclose(mine, own, atol=1e-5)


def test_no_more_is_kept_than_allowed_and_the_rest_is_run_again():
    model, batch = make_model().eval(), make_batch(rows=8)
    memory = Remember(dtype=torch.float32)
    memory(model, batch)
    half = Remember(gigabytes=memory.kept_bytes / 2e9, dtype=torch.float32)
    for _ in range(2):
        found = half(model, batch)
        assert 0 < half.kept_bytes <= memory.kept_bytes / 2
        assert torch.equal(found.inputs["eyes"].hidden[0], memory(model, batch).inputs["eyes"].hidden[0])


def test_what_is_trained_or_steered_is_run_as_ever():
    for text in ({"frozen": False}, {"steered": True}):
        model, batch = make_model(**text), make_batch()
        found = Remember()(model, batch)
        assert found.inputs["text"] is batch.inputs["text"]
        assert found.inputs["action"] is batch.inputs["action"]


def test_nothing_there_is_no_reason_to_run():
    model, batch = make_model(), make_batch()
    gone = replace(batch, times=batch.times | {"eyes": torch.full_like(batch.times["eyes"], torch.nan)})
    memory = Remember()
    memory(model, gone)
    assert not any(name == "eyes" for name, _ in memory.known)


def test_a_plain_torch_module_is_remembered_too():
    block = torch.nn.TransformerEncoderLayer(8, 2, batch_first=True)
    component = Component(torch.nn.TransformerEncoder(block, 2), window=4, bidirectional=True)
    hands = BY_NAME["gpt2"].component(2, window=4, steered=True, frozen=False)
    model, x = GATS({"eyes": component, "hands": hands}, layers=2, width=16, heads=2), torch.randn(3, 4, 8)
    found = Remember(dtype=torch.float32).features(model.towers["eyes"], {"src": x})
    assert torch.allclose(found.hidden[1], model.towers["eyes"].features({"src": x}).hidden[1], atol=1e-5)
