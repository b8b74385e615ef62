"""What GATS is compared with: what each joins, that it begins as its components, and that its size can be set."""

from dataclasses import replace

import pytest
import torch

from factotum.core.checks import UserError
from factotum.gats import GATS, GATSConfig
from factotum.gats.baselines import KINDS, at_parameters, fine_tuned, make_joined, trained_parameters
from factotum.gats.decode import GATSDecoder, Moment
from tests.gats.families import BY_NAME
from tests.gats.moments import assert_equal_elements, each_unit, forward
from tests.gats.test_decode import stream

CONFIG = GATSConfig(layers=3, width=16, heads=2)
JOINING = ("gats", "cross-attention", "late-fusion")


def components(**changes):
    return {
        "llama": BY_NAME["llama"].component(0, window=4),
        "vit": BY_NAME["vit"].component(1, window=4),
        "gpt2": BY_NAME["gpt2"].component(2, window=4, steered=True, frozen=False, **changes),
    }


def streams(rows=2):
    return {
        "llama": stream(BY_NAME["llama"], [8, 3][:rows], 8, length=10, seed=1),
        "vit": stream(BY_NAME["vit"], [2, 3][:rows], 3, length=10, seed=2),
        "gpt2": stream(BY_NAME["gpt2"], [12, 12][:rows], 12, length=10, seed=3),
    }


def awake(kind):
    """Weights where zeros would hide what is joined."""
    model = make_joined(kind, components(), CONFIG).eval()
    generator = torch.Generator().manual_seed(0)
    for name, parameter in model.layers.named_parameters():
        if ".scatters." in f".{name}":
            parameter.data = torch.randn(parameter.shape, generator=generator) * (
                0.3 if parameter.dim() else 1.0
            )
    return model


@pytest.mark.parametrize("kind", KINDS)
def test_at_first_every_kind_is_its_components(kind):
    model, given = make_joined(kind, components(), CONFIG).eval(), streams()
    outputs = forward(model, given)
    for name, tower in model.towers.items():
        with torch.no_grad():
            alone = tower.module(**given[name].inputs())
        for key, value in alone.items():
            if isinstance(value, torch.Tensor):
                assert torch.equal(value, outputs[name][key]), (name, key)


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_decodes_exactly(kind):
    model = awake(kind)
    assert_equal_elements(model, streams(), each_unit(10, 2))


def moved(model, name, change):
    """How far the acting component's outputs move when one of another's elements (the first in time) changes."""
    given = streams(1)
    before = forward(model, given)["gpt2"].logits
    change(given[name])
    return (forward(model, given)["gpt2"].logits - before).abs().max().item()


def other_word(one):
    one.values["input_ids"][:, 0] = (one.values["input_ids"][:, 0] + 1) % 40


def other_picture(one):
    one.values["pixel_values"] += 1.0


@pytest.mark.parametrize("kind", JOINING)
def test_what_is_joined_is_read(kind):
    model = awake(kind)
    assert moved(model, "llama", other_word) > 1e-4
    assert moved(model, "vit", other_picture) > 1e-4


def test_alone_reads_nothing_and_joins_with_no_parameters():
    model = awake("alone")
    assert moved(model, "llama", other_word) == moved(model, "vit", other_picture) == 0.0
    assert sum(p.numel() for p in model.layers.parameters()) == 0
    assert trained_parameters(model) == sum(p.numel() for p in model.towers["gpt2"].parameters())


def test_cross_attention_reads_the_last_activations_of_others_and_not_itself():
    model = awake("cross-attention")
    found = {}
    for at, layer in enumerate(model.layers):
        layer.register_forward_hook(lambda _, given, __, at=at: found.setdefault(at, given[0]))
        assert layer.feed_forward is None, "its feed-forward part is in the component's width"
    forward(model, streams(1))
    for name in ("llama", "vit"):
        assert all(torch.equal(found[0][name], found[at][name]) for at in (1, 2))
    assert not torch.equal(found[0]["gpt2"], found[1]["gpt2"])
    assert model.towers["gpt2"].window == 0
    assert forward(model, {"gpt2": streams(1)["gpt2"]})["gpt2"].logits.isfinite().all(), "nothing to read"


def test_cross_attention_decodes_with_nothing_to_read():
    model = awake("cross-attention")
    ids = torch.randint(3, 40, (2, 5), generator=torch.Generator().manual_seed(0))
    times = torch.arange(5.0).expand(2, -1)
    with torch.no_grad():
        whole = model({"gpt2": {"input_ids": ids}}, {"gpt2": times})["gpt2"].logits
    decoder = GATSDecoder(model)
    state = decoder.initial_state(2)
    for t in range(5):
        moment = Moment({"gpt2": {"input_ids": ids[:, t : t + 1]}}, {"gpt2": times[:, t : t + 1]})
        outputs, state = decoder.step(moment, state)
        assert torch.allclose(outputs["gpt2"].logits[:, 0], whole[:, t], atol=1e-5)


def test_late_fusion_joins_once_behind_the_last_block():
    model = awake("late-fusion")
    assert len(model.layers) == 1
    assert [tower.grafts for tower in model.towers.values()] == [
        (tower.depth,) for tower in model.towers.values()
    ]


@pytest.mark.parametrize("kind", KINDS)
def test_what_was_trained_is_saved_and_read(kind, tmp_path):
    model, given = awake(kind), streams()
    model.save_pretrained(tmp_path)
    modules = {name: tower.module for name, tower in model.towers.items()}
    again = KINDS[kind].from_pretrained(tmp_path, modules).eval()
    assert type(again) is type(model)
    before, after = (forward(one, given)["gpt2"].logits for one in (model, again))
    assert torch.equal(before, after)


@pytest.mark.parametrize("kind", JOINING)
@pytest.mark.parametrize("parameters", [60_000, 250_000])
def test_sizes_are_set_by_width(kind, parameters):
    parts = components()
    config = at_parameters(kind, parts, CONFIG, parameters)
    count = trained_parameters(make_joined(kind, parts, config))
    assert abs(count - parameters) < 0.1 * parameters
    assert replace(config, width=CONFIG.width) == CONFIG
    step = 2 * CONFIG.heads
    for width in (config.width - step, config.width + step):
        if width > 0:
            near = trained_parameters(make_joined(kind, parts, replace(config, width=width)))
            assert abs(near - parameters) >= abs(count - parameters)


def test_full_fine_tuning_trains_every_component():
    model = GATS(fine_tuned(components()), CONFIG)
    assert all(parameter.requires_grad for parameter in model.parameters())
    assert trained_parameters(model) > trained_parameters(GATS(components(), CONFIG))


def test_bad_input_is_named():
    with pytest.raises(UserError, match="did you mean late-fusion"):
        make_joined("late_fusion", components(), CONFIG)
    with pytest.raises(UserError, match="at the least width"):
        at_parameters("gats", components(), CONFIG, 10)
    only = {"gpt2": components()["gpt2"]}
    with pytest.raises(UserError, match="nothing to read"):
        make_joined("cross-attention", only, CONFIG)
