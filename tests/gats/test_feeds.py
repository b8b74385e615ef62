"""What components read when acting is what they read in training: the agent says what the forward says."""

import numpy as np
import pytest
import torch
from gymnasium import spaces

from factotum.gats import GATS, Component
from factotum.gats.actions import ActionTokens
from factotum.gats.agent import GATSAgent
from factotum.gats.episodes import EpisodeBatches
from factotum.gats.feeds import (
    ActionFeed,
    InstructionFeed,
    PictureFeed,
    StateFeed,
    Windows,
    observe_with,
    pixels,
)
from factotum.gats.objective import IGNORED
from factotum.gats.parts import PartConfig, make_part
from factotum.gats.words import WordTable
from tests.gats.families import wake

TOKENS = ActionTokens(spaces.MultiDiscrete([4, 3]))
TABLE = WordTable.of(["go to the red ball", "open it"])
STEPS = 5


def feeds(every=1, repeat=0):
    return {
        "text": InstructionFeed(TABLE, repeat),
        "vision": PictureFeed("image", 16, every),
        "state": StateFeed("state", np.array([1.0, 0.0]), np.array([2.0, 1.0])),
        "action": ActionFeed(TOKENS),
    }


def model(seed=0):
    pytest.importorskip("transformers")
    torch.manual_seed(seed)
    make = {
        "text": PartConfig("sentence-encoder", width=8, depth=2, heads=2, vocabulary=TABLE.size),
        "vision": PartConfig("vision-encoder", width=8, depth=2, heads=2, image=16, patch=8),
        "state": PartConfig("state-encoder", width=8, depth=2, heads=2, size=2),
        "action": PartConfig("decoder", width=8, depth=3, heads=2, vocabulary=TOKENS.size),
    }
    windows = {"text": 5, "vision": 4, "state": 2, "action": 3}
    parts = {
        name: Component(
            make_part(config),
            windows[name],
            steered=name == "action",
            frozen=name != "action",
            bidirectional=name != "action",
        )
        for name, config in make.items()
    }
    return wake(GATS(parts, layers=2, width=16, heads=2), std=0.5).eval()


def episodes(rows=2, seed=0):
    """Two episodes of different lengths; of observation k of row b."""
    generator = np.random.default_rng(seed)
    texts = ["go to the red ball", "open it"]
    return [
        [
            {
                "instruction": texts[b],
                "image": generator.integers(0, 256, (20, 18, 3)).astype(np.uint8),
                "state": generator.normal(size=2).astype(np.float32),
            }
            for _ in range(STEPS - b)
        ]
        for b in range(rows)
    ]


def windows_of(rows, actions):
    T = max(map(len, rows))
    columns = {
        key: np.stack([np.stack([row[min(k, len(row) - 1)][key] for k in range(T)]) for row in rows])
        for key in ("image", "state")
    }
    columns["action"] = np.asarray(actions)
    return Windows([row[0]["instruction"] for row in rows], np.array([len(row) for row in rows]), columns)


@pytest.mark.parametrize("every", [1, 2])
def test_acting_is_what_was_trained(every):
    joined, mine, rows = model(), feeds(every), episodes()
    agent = GATSAgent(joined, observe_with(mine), TOKENS, context={"action": 2 * STEPS})
    state, actions = agent.initial_state(2), []
    for k in range(STEPS):
        observations = [row[min(k, len(row) - 1)] for row in rows]
        found, state = agent.step((observations, [k == 0] * 2), state)
        actions.append(found)
    chosen = np.stack([[step[b] for step in actions] for b in range(2)])
    given = {name: feed.taught(windows_of(rows, chosen)) for name, feed in mine.items()}
    inputs, times = ({n: part[at] for n, part in given.items()} for at in (0, 1))
    with torch.no_grad():
        logits = joined(inputs, times)["action"].logits
    for b, row in enumerate(rows):
        for k in range(len(row)):
            for number, count in enumerate(TOKENS.counts):
                said = logits[b, 2 * k + number, :count].argmax().item()
                assert said == chosen[b, k, number], (b, k, number)


def test_what_is_behind_the_end_is_neither_read_nor_taught():
    joined, mine, rows = model(), feeds(), episodes()
    actions = np.zeros((2, STEPS, 2), np.int64)
    one, other = windows_of(rows, actions), windows_of(rows, actions)
    other.columns["image"][1, 4], other.columns["state"][1, 4], other.columns["action"][1, 4] = 7, 7.0, 1
    outputs = []
    for windows in (one, other):
        given = {name: feed.taught(windows) for name, feed in mine.items()}
        inputs, times = ({n: part[at] for n, part in given.items()} for at in (0, 1))
        with torch.no_grad():
            outputs.append(joined(inputs, times)["action"].logits)
    assert torch.equal(outputs[0][1, :8], outputs[1][1, :8])
    assert torch.equal(outputs[0][0], outputs[1][0])
    targets = mine["action"].targets(other)
    assert (targets[1, 8:] == IGNORED).all()
    assert (targets[:, :8] == 0).all()


def test_the_instruction_comes_again():
    feed, rows = InstructionFeed(TABLE, every=3), episodes()
    observations = [row[0] for row in rows]
    assert feed.observed(observations, np.array([1, 2])) is None
    _, times = feed.observed(observations, np.array([3, 4]))
    assert times[0].tolist() == [3.0] * 5
    assert times[1].isnan().all()


def test_pictures_are_cut_and_scaled():
    frame = np.zeros((1, 4, 4, 1), np.uint8)
    frame[0, 0, 1], frame[0, 3, 3] = 255, 255
    assert pixels(frame, 2).tolist() == [[[[-1.0, 1.0], [-1.0, -1.0]]]]


def test_batches_need_rows():
    with pytest.raises(ValueError, match="expected shards"):
        EpisodeBatches([], feeds())
