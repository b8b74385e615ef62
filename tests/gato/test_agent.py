"""Acting step by step equals the parallel pass of training; only legal actions come out; prompts count."""

import numpy as np
import pytest
import torch

from factotum.core.checks import UserError
from factotum.gato.agent import GatoAgent
from factotum.gato.sequence import join
from factotum.gato.statistics import Statistics
from tests.gato.samples import ACTIONS, OBSERVATIONS, episode, make_model, open_tasks


def at(values, t):
    if isinstance(values, dict):
        return {key: at(values[key], t) for key in values}
    return values[t]


def stepwise_logits(model, kind, demonstration):
    """Logits of the agent's path while the demonstration's own actions are forced on it."""
    agent = GatoAgent(model, kind, OBSERVATIONS[kind], ACTIONS[kind])
    seen = []
    forced = iter([])
    original = agent._choose

    def choose(logits, start, stop):
        seen.append(logits)
        return np.array([next(forced)]) if forced else original(logits, start, stop)

    agent._choose = choose
    state = agent.initial_state(1)
    from factotum.gato.tokens import encode

    for t in range(len(demonstration)):
        coded = encode(
            ACTIONS[kind],
            at(demonstration.actions, t),
            model.config.vocabulary,
            role="action",
            tokenizer=model.tokenizer,
        )
        forced = iter(np.concatenate([leaf.ids[0] for leaf in coded]).tolist())
        _, state = agent.step(([at(demonstration.observations, t)], [t == 0]), state)
    return torch.cat(seen)


@pytest.mark.parametrize("positions", ["rotary", "relative"])
@pytest.mark.parametrize("tokens", ["scalar", "fused"])
@pytest.mark.parametrize("kind", list(OBSERVATIONS))
def test_stepwise_path_equals_parallel_path(kind, tokens, positions, shards, tokenizer, statistics):
    model = make_model(tokens, tokenizer, statistics, positions, context=400)
    task = open_tasks(shards, model.config, tokenizer, statistics)[kind]
    count = int(task.shard.offsets[1])
    steps = task.steps(np.arange(count)[None], np.ones((1, count), bool), np.zeros((1, count), int))
    batch = join([(kind, steps)], model.config)
    with torch.no_grad():
        parallel = model(batch)
    order = np.lexsort((batch.target_slot_M.numpy(), batch.target_where_M.numpy()))
    if tokens == "scalar":  # text observations are targets too; the agent predicts actions alone
        actions = int((steps.actions != -1).sum())
        order = np.sort(np.arange(actions))
    expected = parallel[torch.from_numpy(order)]
    torch.testing.assert_close(
        stepwise_logits(model, kind, episode(kind, 0, count)), expected, atol=2e-4, rtol=1e-3
    )


@pytest.mark.parametrize("temperature", [0.0, 1.0])
@pytest.mark.parametrize("tokens", ["scalar", "fused"])
@pytest.mark.parametrize("kind", list(OBSERVATIONS))
def test_only_legal_actions(kind, tokens, temperature, tokenizer, statistics):
    model = make_model(tokens, tokenizer, statistics)
    agent = GatoAgent(model, kind, OBSERVATIONS[kind], ACTIONS[kind], temperature=temperature)
    state = agent.initial_state(3)
    demonstration = episode(kind, 1, 4)
    for t in range(4):
        first = [t == 0, t in (0, 2), t == 0]
        actions, state = agent.step(([at(demonstration.observations, t)] * 3, first), state)
        assert all(ACTIONS[kind].contains(action) for action in actions), actions


@pytest.mark.parametrize("tokens", ["scalar", "fused"])
def test_rows_do_not_touch_one_another(tokens, tokenizer, statistics):
    model = make_model(tokens, tokenizer, statistics)
    agent = GatoAgent(model, "arm", OBSERVATIONS["arm"], ACTIONS["arm"])
    one, other = episode("arm", 1, 12), episode("arm", 2, 12)
    alone, together = agent.initial_state(1), agent.initial_state(2)
    for t in range(12):
        expected, alone = agent.step(([at(one.observations, t)], [t == 0]), alone)
        got, together = agent.step(
            ([at(one.observations, t), at(other.observations, t)], [t == 0, t in (0, 5)]), together
        )
        np.testing.assert_allclose(got[0], expected[0])


def test_prompt_changes_what_is_done_and_reset_brings_it_back(tokenizer, statistics):
    model = make_model("fused", tokenizer, statistics)
    observation = at(episode("arm", 3, 1).observations, 0)
    plain = GatoAgent(model, "arm", OBSERVATIONS["arm"], ACTIONS["arm"])
    prompted = GatoAgent(model, "arm", OBSERVATIONS["arm"], ACTIONS["arm"], prompts=[episode("arm", 4, 9)])
    bare, _ = plain.step(([observation], [True]), plain.initial_state(1))
    first, state = prompted.step(([observation], [True]), prompted.initial_state(1))
    again, _ = prompted.step(([observation], [True]), state)
    assert not np.allclose(bare[0], first[0])
    np.testing.assert_array_equal(first[0], again[0])


def test_bad_observations_and_missing_statistics_are_named(tokenizer, statistics):
    model = make_model("fused", tokenizer, statistics)
    agent = GatoAgent(model, "arm", OBSERVATIONS["arm"], ACTIONS["arm"])
    bad = at(episode("arm", 3, 1).observations, 0)
    bad["state"] = np.full(6, np.nan, np.float32)
    with pytest.raises(UserError, match="arm/state: expected finite numbers, got nan"):
        agent.step(([bad], [True]), agent.initial_state(1))
    bad["state"] = np.zeros(5, np.float32)
    with pytest.raises(UserError, match=r"arm/state: expected shape \(6,\)"):
        agent.step(([bad], [True]), agent.initial_state(1))
    other = GatoAgent(
        make_model("fused", tokenizer, Statistics()), "arm", OBSERVATIONS["arm"], ACTIONS["arm"]
    )
    with pytest.raises(UserError, match="expected statistics"):
        other.step(([at(episode("arm", 3, 1).observations, 0)], [True]), other.initial_state(1))


def test_prompt_that_does_not_fit_is_refused(tokenizer, statistics):
    model = make_model("scalar", tokenizer, statistics, context=16)
    with pytest.raises(UserError, match="prompt for arm"):
        GatoAgent(model, "arm", OBSERVATIONS["arm"], ACTIONS["arm"], prompts=[episode("arm", 4, 3)])
