"""Generation equals choosing from the forward, id by id; guidance, ends and ragged prompts."""

import pytest
import torch

from factotum.core.checks import UserError
from factotum.core.seeding import torch_generator
from factotum.core.step import Core
from factotum.gats import GATS
from factotum.gats.decode import GATSDecoder, Moment
from factotum.gats.generate import Writer, generate, logits_of
from factotum.gats.sampling import Guidance, Sampling, choose, guide
from tests.gats.families import BY_NAME, VOCABULARY, wake


@pytest.fixture(scope="module")
def model():
    components = {
        "text": BY_NAME["llama"].component(0, window=4, steered=True),
        "vision": BY_NAME["vit"].component(1, window=4),
        "action": BY_NAME["gpt2"].component(2, window=4, steered=True),
    }
    return wake(GATS(components, layers=3, width=16, heads=2), std=0.5).eval()


PROMPT = Moment(
    {
        "vision": {"pixel_values": torch.randn(2, 3, 16, 16, generator=torch_generator(0))},
        "text": {"input_ids": torch.tensor([[3, 4, 5], [6, 7, 8]])},
        "action": {"input_ids": torch.tensor([[9], [9]])},
    },
    {
        "text": torch.tensor([[0.0, 1.0, 2.0], [0.0, 1.0, float("nan")]]),
        "vision": torch.tensor([[1.0], [1.5]]),
        "action": torch.tensor([[3.0], [2.5]]),
    },
)


def by_forward(model, component, count, sampling, generator, *, condition=None, weight=0.0, interval=1.0):
    """The same ids from whole forwards, row by row."""
    scores, rows = [], []
    for b in range(2):
        there = {name: ~times[b].isnan() for name, times in PROMPT.times.items()}
        inputs = {
            name: {
                key: value[b : b + 1] if name == "vision" else value[b : b + 1, there[name]]
                for key, value in given.items()
            }
            for name, given in PROMPT.inputs.items()
        }
        rows.append((inputs, {name: times[b : b + 1, there[name]] for name, times in PROMPT.times.items()}))
    last = [max(times.max().item() for times in row[1].values()) for row in rows]
    written = []
    for number in range(count):
        scores = []
        for inputs, times in rows:
            with torch.no_grad():
                given = model(inputs, times)[component].logits[:, -1]
                if condition:
                    fewer = {name: inputs[name] for name in inputs if name != condition}
                    free = model(fewer, {name: times[name] for name in fewer})[component].logits[:, -1]
                    given = guide(given, free, weight)
            scores.append(given)
        ids = choose(torch.cat(scores), sampling, generator)
        written.append(ids)
        for b, (inputs, times) in enumerate(rows):
            inputs[component]["input_ids"] = torch.cat([inputs[component]["input_ids"], ids[b].view(1, 1)], 1)
            when = torch.tensor([[last[b] + (number + 1) * interval]])
            times[component] = torch.cat([times[component], when], 1)
    return torch.stack(written, 1)


@pytest.mark.parametrize("component", ["text", "action"])
@pytest.mark.parametrize("sampling", [Sampling(), Sampling(1.0), Sampling(2.0, top_k=5)], ids=str)
def test_ids_are_those_of_whole_forwards(model, component, sampling):
    ids = generate(
        Writer(GATSDecoder(model), component), PROMPT, 6, sampling=sampling, generator=torch_generator(1)
    )
    assert torch.equal(ids, by_forward(model, component, 6, sampling, torch_generator(1)))
    assert ids.shape == (2, 6)


@pytest.mark.parametrize(("condition", "weight"), [("text", 3.0), ("vision", 60.0)])
def test_guidance_compares_with_a_model_that_never_saw_the_condition(model, condition, weight):
    sampling = Sampling(1.0)
    writer = Writer(GATSDecoder(model), "action", guidance=Guidance(condition, weight))
    ids = generate(writer, PROMPT, 5, sampling=sampling, generator=torch_generator(1))
    expected = by_forward(
        model, "action", 5, sampling, torch_generator(1), condition=condition, weight=weight
    )
    assert torch.equal(ids, expected)
    plain = generate(
        Writer(GATSDecoder(model), "action"), PROMPT, 5, sampling=sampling, generator=torch_generator(1)
    )
    assert not torch.equal(ids, plain)


def test_guidance_of_weight_zero_is_the_plain_model_and_runs_once(model):
    writer = Writer(GATSDecoder(model), "action", guidance=Guidance("text", 0.0))
    assert writer.initial_state(1).free is None
    plain = Writer(GATSDecoder(model), "action")
    assert torch.equal(generate(writer, PROMPT, 4), generate(plain, PROMPT, 4))


def test_a_row_is_over_after_its_end(model):
    writer = Writer(GATSDecoder(model), "action")
    free = generate(writer, PROMPT, 8, sampling=Sampling(1.0), generator=torch_generator(5))
    end = free[0, 2].item()
    ended = generate(writer, PROMPT, 8, sampling=Sampling(1.0), generator=torch_generator(5), end=end)
    first = free[0].tolist().index(end)
    assert torch.equal(ended[0, : first + 1], free[0, : first + 1])
    assert (ended[0, first:] == end).all()
    alone = free[1].tolist()
    stop = alone.index(end) + 1 if end in alone else 8
    assert torch.equal(ended[1, :stop], free[1, :stop]), "a row that is over changes no other"
    assert ended.shape == (2, 8)


def test_it_stops_when_all_rows_are_over(model):
    calls = []
    writer = Writer(GATSDecoder(model), "action", scores=lambda output: calls.append(0) or only(output, 3))
    ids = generate(writer, PROMPT, 50, end=3)
    assert (ids == 3).all()
    assert ids.shape == (2, 50)
    assert len(calls) == 1


def only(output, number):
    """Scores that leave one id."""
    scores = torch.full_like(output.logits, -9.0)
    scores[..., number] = 9.0
    return scores


def test_a_prompt_of_several_moments_is_that_of_one(model):
    writer = Writer(GATSDecoder(model), "action")
    parts = [
        Moment({name: PROMPT.inputs[name] for name in names}, {name: PROMPT.times[name] for name in names})
        for names in (("text", "vision"), ("action",))
    ]
    assert torch.equal(generate(writer, parts, 5), generate(writer, PROMPT, 5))


def test_a_writer_is_a_core_whose_state_can_be_copied(model):
    writer = Writer(GATSDecoder(model), "action", guidance=Guidance("text", 1.0))
    assert isinstance(writer, Core)
    scores, state = writer.step(PROMPT, writer.initial_state(2))
    assert scores.shape == (2, VOCABULARY)
    swapped = state.select(torch.tensor([1, 0]))
    later = Moment(
        {"action": {"input_ids": torch.tensor([[4], [5]])}}, {"action": torch.tensor([[5.0], [5.0]])}
    )
    back = Moment({"action": {"input_ids": torch.tensor([[5], [4]])}}, later.times)
    assert torch.allclose(writer.step(later, state)[0], writer.step(back, swapped)[0].flip(0), atol=1e-4)
    silent = Moment({"vision": PROMPT.inputs["vision"]}, {"vision": torch.full((2, 1), 6.0)})
    assert writer.step(silent, state)[0] is None


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda d: Writer(d, "actoin"), "did you mean action"),
        (lambda d: Writer(d, "vision"), "'vision': expected a steered"),
        (lambda d: Writer(d, "action", guidance=Guidance("txt")), "did you mean text"),
        (lambda d: Writer(d, "action", guidance=Guidance("action")), "another component"),
        (lambda d: generate(Writer(d, "action"), PROMPT, 0), "count"),
        (lambda d: generate(Writer(d, "action"), PROMPT, 1, interval=0.0), "interval"),
        (lambda d: generate(Writer(d, "action"), [], 1), "last moment"),
        (lambda d: generate(Writer(d, "action"), Moment({}, {}), 1), "last moment"),
        (lambda d: generate(Writer(d, "action"), PROMPT, 1, sampling=Sampling(1.0)), "generator"),
        (lambda d: logits_of(torch.zeros(1)), "scores="),
    ],
)
def test_bad_input_is_named(model, call, message):
    with pytest.raises(UserError, match=message):
        call(GATSDecoder(model))
