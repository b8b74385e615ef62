"""Captions and drawings of scenes that no training had: how many are right; whether the text model is as it was."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from factotum.core.seeding import numpy_generator, torch_generator
from factotum.gats.decode import GATSDecoder, Moment
from factotum.gats.generate import Writer, generate, logits_of
from factotum.gats.model import GATS
from factotum.gats.picture_codes import PictureCodes
from factotum.gats.sampling import Guidance, Sampling
from factotum.losses.likelihood import token_loss
from factotum.recipes.scene_data import (
    BEHIND,
    FIRST_EVALUATION_SEED,
    begin_id,
    pictures_of,
    scene_batch,
    sentence_ids,
    sentence_of,
)
from factotum.recipes.scene_file import SceneComposition
from factotum.recipes.scene_judge import Judge, attributes_right, slots_of
from factotum.training.progress import Progress
from factotum.training.statistics import mean, stratified_bootstrap
from factotum.worlds.suites.scenes import caption_score, captioned, plain_sentence

LONGEST = 14
"""Words of a caption at most, its end included."""


def evaluate_scenes(
    file: SceneComposition, model: GATS, codes: PictureCodes, judge: Judge, text_alone: nn.Module
) -> dict[str, Any]:
    """Exact captions, recognised attributes at each guidance, and the text model's perplexity before and after.

    Args:
        file: the composition.
        model: trained.
        codes: makes pictures of ids.
        judge: independent of all others.
        text_alone: the text model as it was before.
    """
    wanted, arms = file.evaluation, {}
    seeds = [FIRST_EVALUATION_SEED + k for k in range(wanted.episodes)]
    runs: dict[str, Callable[[list[int]], list[float]]] = {}
    if "caption" in file.scenes.directions:
        runs["caption"] = lambda part: [
            caption_score(said, captioned(seed)[1]) == 1.0
            for said, seed in zip(captions(model, codes, part), part, strict=True)
        ]
    if "draw" in file.scenes.directions:
        runs["codes"] = lambda part: _judged(judge, codes.decode(codes.encode(pictures_of(part))), part)
        for weight in wanted.guidance if file.training.hidden.get("text") else (0.0,):
            label = "draw" + (f" w={weight:g}" if weight else "")
            runs[label] = lambda part, w=weight: _judged(  # type: ignore[misc]
                judge, codes.decode(drawings(file, model, codes, part, w)), part
            )
    with Progress(len(runs) * len(seeds), "evaluate", "scenes") as bar:
        for label, run in runs.items():
            values: list[float] = []
            for start in range(0, len(seeds), wanted.batch):
                values += run(seeds[start : start + wanted.batch])
                bar.advance(len(values) - start, note=label)
            arms[label] = _arm(label, np.array(values, float))
    before, after = perplexity(text_alone), perplexity(model.towers["text"].module)
    return {"arms": arms, "perplexity": {"before": before, "after": after, "same": before == after}}


def _arm(label: str, values: np.ndarray) -> dict[str, Any]:
    found = {"success": float(values.mean()), "score": float(values.mean()), "length": 0.0}
    return {
        "split": label, "success": found["success"], "interval": stratified_bootstrap([values], mean),
        "episodes": len(values), "tasks": {"scenes": found},
    }  # fmt: skip


def captions(model: GATS, codes: PictureCodes, seeds: Sequence[int]) -> list[str]:
    """What the model says of the pictures of some seeds."""
    batch = scene_batch(
        ["a"] * len(seeds),
        codes.encode(pictures_of(seeds)),
        ["caption"] * len(seeds),
        codes.config.vocabulary,
    )
    begin = torch.full((len(seeds), 1), begin_id())
    prompt = Moment(
        {"pictures": batch.inputs["pictures"], "text": {"input_ids": begin}},
        {
            "pictures": batch.times["pictures"],
            "text": torch.full((len(seeds), 1), BEHIND, dtype=torch.float64),
        },
    )
    prompt = _on(prompt, model)
    ids = generate(Writer(GATSDecoder(model), "text"), prompt, LONGEST, end=begin_id() + 1)
    return [sentence_of(row) for row in ids.tolist()]


def drawings(
    file: SceneComposition, model: GATS, codes: PictureCodes, seeds: Sequence[int], weight: float = 0.0
) -> Tensor:
    """What the model draws of the captions of some seeds, `R P`; `codes.decode` makes pictures of it."""
    ids, there = sentence_ids([captioned(seed)[1] for seed in seeds])
    times = torch.arange(ids.shape[1], dtype=torch.float64).expand(len(seeds), -1)
    begin = torch.full((len(seeds), 1), codes.config.vocabulary)
    prompt = Moment(
        {"pictures": {"input_ids": begin}, "text": {"input_ids": ids}},
        {
            "pictures": torch.full((len(seeds), 1), BEHIND, dtype=torch.float64),
            "text": times.masked_fill(~there, float("nan")),
        },
    )
    wanted = file.evaluation
    writer = Writer(
        GATSDecoder(model), "pictures", guidance=Guidance("text", weight) if weight else None,
        scores=lambda output: logits_of(output)[..., : codes.config.vocabulary],
    )  # fmt: skip
    drawn = generate(
        writer, _on(prompt, model), codes.config.codes,
        sampling=Sampling(wanted.temperature, wanted.top_k or None), generator=torch_generator("draw", seeds[0]),
    )  # fmt: skip
    return drawn.cpu()


def _on(moment: Moment, model: GATS) -> Moment:
    device = next(model.parameters()).device
    inputs = {n: {k: x.to(device) for k, x in given.items()} for n, given in moment.inputs.items()}  # type: ignore[union-attr]
    return Moment(inputs, {name: x.to(device) for name, x in moment.times.items()})


@torch.no_grad()
def _judged(judge: Judge, pixels: Tensor, seeds: Sequence[int]) -> list[float]:
    given = judge(pixels.clamp(-1, 1)).tolist()
    return [
        attributes_right(row, slots_of(captioned(seed)[0])) for row, seed in zip(given, seeds, strict=True)
    ]


@torch.no_grad()
def perplexity(text: nn.Module, sentences: int = 200) -> float:
    """Of plain sentences that no picture goes with."""
    generator = numpy_generator("plain", FIRST_EVALUATION_SEED)
    ids, there = sentence_ids([plain_sentence(generator) for _ in range(sentences)])
    device = next(text.parameters()).device
    scores = logits_of(text.eval()(input_ids=ids[:, :-1].to(device))).cpu()
    return math.exp(float(token_loss(scores[there[:, 1:]], ids[:, 1:][there[:, 1:]]).double().mean()))


def shown_scenes(
    file: SceneComposition, model: GATS, codes: PictureCodes, count: int = 6
) -> list[tuple[np.ndarray, str, np.ndarray | None, str]]:
    """Of some scenes the picture, its caption, what was drawn of the caption, what was said of the picture."""
    seeds = [FIRST_EVALUATION_SEED + k for k in range(count)]
    said = captions(model, codes, seeds) if "caption" in file.scenes.directions else [""] * count
    drawn: list[np.ndarray | None] = [None] * count
    if "draw" in file.scenes.directions:
        weight = file.evaluation.guidance[-1] if file.training.hidden else 0.0
        pixels = codes.decode(drawings(file, model, codes, seeds, weight))
        drawn = [(x.clamp(-1, 1).permute(1, 2, 0).numpy() + 1) / 2 for x in pixels]
    return [
        (captioned(seed)[2], captioned(seed)[1], picture, words)
        for seed, picture, words in zip(seeds, drawn, said, strict=True)
    ]
