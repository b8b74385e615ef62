"""Spaces, episodes and small models that the tests of this folder share."""

import numpy as np
import pytest
import torch
from gymnasium import spaces

from factotum.data.episode import Episode
from factotum.gato.config import GatoConfig, Vocabulary
from factotum.gato.dataset import TaskData, pool_statistics, train_tokenizer, write_task_shard
from factotum.gato.model import Gato
from factotum.gato.text import TextTokenizer

TEXT = spaces.Text(64, charset="abcdefghijklmnopqrstuvwxyz ")
OBSERVATIONS = {
    "grid": spaces.Dict(instruction=TEXT, grid=spaces.MultiDiscrete([5, 4, 3]), way=spaces.Discrete(4)),
    "arm": spaces.Dict(instruction=TEXT, state=spaces.Box(-np.inf, np.inf, (6,), np.float32)),
    "picture": spaces.Dict(instruction=TEXT, image=spaces.Box(0, 255, (32, 32, 3), np.uint8)),
    "pixels": spaces.Dict(image=spaces.Box(0, 255, (20, 16, 1), np.uint8), state=spaces.Box(-1, 1, (2,))),
}
ACTIONS = {
    "grid": spaces.Discrete(7),
    "arm": spaces.Box(-1, 1, (4,), np.float32),
    "picture": TEXT,
    "pixels": spaces.Dict(a=spaces.MultiDiscrete([3, 2]), b=spaces.Box(-2, 3, (2,), np.float32)),
}
WORDS = ["go to the red ball", "open the door", "a blue square", "pick up a key"]


def sample(space, generator, steps):
    """`steps` values of a space as arrays with a leading axis of time."""
    if isinstance(space, spaces.Dict):
        return {key: sample(space[key], generator, steps) for key in sorted(space)}
    if isinstance(space, spaces.Text):
        return [str(generator.choice(WORDS))] * steps
    if isinstance(space, spaces.Box) and not np.isfinite(space.low).all():
        return generator.normal(size=(steps, *space.shape)).astype(np.float32)
    space.seed(int(generator.integers(2**31)))
    return np.stack([space.sample() for _ in range(steps)])


def episode(kind, seed, steps):
    generator = np.random.default_rng(seed)
    zeros = np.zeros(steps, bool)
    return Episode(
        sample(OBSERVATIONS[kind], generator, steps + 1),
        sample(ACTIONS[kind], generator, steps),
        zeros * 1.0,
        zeros,
        zeros,
    )


def small(tokens, positions="rotary", **changes):
    sizes = {"layers": 2, "width": 32, "heads": 2, "head_size": 16, "feed_forward": 64, "context": 96}
    sizes |= {"patch_channels": 8, "vocabulary": Vocabulary(text_size=1024), "stochastic_depth": 0.0}
    return GatoConfig(tokens=tokens, positions=positions, **{**sizes, **changes})


@pytest.fixture(scope="session")
def shards(tmp_path_factory):
    folder = tmp_path_factory.mktemp("shards")
    made = {}
    for kind in OBSERVATIONS:
        steps = 1 if kind == "picture" else 9
        made[kind] = write_task_shard(
            folder / kind,
            (episode(kind, seed, steps + seed % 3 * (kind != "picture")) for seed in range(6)),
            task=kind,
            body=kind,
            observation_space=OBSERVATIONS[kind],
            action_space=ACTIONS[kind],
        )
    return made


@pytest.fixture(scope="session")
def statistics(shards):
    return pool_statistics(shards.values())


@pytest.fixture(scope="session")
def tokenizer(shards) -> TextTokenizer:
    return train_tokenizer(shards.values(), 300)


def make_model(tokens, tokenizer, statistics, positions="rotary", **changes):
    torch.manual_seed(0)
    model = Gato(small(tokens, positions, **changes), tokenizer, statistics)
    for name, parameter in model.named_parameters():
        if parameter.dim() >= 2 and "codes" not in name:
            torch.nn.init.normal_(parameter, std=0.2)
    return model.eval()


def open_tasks(shards, config, tokenizer, statistics):
    return {
        kind: TaskData.open(shard, kind == "picture", config, tokenizer, statistics)
        for kind, shard in shards.items()
    }
