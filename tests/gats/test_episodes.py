"""Windows of recorded episodes: the steps that were recorded, drawn by seed and step alone."""

from itertools import pairwise

import numpy as np
import pytest
import torch
from gymnasium import spaces

from factotum.core.checks import UserError
from factotum.data.episode import Episode
from factotum.gats.actions import ActionTokens
from factotum.gats.episodes import GROUP, EpisodeBatches, moments, write_episodes
from factotum.gats.feeds import ActionFeed, InstructionFeed, StateFeed
from factotum.gats.words import WordTable

TABLE = WordTable.of(["task a", "task b", "said otherwise"])
LENGTHS = (3, 9, 5)


def shards(folder):
    made = []
    for which, name in enumerate("ab"):
        episodes = []
        for number, length in enumerate(LENGTHS):
            state = np.full((length + 1, 1), 100.0 * which + 10 * number) + np.arange(length + 1)[:, None]
            seen = {"instruction": [f"task {name}"] * (length + 1), "state": state}
            zeros = np.zeros(length, bool)
            episodes.append(Episode(seen, np.arange(length) % 4, zeros * 1.0, zeros, zeros))
        made.append(write_episodes(folder / name, episodes, ["state"], {"task": name}))
    return made


def batches(folder, **changes):
    feeds = {
        "text": InstructionFeed(TABLE),
        "state": StateFeed("state", np.zeros(1), np.ones(1)),
        "action": ActionFeed(ActionTokens(spaces.Discrete(4))),
    }
    return EpisodeBatches(shards(folder), feeds, **{"rows": 32, "steps": 6, **changes})


def test_windows_are_steps_in_a_row(tmp_path):
    windows = batches(tmp_path).windows(np.random.default_rng(0))
    assert set(windows.lengths_B) == {3, 5, 6}
    for row, length in enumerate(windows.lengths_B):
        states, actions = windows.columns["state"][row, :length, 0], windows.columns["action"][row, :length]
        assert (np.diff(states) == 1).all()
        assert (actions == states % 10 % 4).all()
        assert windows.texts[row] == ("task b" if states[0] >= 100 else "task a")
    starts = {windows.columns["state"][row, 0, 0] % 10 for row in range(32) if windows.lengths_B[row] == 6}
    assert starts == {0, 1, 2, 3}  # of the episode of nine steps
    assert {text for text in windows.texts} == {"task a", "task b"}


def test_batches_depend_on_seed_and_step_alone(tmp_path):
    def states(source):
        return [source(step).inputs["state"]["state"] for step in range(GROUP)]

    one, again, other = batches(tmp_path), batches(tmp_path), batches(tmp_path, seed=1)
    assert all(map(torch.equal, states(one), states(again)))
    assert not all(map(torch.equal, states(one), states(other)))
    assert not torch.equal(one(3).inputs["state"]["state"], one(4).inputs["state"]["state"])
    assert one(3).tokens == sum(int(n) for n in (one(3).targets["action"] >= 0).sum(1))


def test_a_group_of_batches_is_dealt_out_by_length(tmp_path):
    source = batches(tmp_path, rows=8)
    lengths = [(source(step).targets["action"] >= 0).sum(1) for step in range(2 * GROUP)]
    padding = sum(len(n) * int(n.max()) - int(n.sum()) for n in lengths)
    assert padding < 0.1 * sum(int(n.sum()) for n in lengths)
    for group in (lengths[:GROUP], lengths[GROUP:]):
        dealt = sorted(group, key=lambda n: (int(n.max()), int(n.min())))
        assert all(int(short.max()) <= int(long.min()) for short, long in pairwise(dealt))
        assert sum(map(len, group)) == 8 * GROUP
    longest = [int(n.max()) for n in lengths]
    assert longest[:GROUP] != sorted(longest[:GROUP])


def test_ranks_get_other_windows_of_like_lengths(tmp_path):
    source = batches(tmp_path, rows=8)
    pairs = [[source(step, rank, 2) for rank in (0, 1)] for step in range(GROUP)]
    states = [[batch.inputs["state"]["state"] for batch in pair] for pair in pairs]
    assert not all(torch.equal(one, two) for one, two in states)
    assert sum(abs(one.tokens - two.tokens) for one, two in pairs) < 0.2 * sum(one.tokens for one, _ in pairs)


def test_instructions_are_said_otherwise(tmp_path):
    def rewrite(text, generator):
        return "said otherwise" if generator.random() < 0.5 else text

    texts = batches(tmp_path, rewrite=rewrite).windows(np.random.default_rng(0)).texts
    assert set(texts) == {"task a", "task b", "said otherwise"}


def test_moments_of_a_column(tmp_path):
    mean, spread = moments(shards(tmp_path), "state")
    values = np.concatenate([np.arange(n) + 10 * k + 100 * w for w in (0, 1) for k, n in enumerate(LENGTHS)])
    assert mean == pytest.approx([values.mean()])
    assert spread == pytest.approx([values.std()])


def test_a_missing_observation_is_named(tmp_path):
    zeros = np.zeros(2, bool)
    episode = Episode({"instruction": ["go"] * 3}, np.zeros(2), zeros * 1.0, zeros, zeros)
    with pytest.raises(UserError, match="toy: expected observations with 'image', got instruction"):
        write_episodes(tmp_path / "x", [episode], ["image"], {"task": "toy"})
