"""The agent does in a batch of environments what the forward says of whole episodes; a small world is learnt."""

import numpy as np
import pytest
import torch
from gymnasium import spaces

from factotum.core.checks import UserError
from factotum.core.step import Core
from factotum.gats import GATS, Component
from factotum.gats.actions import ActionTokens
from factotum.gats.agent import GATSAgent
from factotum.gats.baselines import CrossAttention
from factotum.gats.decode import Moment
from factotum.gats.objective import GATSBatch, GATSObjective
from factotum.gats.sampling import Guidance, Sampling
from tests.gats.families import BY_NAME, TOKENS, Rowwise, wake

SPACE = spaces.MultiDiscrete([5, 3])
ACTIONS = ActionTokens(SPACE)


def make_model(kind=GATS, seed=0):
    components = {
        "text": BY_NAME["llama"].component(seed, window=4),
        "eyes": BY_NAME["rowwise"].component(seed + 1, window=6, bidirectional=True),
        "action": BY_NAME["gpt2"].component(seed + 2, window=4, steered=True, frozen=False),
    }
    return wake(kind(components, layers=3, width=16, heads=2), std=0.5).eval()


def observe(observations, steps):
    """An observation is (instruction, picture): the instruction comes in an episode's first step alone."""
    inputs = {"eyes": {"x": torch.stack([torch.as_tensor(picture) for _, picture in observations])}}
    times = {"eyes": torch.from_numpy(steps).double()[:, None]}
    if (steps == 0).any():
        inputs["text"] = {"input_ids": torch.tensor([list(text) for text, _ in observations])}
        times["text"] = torch.where(torch.from_numpy(steps) == 0, 0.0, torch.nan)[:, None].expand(-1, 3)
    return Moment(inputs, times)


def episodes(rows, steps, seed=0):
    generator = torch.Generator().manual_seed(seed)
    texts = torch.randint(3, 40, (rows, 3), generator=generator).tolist()
    pictures = torch.randn(rows, steps, 2, 6, generator=generator)
    return [[(texts[b], pictures[b, k]) for k in range(steps)] for b in range(rows)]


def likeliest(model, episode, actions):
    """What the forward over a whole episode says at each id, whatever is said there."""
    N = len(actions)
    ids = torch.tensor(np.stack([ACTIONS.encode(action) for action in actions]))[None]
    read, _ = ACTIONS.taught(ids)
    steps = torch.arange(float(N))[None]
    inputs = {
        "text": {"input_ids": torch.tensor([episode[0][0]])},
        "eyes": {"x": torch.stack([picture for _, picture in episode])},
        "action": {"input_ids": read},
    }
    times = {"text": torch.zeros(1, 3), "eyes": steps, "action": ACTIONS.times(steps)}
    with torch.no_grad():
        logits = model(inputs, times)["action"].logits[0].unflatten(0, (N, 2))
    return [[logits[k, j, :n].argmax().item() for j, n in enumerate(ACTIONS.counts)] for k in range(N)]


def play(agent, rows, starts):
    """Feed episodes to rows; `starts[b]` are the steps at which row b begins its next one."""
    state, played = agent.initial_state(len(rows)), [[] for _ in rows]
    place = [-1] * len(rows)
    for k in range(sum(len(episode) for episode in rows[0])):
        first, seen = [], []
        for b, row in enumerate(rows):
            if k in starts[b]:
                place[b] += 1
                played[b].append([])
                begin = k
                starts[b] = {**starts[b], "at": begin}
            first.append(k in starts[b])
            seen.append(row[place[b]][k - starts[b]["at"]])
        actions, state = agent.step((seen, first), state)
        for b, action in enumerate(actions):
            played[b][-1].append(action)
    return played


@pytest.mark.parametrize("kind", [GATS, CrossAttention])
def test_the_agent_does_what_the_forward_says_of_whole_episodes(kind):
    model = make_model(kind)
    rows = [
        [*episodes(1, 4, seed=0), *episodes(1, 6, seed=1)],
        [*episodes(1, 7, seed=2), *episodes(1, 3, seed=3)],
    ]
    played = play(GATSAgent(model, observe, ACTIONS), rows, [{0: True, 4: True}, {0: True, 7: True}])
    for row, actions in zip(rows, played, strict=True):
        for episode, done in zip(row, actions, strict=True):
            assert [list(action) for action in done] == likeliest(model, episode, done)
            assert all(SPACE.contains(action) for action in done)


def test_drawn_actions_come_from_the_seed_and_differ_from_the_likeliest():
    model, row = make_model(), [episodes(1, 8)]
    runs = [
        play(GATSAgent(model, observe, ACTIONS, sampling=Sampling(3.0), seed=seed), row, [{0: True}])
        for seed in (0, 0, 1)
    ]
    assert np.array_equal(runs[0], runs[1])
    assert not np.array_equal(runs[0], runs[2])
    assert [list(a) for a in runs[0][0][0]] != likeliest(model, row[0][0], runs[0][0][0])


def test_guidance_by_the_instruction_changes_what_is_done():
    model, row = make_model(), [episodes(1, 8)]
    plain, guided, none = (
        play(GATSAgent(model, observe, ACTIONS, guidance=guidance), row, [{0: True}])
        for guidance in (None, Guidance("text", 30.0), Guidance("text", 0.0))
    )
    assert np.array_equal(plain, none)
    assert not np.array_equal(plain, guided)


def test_an_observer_that_acts_is_refused():
    def wrong(observations, steps):
        return Moment({"action": {"input_ids": torch.zeros(1, 1).long()}}, {"action": torch.zeros(1, 1)})

    agent = GATSAgent(make_model(), wrong, ACTIONS)
    assert isinstance(agent, Core)
    with pytest.raises(UserError, match="other components than 'action'"):
        agent.step(([None], [True]), agent.initial_state(1))


def test_a_world_is_learnt_and_played():
    """Say the number that frozen eyes were shown a step ago: features reach the actions, and memory lasts a step."""
    transformers = pytest.importorskip("transformers")
    torch.manual_seed(0)
    config = transformers.GPT2Config(
        n_embd=16, n_layer=2, n_head=2, n_positions=16, **TOKENS | {"vocab_size": 5}
    )
    components = {
        "eyes": Component(Rowwise(depth=2), window=2, bidirectional=True),
        "action": Component(transformers.GPT2LMHeadModel(config), window=2, steered=True, frozen=False),
    }
    model = GATS(components, layers=2, width=16, heads=2)
    tokens, pictures = ActionTokens(spaces.Discrete(4)), torch.randn(4, 1, 6)
    optimizer = torch.optim.Adam([p for p in model.parameters() if p.requires_grad], 1e-2)
    steps = torch.arange(6.0).expand(32, -1)
    for _ in range(60):
        shown = torch.randint(4, (32, 6))
        due = torch.cat([torch.zeros_like(shown[:, :1]), shown[:, :-1]], 1)
        read, said = tokens.taught(due[..., None])
        batch = GATSBatch(
            {"eyes": {"x": pictures[shown].flatten(0, 1)}, "action": {"input_ids": read}},
            {"eyes": steps, "action": tokens.times(steps)},
            {"action": said},
        )
        loss, _, _ = GATSObjective()(model.train(), batch)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    agent = GATSAgent(
        model,
        lambda seen, at: Moment(
            {"eyes": {"x": pictures[list(seen)]}}, {"eyes": torch.from_numpy(at).double()[:, None]}
        ),
        tokens,
    )
    state, last, right = agent.initial_state(8), None, []
    for k in range(6):
        shown = torch.randint(4, (8,)).tolist()
        actions, state = agent.step((shown, [k == 0] * 8), state)
        right += [a == b for a, b in zip(actions, last, strict=True)] if last else []
        last = shown
    assert np.mean(right) > 0.9
