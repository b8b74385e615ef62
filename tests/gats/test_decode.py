"""Step by step equals all at once, whatever arrives when; what is kept does not grow; bad input is named."""

import pytest
import torch
from torch import nn

from factotum.core.checks import UserError
from factotum.core.step import Core
from factotum.gats import GATS, Component
from factotum.gats.decode import GATSDecoder, Moment
from tests.gats.families import BY_NAME, FAMILIES, VOCABULARY, wake
from tests.gats.moments import (
    Stream,
    assert_equal_elements,
    each_unit,
    forward,
    hidden_of,
    random_times,
    stepwise,
)


def stream(family, counts, elements, *, length, seed=0):
    """Random data of one family."""
    generator = torch.Generator().manual_seed(seed)
    times = random_times(counts, elements, length=length, generator=generator)
    B, same = len(counts), {}
    if family.key == "decoder_input_ids":
        same = {"input_features": torch.ones(B, 8, 24)}
    if family.name == "rowwise":
        data = torch.randn(B, elements, 6, generator=generator)
    elif family.shape:
        data = torch.randn(B, elements, *family.shape, generator=generator)
    elif family.rows > 1:
        data = torch.randint(3, VOCABULARY, (B, elements, 5), generator=generator)
    else:
        data = torch.randint(3, VOCABULARY, (B, elements), generator=generator)
    return Stream({family.key: data}, times, family.rows > 1, same)


def joined(parts, **choices):
    """A model with updates that matter: `parts` are names of families with a component's choices."""
    components = {
        name: BY_NAME[name].component(seed, **{"window": 4, **changes})
        for seed, (name, changes) in enumerate(parts.items())
    }
    return wake(GATS(components, layers=3, width=16, heads=2, **choices)).eval()


STEERED = {"steered": True}


@pytest.mark.parametrize("family", FAMILIES, ids=lambda family: family.name)
def test_every_family_steered_beside_a_stream_and_images(family):
    parts = {"qwen3": {"window": 3}, "vit": {"window": 6}}
    parts.pop(family.name, None)
    parts[family.name] = STEERED
    model = joined(parts)
    streams = {
        name: stream(
            BY_NAME[name], [3, 1, 0] if BY_NAME[name].rows > 1 else [12, 5, 9], 12, length=12, seed=seed
        )
        for seed, name in enumerate(parts)
    }
    found, _ = assert_equal_elements(model, streams, each_unit(12, 3))
    other = forward(wake(model, seed=2), streams)
    there = ~streams[family.name].times.isnan()
    hidden = hidden_of(other[family.name])
    hidden = hidden.unflatten(0, (3, -1)) if family.rows > 1 else hidden
    assert (hidden - found[family.name])[there].abs().max() > 1e-3, "the updates did not matter"


@pytest.mark.parametrize("positions", ["index", "time", "none"])
@pytest.mark.parametrize("steered", [("gpt2",), ("llama", "gpt2"), ("vit", "llama", "gpt2")])
def test_any_cut_of_time_gives_the_same(positions, steered):
    names = ("llama", "vit", "gpt2")
    model = joined({name: {"steered": name in steered} for name in names}, positions=positions)
    streams = {
        "llama": stream(BY_NAME["llama"], [12, 3, 0], 12, length=20, seed=1),
        "vit": stream(BY_NAME["vit"], [2, 4, 1], 4, length=20, seed=2),
        "gpt2": stream(BY_NAME["gpt2"], [30, 10, 21], 30, length=20, seed=3),
    }
    whole = forward(model, streams)
    rows_apart = torch.tensor([[3.0, 0.0, 7.0], [3.0, 9.0, 8.0], [20.0, 20.0, 20.0]])
    for cuts in (each_unit(20, 3), torch.full((1, 3), 20.0), rows_apart):
        assert_equal_elements(model, streams, cuts, whole=whole)


def test_many_fast_elements_between_two_slow_ones():
    model = joined({"vit": {"window": 4}, "bert": {"window": 7}, "qwen3": {"window": 5, **STEERED}})
    fast = torch.arange(120.0).expand(2, -1)
    ids = torch.randint(3, VOCABULARY, (2, 120), generator=torch.Generator().manual_seed(0))
    images = torch.randn(2, 2, 3, 16, 16, generator=torch.Generator().manual_seed(1))
    streams = {
        "vit": Stream({"pixel_values": images}, torch.tensor([[0.0, 90.0], [30.0, 31.0]]), rows=True),
        "bert": Stream(
            {"input_ids": ids[:, :5, None].repeat(1, 1, 6)[:, :1]}, torch.tensor([[0.0], [50.5]]), rows=True
        ),
        "qwen3": Stream({"input_ids": ids}, fast),
    }
    _, state = assert_equal_elements(model, streams, torch.arange(0.0, 120.5, 0.5)[:, None].expand(-1, 2))
    for name, ring in state.rings.items():
        assert {keys.shape[2] for keys in ring.keys.values()} == {model.towers[name].window + 1}


def test_a_modality_that_never_comes_and_one_that_comes_late():
    model = joined({"llama": {}, "vit": {}, "gpt2": STEERED})
    streams = {
        "vit": stream(BY_NAME["vit"], [1, 0], 1, length=20),
        "gpt2": stream(BY_NAME["gpt2"], [20, 20], 20, length=20),
    }
    streams["vit"].times[:] = torch.tensor([[15.0], [float("nan")]])
    assert_equal_elements(model, streams, each_unit(20, 2))


def test_elements_that_stay_away_from_a_moment_do_not_exist():
    """`present` and attention masks are said of single moments; the component does not see such elements either."""
    model = joined({"llama": {}, "gpt2": STEERED})
    ids = torch.randint(3, VOCABULARY, (1, 6), generator=torch.Generator().manual_seed(0))
    here = torch.tensor([True, False, True, True, False, True])
    decoder = GATSDecoder(model)
    text = {"input_ids": ids[:, here]}
    plain, state = decoder.initial_state(1), decoder.initial_state(1)
    a, _ = decoder.step(Moment({"llama": text}, {"llama": torch.arange(4.0)[None]}), plain)
    gaps = Moment(
        {"llama": {"input_ids": ids}},
        {"llama": torch.tensor([[0.0, 9.0, 1.0, 2.0, 9.0, 3.0]])},
        {"llama": here[None]},
    )
    b, _ = decoder.step(gaps, state)
    assert torch.allclose(a["llama"].logits, b["llama"].logits[:, here], atol=1e-5)
    masked = {"input_ids": ids, "attention_mask": here[None].long()}
    c, _ = decoder.step(
        Moment({"llama": masked}, {"llama": torch.arange(6.0)[None]}), decoder.initial_state(1)
    )
    assert torch.allclose(a["llama"].logits, c["llama"].logits[:, here], atol=1e-5)
    act = Moment({"gpt2": {"input_ids": ids[:, :2]}}, {"gpt2": torch.tensor([[10.0, 11.0]])})
    first, second = (decoder.step(act, state)[0]["gpt2"].logits for state in (plain, state))
    assert torch.allclose(first, second, atol=1e-5)


@pytest.mark.parametrize("bound", [1, 3, 8])
def test_a_context_equals_a_banded_mask(bound):
    model = joined({"llama": {"window": 3}, "gpt2": {"window": 3, **STEERED}})
    streams = {
        "llama": stream(BY_NAME["llama"], [25, 25], 25, length=25, seed=1),
        "gpt2": stream(BY_NAME["gpt2"], [30, 30], 30, length=25, seed=2),
    }
    for name, one in streams.items():
        T = one.times.shape[1]
        back = torch.arange(T)[:, None] - torch.arange(T)
        seen = (back >= 0) & (back < (bound if name == "gpt2" else T))
        mask = torch.zeros(1, 1, T, T).masked_fill(~seen, torch.finfo(torch.float32).min)
        one.same = {"attention_mask": mask.expand(2, -1, -1, -1)}
    whole = forward(model, streams)
    for one in streams.values():
        one.same = {}
    for cuts in (each_unit(25, 2), torch.tensor([[13.0, 2.0], [25.0, 25.0]])):
        _, state = assert_equal_elements(model, streams, cuts, context={"gpt2": bound}, whole=whole)
        assert state.past["gpt2"].ring.keys[0].shape[2] == bound + 1


@pytest.mark.parametrize("sliding", [("sliding_attention",) * 3, ("full_attention", "sliding_attention") * 2])
def test_sliding_windows_of_a_component_are_kept(sliding):
    transformers = pytest.importorskip("transformers")
    config = transformers.Qwen2Config(
        vocab_size=VOCABULARY, hidden_size=16, intermediate_size=32, num_hidden_layers=len(sliding),
        num_attention_heads=2, num_key_value_heads=1, use_sliding_window=True, sliding_window=4,
        layer_types=list(sliding), pad_token_id=0, bos_token_id=1, eos_token_id=2,
    )  # fmt: skip
    torch.manual_seed(0)
    module = transformers.Qwen2ForCausalLM(config)
    model = GATS({"it": Component(module, window=3, steered=True)}, layers=2, width=16, heads=2)
    streams = {"it": stream(BY_NAME["qwen3"], [30, 11], 30, length=20)}
    _, state = assert_equal_elements(wake(model).eval(), streams, each_unit(20, 2))
    if "full_attention" not in sliding:
        assert state.past["it"].ring.size == 4


def test_features_in_place_of_inputs_and_moments_without_a_steered_component():
    model = joined({"vit": {}, "gpt2": STEERED})
    decoder, images = GATSDecoder(model), torch.randn(2, 3, 16, 16)
    times, ids = {"vit": torch.zeros(2, 1)}, torch.tensor([[3, 4], [5, 6]])
    found = []
    for given in ({"pixel_values": images}, model.encode({"vit": {"pixel_values": images}})["vit"]):
        outputs, state = decoder.step(Moment({"vit": given}, times), decoder.initial_state(2))
        assert set(outputs) == {"vit"}
        outputs, _ = decoder.step(Moment({"gpt2": {"input_ids": ids}}, {"gpt2": torch.ones(2, 2)}), state)
        found.append(outputs["gpt2"].logits)
    assert torch.equal(*found)


@pytest.mark.parametrize("name", ["gpt2", "plain"])
def test_rows_begin_anew_and_are_copied(name):
    family = BY_NAME[name]
    model = joined({"llama": {}, name: STEERED})
    decoder = GATSDecoder(model)

    def streams(seed, rows):
        return {
            key: stream(BY_NAME[key], [10] * rows, 10, length=10, seed=seed + k)
            for k, key in enumerate(("llama", name))
        }

    _, state = stepwise(decoder, streams(0, 2), each_unit(10, 2))
    copied, kept = state.select(torch.tensor([1, 0, 1])), streams(5, 3)
    for one in kept.values():
        one.times += 11
    state.reset_rows(torch.tensor([0]))
    later = {key: Stream(one.values, one.times) for key, one in streams(7, 2).items()}
    for one in later.values():
        one.times[1] += 11
    apart = torch.stack([torch.arange(11.0), torch.arange(11.0) + 11], 1)
    mixed, state = stepwise(decoder, later, apart, state)
    fresh, _ = stepwise(
        decoder,
        {k: Stream({n: v[:1] for n, v in s.values.items()}, s.times[:1]) for k, s in later.items()},
        each_unit(10, 1),
    )
    assert torch.allclose(mixed[name][0], fresh[name][0], atol=1e-5)

    from_copy, copied = stepwise(decoder, kept, each_unit(10, 3) + 11, copied)
    assert copied.rows == 3
    other = decoder.initial_state(1)
    _, first = stepwise(decoder, streams(0, 2), each_unit(10, 2))
    other.put(torch.tensor([0]), first.select(torch.tensor([0])))
    again, _ = stepwise(
        decoder,
        {k: Stream({n: v[1:2] for n, v in s.values.items()}, s.times[1:2]) for k, s in kept.items()},
        each_unit(10, 1) + 11,
        other,
    )
    assert torch.allclose(again[name][0], from_copy[name][1], atol=1e-5)
    assert family.name == name


def test_it_is_a_core():
    assert isinstance(GATSDecoder(joined({"gpt2": STEERED})), Core)


class Recurrent(nn.Module):
    """Says that it keeps a state that no ring holds."""

    def __init__(self):
        super().__init__()
        self.blocks = nn.ModuleList([nn.Sequential(nn.LayerNorm(4), nn.Linear(4, 4))])
        self.config = type("Config", (), {"layer_types": ["linear_attention"]})()

    def forward(self, x, past_key_values=None):
        return self.blocks[0](x)


def error_cases():
    def text(*times):
        times = torch.tensor([list(times)])
        return Moment({"llama": {"input_ids": torch.ones_like(times).long()}}, {"llama": times})

    def act(time):
        return Moment({"gpt2": {"input_ids": torch.tensor([[3]])}}, {"gpt2": torch.tensor([[time]])})

    return [
        ([text(0.0, 2.0), act(1.0)], "'gpt2': times run backwards.*'llama'"),
        ([act(1.0), text(1.0)], "'llama': times run backwards.*'gpt2'"),
        ([text(3.0, 1.0)], "'llama': times run backwards"),
        ([Moment({"lama": {}}, {"lama": torch.zeros(1, 1)})], "did you mean llama"),
        ([act(0.0)._replace(times={})], "'gpt2': expected times"),
        ([Moment({"gpt2": {"input_ids": torch.ones(2, 1).long()}}, {"gpt2": torch.zeros(2, 1)})], "1 rows"),
    ]


@pytest.mark.parametrize(("moments", "message"), error_cases())
def test_bad_moments_are_named_and_change_nothing(moments, message):
    decoder = GATSDecoder(joined({"llama": {}, "gpt2": STEERED}))
    state, other = decoder.initial_state(1), decoder.initial_state(1)
    for moment in moments[:-1]:
        decoder.step(moment, state)
        decoder.step(moment, other)
    with pytest.raises(UserError, match=message):
        decoder.step(moments[-1], state)
    later = Moment({"gpt2": {"input_ids": torch.tensor([[7]])}}, {"gpt2": torch.tensor([[9.0]])})
    first, second = (decoder.step(later, one)[0]["gpt2"].logits for one in (state, other))
    assert torch.equal(first, second)


@pytest.mark.parametrize(("name", "most"), [("gpt2", 32), ("whisper-decoder", 20)])
def test_learned_positions_end_with_an_error_and_a_new_row_goes_on(name, most):
    family = BY_NAME[name]
    decoder = GATSDecoder(joined({name: STEERED}))
    extra = {"input_features": torch.ones(1, 8, 24)} if name == "whisper-decoder" else {}

    def moment(elements, start):
        times = start + torch.arange(float(elements))[None]
        return Moment({name: {family.key: torch.ones_like(times).long(), **extra}}, {name: times})

    state = decoder.initial_state(1)
    decoder.step(moment(most, 0.0), state)
    with pytest.raises(UserError, match=f"'{name}': it has {most} learned positions"):
        decoder.step(moment(1, 99.0), state)
    state.reset_rows(torch.tensor([0]))
    decoder.step(moment(1, 0.0), state)


def test_simultaneous_elements_in_the_order_of_components_may_come_in_two_moments():
    model = joined({"llama": {}, "gpt2": STEERED})
    ids = torch.tensor([[3, 4]])
    streams = {
        "llama": Stream({"input_ids": ids}, torch.zeros(1, 2)),
        "gpt2": Stream({"input_ids": ids}, torch.zeros(1, 2)),
    }
    whole, decoder = forward(model, streams), GATSDecoder(model)
    state = decoder.initial_state(1)
    for name, place in (("llama", 0), ("llama", 1), ("gpt2", 0), ("gpt2", 1)):
        one = Moment({name: {"input_ids": ids[:, place : place + 1]}}, {name: torch.zeros(1, 1)})
        outputs, state = decoder.step(one, state)
        assert torch.allclose(outputs[name].logits[:, 0], whole[name].logits[:, place], atol=1e-5)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: GATSDecoder(joined({"gpt2": STEERED}), {"gpt": 3}), "did you mean gpt2"),
        (lambda: GATSDecoder(joined({"gpt2": STEERED}), {"gpt2": 0}), "'gpt2': context"),
        (lambda: GATSDecoder(joined({"vit": STEERED}), {"vit": 3}), "'vit': a context"),
        (lambda: GATSDecoder(joined({"plain": STEERED}), {"plain": 3}), "'plain': a context"),
        (
            lambda: GATSDecoder(
                GATS(
                    {"it": Component(Recurrent(), window=2, steered=True, bidirectional=False)},
                    layers=1,
                    width=8,
                    heads=2,
                )
            ),
            "'it'.*linear_attention",
        ),
    ],
)
def test_what_cannot_be_decoded_is_said_at_once(make, message):
    with pytest.raises(UserError, match=message):
        make()
