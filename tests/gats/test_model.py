"""What must hold whatever is joined: over families of components, alone, in pairs and in threes."""

import pytest
import torch

from factotum.core.checks import UserError
from factotum.gats import GATS, Component
from tests.gats.families import BY_NAME, FAMILIES, PLAIN, ROWWISE, Family, wake

SMALL = {"layers": 3, "width": 16, "heads": 2}
every_family = pytest.mark.parametrize("family", FAMILIES, ids=lambda family: family.name)


def joined(*families: Family, steered=(True,), frozen=True, **choices):
    """A model of some families, its inputs for a batch of two, and times."""
    steered = list(steered) + [True] * (len(families) - len(steered))
    names = [f"{family.name}{n}" for n, family in enumerate(families)]
    components = {
        name: family.component(n, steered=s, frozen=frozen)
        for n, (name, family, s) in enumerate(zip(names, families, steered, strict=True))
    }
    inputs = {name: family.inputs(2, n) for n, (name, family) in enumerate(zip(names, families, strict=True))}
    times = {name: family.times(2) for name, family in zip(names, families, strict=True)}
    torch.manual_seed(5)
    return GATS(components, **{**SMALL, **choices}), inputs, times


def alone(model: GATS, inputs, name: str):
    return model.towers[name].module(**inputs[name])


def same(a, b) -> bool:
    """Equal to the bit, tensor by tensor, of two output objects of one type."""
    if isinstance(a, torch.Tensor):
        return torch.equal(a, b)
    assert type(a) is type(b)
    values = zip(a.values(), b.values(), strict=True) if isinstance(a, dict) else []
    return all(same(x, y) for x, y in values if isinstance(x, torch.Tensor))


@every_family
@pytest.mark.parametrize("mode", ["steered", "feature", "trained", "two steered"])
def test_at_first_the_composite_equals_its_components(family, mode):
    partner = ROWWISE if mode != "feature" else PLAIN
    steered = {"feature": (False, True), "two steered": (True, True)}.get(mode, (True, False))
    model, inputs, times = joined(family, partner, steered=steered, frozen=mode != "trained")
    model.train()
    for n, name in enumerate(inputs):
        torch.manual_seed(3)
        if n == 1:
            alone(model, inputs, next(iter(inputs)))  # draws what the first component's dropout draws
        expected = alone(model, inputs, name)
        torch.manual_seed(3)
        found = model(inputs, times)[name]
        assert same(found, expected), name


@every_family
def test_steering_changes_what_comes_out_and_leaves_the_component_alone_as_it_was(family):
    model, inputs, times = joined(ROWWISE, family, steered=(False, True))
    wake(model)
    name = list(inputs)[1]
    before = family.read(alone(model, inputs, name))
    changed = family.read(model(inputs, times)[name])
    assert (changed - before).abs().max() > 1e-3
    assert torch.equal(family.read(alone(model, inputs, name)), before)
    assert not any(block._forward_hooks for block in model.towers[name].blocks if family.name == "plain")


@every_family
def test_training_moves_the_connection_and_not_a_bit_of_what_is_frozen(family):
    model, inputs, times = joined(family, family, ROWWISE, steered=(False, True, True))
    model.train()
    frozen = {k: v.clone() for k, v in model.components.state_dict().items()}
    before = {k: v.clone() for k, v in model.layers.state_dict().items()}
    first, name = list(inputs)[:2]
    outputs = family.read(alone(model, inputs, name))
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=0.1)
    for _ in range(3):
        optimizer.zero_grad()
        family.read(model(inputs, times)[name]).float().square().mean().backward()
        optimizer.step()
    assert all(p.grad is None for p in model.components.parameters())
    assert all(torch.equal(v, frozen[k]) for k, v in model.components.state_dict().items())
    assert torch.equal(family.read(alone(model, inputs, name)), outputs)
    moved = {k for k, v in model.layers.state_dict().items() if not torch.equal(v, before[k])}
    assert {f"{layer}.scatters.{name}.up.weight" for layer in range(3)} <= moved
    assert {f"{layer}.down.{first}.weight" for layer in range(3)} <= moved


@every_family
def test_gradients_go_through_a_steered_frozen_component_to_the_first_layer(family):
    model, inputs, times = joined(family, ROWWISE, steered=(True, False))
    wake(model)
    name = next(iter(inputs))
    reached = []
    last = model.towers[name].blocks[-1]
    handle = last.register_forward_hook(
        lambda m, given, out: (
            (out if isinstance(out, torch.Tensor) else out[0]).register_hook(reached.append) and None
        )
    )
    family.read(model(inputs, times)[name]).square().mean().backward()
    handle.remove()
    assert reached
    assert reached[0].abs().max() > 0
    assert model.layers[0].scatters[name].up.weight.grad.abs().max() > 0
    assert all(parameter.grad is None for parameter in model.towers[name].module.parameters())


def later(family: Family, inputs, time: float):
    """Inputs whose elements from `time` on are others."""
    fresh = family.inputs(2, seed=99)
    changed = {key: value.clone() for key, value in inputs.items()}
    key = family.key
    if family.rows == 1:
        changed[key][:, int(time) :] = fresh[key][:, int(time) :]
    else:
        first = -(-int(time) // 2)
        changed[key].unflatten(0, (2, family.rows))[:, first:] = fresh[key].unflatten(0, (2, family.rows))[
            :, first:
        ]
    return changed


@every_family
@pytest.mark.parametrize("partner", ["rowwise", "plain", "vit"])
def test_nothing_sees_the_future(family, partner):
    families = (family, BY_NAME[partner])
    model, inputs, times = joined(*families)
    wake(model)
    names = list(inputs)
    found = model(inputs, times)
    perturbed = {name: later(f, inputs[name], 2) for name, f in zip(names, families, strict=True)}
    other = model(perturbed, times)
    for name, f in zip(names, families, strict=True):
        each = f.times(2)
        elements = f.logits(found[name], 2).shape[1]
        time = each if each.shape[1] == elements else each.repeat_interleave(elements // each.shape[1], 1)
        a, b = f.logits(found[name], 2), f.logits(other[name], 2)
        torch.testing.assert_close(a[time < 2], b[time < 2], atol=1e-6, rtol=1e-6)
        assert (a[time >= 2] - b[time >= 2]).abs().max() > 1e-4


@every_family
def test_batch_elements_do_not_mix_and_padding_does_not_leak(family):
    families = (family, PLAIN, ROWWISE)
    model, inputs, times = joined(*families, steered=(True, True, True))
    wake(model)
    names = list(inputs)
    lengths = {names[0]: family.rows if family.rows == 1 else 1, names[1]: 3, names[2]: 2}
    present = {names[1]: torch.arange(5) < torch.tensor([[5], [3]])}
    times[names[2]] = torch.stack([0.5 * torch.arange(5.0), torch.tensor([0.0, 4.0, *[torch.nan] * 3])])
    if family.rows == 2:
        times[names[0]] = torch.tensor([[0.0, 2.0], [1.0, torch.nan]])
    inputs[names[2]]["x"][1, 2:] = torch.nan
    both = model(inputs, times, present)
    for b in range(2):
        one, when = {}, {}
        for name, f in zip(names, families, strict=True):
            rows = slice(b * f.rows, b * f.rows + (lengths[name] if f.rows == 2 and b else f.rows))
            cut = lengths[name] if b and name != names[0] else f.elements
            one[name] = {
                k: v[rows][:, :cut] if f.rows == 1 and k == f.key else v[rows]
                for k, v in inputs[name].items()
            }
            when[name] = times[name][
                b : b + 1, : lengths[name] if b and (name != names[0] or f.rows == 2) else None
            ]
        single = model(one, when)
        for name, f in zip(names, families, strict=True):
            expected = f.read(single[name])
            mine = f.read(both[name])[b * f.rows :][: len(expected), : expected.shape[1]]
            torch.testing.assert_close(mine, expected, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("name", ["llama", "gpt2", "bert", "clip-text"])
def test_an_attention_mask_says_which_elements_are_there(name):
    family = BY_NAME[name]
    model, inputs, times = joined(family, ROWWISE, steered=(False, True))
    wake(model)
    text = next(iter(inputs))
    mask = torch.ones_like(inputs[text]["input_ids"])
    mask[0, 3:] = 0
    inputs[text]["attention_mask"] = mask
    found = model(inputs, times)
    inputs[text]["input_ids"][0, 3:] = 7
    other = model(inputs, times)
    cached = model({**inputs, **model.encode({text: inputs[text]})}, times)
    assert torch.equal(found["rowwise1"]["logits"], other["rowwise1"]["logits"])
    assert torch.equal(found["rowwise1"]["logits"], cached["rowwise1"]["logits"])


def test_a_modality_that_is_absent_is_as_one_without_elements():
    model, inputs, times = joined(BY_NAME["vit"], PLAIN, steered=(False, True))
    wake(model)
    vit, plain = inputs
    without = model({plain: inputs[plain]}, {plain: times[plain]})
    empty = model(inputs, {**times, vit: torch.full((2, 2), torch.nan)})
    shown = model(inputs, times)
    torch.testing.assert_close(without[plain], empty[plain])
    assert list(without) == [plain]
    assert (shown[plain] - without[plain]).abs().max() > 1e-3
    only = model({vit: inputs[vit]}, {vit: times[vit]})
    assert same(only[vit], alone(model, inputs, vit))


def test_frozen_features_are_made_once_without_gradients_and_can_be_kept():
    model, inputs, times = joined(BY_NAME["vit"], PLAIN, steered=(False, True), layers=6)
    wake(model)
    vit, plain = inputs
    calls = []
    model.towers[vit].module.register_forward_hook(lambda *_: calls.append(torch.is_grad_enabled()))
    expected = model(inputs, times)
    kept = model.encode({vit: inputs[vit]})
    assert calls == [False, False]
    assert not any(x.requires_grad for x in kept[vit].hidden)
    assert len(kept[vit].hidden) == 6
    assert len({id(x) for x in kept[vit].hidden}) == 3
    found = model({**kept, plain: inputs[plain]}, times)
    assert len(calls) == 2
    assert torch.equal(found[plain], expected[plain])
    assert same(found[vit], expected[vit])
    moved = kept[vit].rows(slice(0, 2)).to(torch.float64)
    assert moved.hidden[0].shape == (2, 4, 16)
    assert moved.hidden[0] is moved.hidden[1]


def test_one_module_may_be_several_components():
    camera, hand = BY_NAME["vit"].module(), BY_NAME["gpt2"].module()
    model = GATS(
        {
            "left": Component(camera, window=4),
            "right": Component(camera, window=4),
            "hand": Component(hand, window=4, steered=True),
            "foot": Component(hand, window=4, steered=True),
        },
        **SMALL,
    )
    wake(model)
    sides = {"left": BY_NAME["vit"].inputs(2, 0), "right": BY_NAME["vit"].inputs(2, 1)}
    limbs = {"hand": BY_NAME["gpt2"].inputs(2, 2), "foot": BY_NAME["gpt2"].inputs(2, 3)}
    times = {n: BY_NAME["vit"].times(2) for n in sides} | {n: BY_NAME["gpt2"].times(2) for n in limbs}
    found = model(sides | limbs, times)
    swapped = model({**sides, "left": sides["right"], "right": sides["left"]} | limbs, times)
    assert (found["hand"].logits - swapped["hand"].logits).abs().max() > 1e-4
    assert (found["hand"].logits - found["foot"].logits).abs().max() > 1e-4


def test_a_trained_component_learns_and_stays_in_training_mode():
    model, inputs, times = joined(PLAIN, PLAIN, steered=(True, False), frozen=False)
    model.train()
    assert all(tower.module.training for tower in model.towers.values())
    model(inputs, times)["plain0"].square().mean().backward()
    wake(model)
    model(inputs, times)["plain0"].square().mean().backward()
    grads = [p.grad for p in model.towers["plain1"].module.blocks.parameters()]
    assert all(grad is not None for grad in grads)
    assert all(p.grad is not None for p in model.towers["plain0"].module.parameters())
    frozen, _, _ = joined(PLAIN, steered=(True,))
    assert not frozen.train().towers["plain0"].module.training


WRONG_CALLS = [
    (lambda i, t: ({"plan0": i["plain0"]}, t), "unknown component 'plan0': did you mean plain0"),
    (lambda i, t: (i, {"plain0": t["plain0"]}), "component 'rowwise1': expected times"),
    (lambda i, t: ({"plain0": i["plain0"]}, t), "component 'rowwise1': got times and no inputs"),
    (
        lambda i, t: (i, t | {"rowwise1": -t["rowwise1"]}),
        "component 'rowwise1': times run backwards: element 1",
    ),
    (lambda i, t: (i, t | {"plain0": t["plain0"][:, :3]}), "component 'plain0': times: expected shape"),
    (lambda i, t: (i, t | {"plain0": t["plain0"][:1]}), "expected the same batch"),
    (lambda i, t: (i, t | {"plain0": t["plain0"] / 0}), "component 'plain0': times: expected finite"),
    (
        lambda i, t: (i | {"rowwise1": {"x": torch.zeros(2, 6)}}, t),
        "component 'rowwise1': expected activations",
    ),
]


@pytest.mark.parametrize(("change", "message"), WRONG_CALLS, ids=[message for _, message in WRONG_CALLS])
def test_bad_calls_are_told_with_the_components_name(change, message):
    model, inputs, times = joined(PLAIN, ROWWISE)
    with pytest.raises(UserError, match=message):
        model(*change(inputs, times))
    assert model(inputs, times)["plain0"].shape == (2, 5, 40)


def test_bad_constructions_are_told_with_the_components_name():
    with pytest.raises(UserError, match="component 'a': expected a window"):
        GATS({"a": PLAIN.component(window=None, steered=True)}, **SMALL)
    with pytest.raises(UserError, match="at least one component with steered"):
        GATS({"a": PLAIN.component()}, **SMALL)
    with pytest.raises(UserError, match="unknown choice 'layer': did you mean layers"):
        GATS({"a": PLAIN.component(steered=True)}, layer=2)
    with pytest.raises(UserError, match=r"component 'a\.b': expected another name"):
        GATS({"a.b": PLAIN.component(steered=True)}, **SMALL)
    module = PLAIN.module()
    choices = {"window": 2, "bidirectional": False}
    shared = {
        "a": Component(module, **choices),
        "b": Component(module, frozen=False, steered=True, **choices),
    }
    with pytest.raises(UserError, match="are one module, frozen in one"):
        GATS(shared, **SMALL)
    assert all(parameter.requires_grad for parameter in module.parameters())


def test_features_of_what_changes_are_refused():
    model, inputs, times = joined(PLAIN, ROWWISE, steered=(True, False))
    with pytest.raises(UserError, match="component 'plain0': expected one that is frozen and not steered"):
        model.encode(inputs)
    kept = model.encode({"rowwise1": inputs["rowwise1"]})
    with pytest.raises(UserError, match="component 'plain0': it is steered: expected its inputs"):
        model({"plain0": kept["rowwise1"]}, {"plain0": times["plain0"]})


def test_an_encoders_row_arrives_at_one_time():
    model, inputs, times = joined(BY_NAME["bert"], PLAIN)
    wrong = torch.arange(10.0).expand(2, -1)
    with pytest.raises(UserError, match="component 'bert0': an encoder's elements know all of their row"):
        model(inputs, times | {"bert0": wrong})
