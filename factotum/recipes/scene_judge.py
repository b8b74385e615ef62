"""Who judges drawn scenes: a classifier of which shape of which colour stands at each place, trained on true pictures.

Letters: R pictures, Q = 8 questions: the shape and the colour at each of four places; 0 says that nothing is there.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor, nn

from factotum.core.files import write_json_atomic
from factotum.core.weights import read_sizes
from factotum.gats.parts import load_weights, save_weights
from factotum.worlds.suites.scenes_render import COLORS, PLACES, SHAPES, Thing

SYSTEM, FORMAT_VERSION = "scene-judge", 1
ANSWERS = (len(SHAPES) + 1, len(COLORS) + 1)


def slots_of(things: Sequence[Thing]) -> list[int]:
    """The true answers: shape and colour at each place, 0 where nothing is.

    >>> slots_of([Thing("red", "circle", "left")])
    [1, 1, 0, 0, 0, 0, 0, 0]
    """
    answers = dict.fromkeys(PLACES, (0, 0))
    for thing in things:
        answers[thing.place] = (list(SHAPES).index(thing.shape) + 1, list(COLORS).index(thing.color) + 1)
    return [number for pair in answers.values() for number in pair]


class Judge(nn.Module):
    """Convolutions, and one linear head for all questions.

    >>> Judge(8)(torch.zeros(2, 3, 64, 64)).shape
    torch.Size([2, 8])
    """

    def __init__(self, width: int) -> None:
        super().__init__()
        self.width = width
        layers: list[nn.Module] = []
        for place in range(4):
            layers += [
                nn.Conv2d(width if place else 3, width, 4, stride=2, padding=1),
                nn.GroupNorm(1, width),
                nn.SiLU(),
                nn.Conv2d(width, width, 3, padding=1),
                nn.SiLU(),
            ]
        self.body = nn.Sequential(*layers, nn.Flatten())
        self.head = nn.Linear(16 * width, len(PLACES) * sum(ANSWERS))

    def scores(self, pixels: Tensor) -> list[Tensor]:
        """Scores of the answers to each question, `R V` of each."""
        return list(self.head(self.body(pixels)).split(list(ANSWERS) * len(PLACES), 1))

    def forward(self, pixels: Tensor) -> Tensor:
        """The likeliest answer to each question, `R Q`."""
        return torch.stack([scores.argmax(1) for scores in self.scores(pixels)], 1)

    def judged(self, pixels: Tensor, answers_RQ: Tensor) -> tuple[Tensor, Tensor]:
        """Mean loss over questions, and the share of pictures whose every answer is right."""
        scores = self.scores(pixels)
        losses = [nn.functional.cross_entropy(one, answers_RQ[:, place]) for place, one in enumerate(scores)]
        given = torch.stack([one.argmax(1) for one in scores], 1)
        return torch.stack(losses).mean(), (given == answers_RQ).all(1).float().mean()

    def save_folder(self, folder: Path | str) -> None:
        """Write config.json and model.safetensors."""
        save_weights(self, folder)
        stored = {"format_version": FORMAT_VERSION, "system": SYSTEM, "config": {"width": self.width}}
        write_json_atomic(Path(folder) / "config.json", stored)

    @classmethod
    def load_folder(cls, folder: Path | str) -> Judge:
        """Read what `save_folder` wrote.

        Raises:
            UserError: no such folder, or another system's.
        """
        with torch.random.fork_rng(devices=[]):
            made = cls(**read_sizes(Path(folder), SYSTEM, FORMAT_VERSION))
        load_weights(made, folder)
        return made.eval()


def attributes_right(given: Sequence[int], truth: Sequence[int]) -> float:
    """Share of the true things' shapes and colours that stand where they should.

    >>> attributes_right([1, 1, 0, 0, 0, 0, 0, 0], [1, 2, 0, 0, 0, 0, 0, 0])
    0.5
    """
    asked = [place for place, answer in enumerate(truth) if answer]
    return sum(given[place] == truth[place] for place in asked) / len(asked)
