"""Training tokens a second: Gato beside a plain GPT of the same size in eager mode.

    python benchmarks/train_speed.py --quick

The plain model is written as nanoGPT writes it (torch.nn, fused attention, learned positions, tied head, GELU).
It has as many parameters as Gato by a wider feed-forward (`--same parameters`), or only as many in its blocks, none
for what Gato has beside them: patches, numbers, the slots of an action (`--same blocks`, harder for Gato). Its step
is nanoGPT's loop: forward, loss, backward, clip, AdamW; Gato's is the `Learner` that `factotum train` runs. Batches
are made beforehand, rows are full.

Batches: "text" has a loss at every position, as the plain model has; "control" has text, numbers and actions;
"mixed" adds images. Ratios are against the plain model in fp32, and against it under bf16 autocast.
"""

from __future__ import annotations

import os

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import cycle
from pathlib import Path
from typing import Literal

import numpy as np
import torch
import torch.nn.functional as F
import tyro
from _measure import interleaved, ratio, report
from torch import Tensor, nn

from factotum.core.config import to_json_dict
from factotum.gato import Gato, GatoConfig, GatoObjective, Vocabulary
from factotum.gato.sequence import Batch, Steps, join
from factotum.training.config import TrainConfig
from factotum.training.distributed import make_accelerator
from factotum.training.learner import Learner
from factotum.training.schedule import make_optimizer

SIZES = {
    "small": {"layers": 4, "width": 256, "heads": 4, "head_size": 64, "feed_forward": 1024, "context": 256},
    "medium": {"layers": 6, "width": 512, "heads": 8, "head_size": 64, "feed_forward": 2048, "context": 512},
    "79m": {},
}
"""Small is what `factotum train` takes by default; 79m is the paper's smallest."""

TEXT_SIZE = {"small": 1024, "medium": 8192, "79m": 32_000}


@dataclass(frozen=True)
class Args:
    """Measure training speed."""

    size: Literal["small", "medium", "79m"] = "small"
    """small is the default of `factotum train`, 79m the paper's"""
    batches: tuple[Literal["text", "control", "mixed"], ...] = ("text", "control", "mixed")
    """what Gato is trained on"""
    same: Literal["parameters", "blocks"] = "parameters"
    """what the plain model has as many of as Gato: parameters in all, or in its blocks"""
    tokens: int = 4096
    """positions in a batch"""
    repeats: int = 7
    """rounds that count"""
    updates: int = 3
    """updates of each contestant in a round"""
    threads: int = 2
    """CPU threads"""
    quick: bool = False
    """three rounds of two updates"""
    output: Path | None = None
    """JSON file; by default benchmarks/results/train_speed_<size>.json"""


class PlainBlock(nn.Module):
    """A block of nanoGPT without biases."""

    def __init__(self, width: int, heads: int, hidden: int) -> None:
        super().__init__()
        self.heads = heads
        self.ln_1, self.ln_2 = nn.LayerNorm(width, bias=False), nn.LayerNorm(width, bias=False)
        self.c_attn = nn.Linear(width, 3 * width, bias=False)
        self.c_proj = nn.Linear(width, width, bias=False)
        self.mlp = nn.Sequential(
            nn.Linear(width, hidden, bias=False), nn.GELU(), nn.Linear(hidden, width, bias=False)
        )

    def forward(self, x: Tensor) -> Tensor:
        """All positions at once."""
        B, T, D = x.shape
        heads = (
            z.view(B, T, self.heads, -1).transpose(1, 2) for z in self.c_attn(self.ln_1(x)).split(D, dim=2)
        )
        y = F.scaled_dot_product_attention(*heads, is_causal=True)
        x = x + self.c_proj(y.transpose(1, 2).contiguous().view(B, T, D))
        return x + self.mlp(self.ln_2(x))


class PlainGPT(nn.Module):
    """A plain GPT of the depth, width and context of a Gato; by default its blocks have as many parameters."""

    def __init__(self, config: GatoConfig, more_hidden: int = 0) -> None:
        super().__init__()
        self.wte = nn.Embedding(config.vocabulary.size, config.width)
        self.wpe = nn.Embedding(config.context, config.width)
        hidden = 3 * config.feed_forward // 4 + more_hidden
        self.blocks = nn.ModuleList(
            PlainBlock(config.width, config.heads, hidden) for _ in range(config.layers)
        )
        self.ln_f = nn.LayerNorm(config.width, bias=False)
        self.apply(self._initialise)

    @staticmethod
    def _initialise(module: nn.Module) -> None:
        if isinstance(module, nn.Linear | nn.Embedding):
            nn.init.normal_(module.weight, std=0.02)

    def forward(self, ids_BT: Tensor, next_BT: Tensor) -> Tensor:
        """The mean loss."""
        x = self.wte(ids_BT) + self.wpe(torch.arange(ids_BT.shape[1]))
        for block in self.blocks:
            x = block(x)
        logits = F.linear(self.ln_f(x), self.wte.weight)
        return F.cross_entropy(logits.view(-1, logits.shape[-1]), next_BT.reshape(-1))


def parameters(model: nn.Module) -> int:
    """Number of trainable parameters."""
    return sum(p.numel() for p in model.parameters())


def plain_model(config: GatoConfig, same: str) -> PlainGPT:
    """The model to compare with."""
    lacking = parameters(Gato(config)) - parameters(PlainGPT(config)) if same == "parameters" else 0
    return PlainGPT(config, more_hidden=lacking // (2 * config.width * config.layers))


def made_steps(
    generator: np.random.Generator,
    rows: int,
    steps: int,
    *,
    text: int,
    numbers: int,
    actions: int,
    image: int = 0,
) -> Steps:
    """Random timesteps: `text` and `actions` ids, `numbers` numbers, and an image of `image` pixels a side."""
    shape = (rows, steps)
    values = generator.normal(size=(*shape, numbers)).astype(np.float32)
    return Steps(
        text=generator.integers(0, 1024, (*shape, text)),
        images=[generator.integers(0, 256, (*shape, image, image, 3), dtype=np.uint8)] if image else [],
        discrete=np.zeros((*shape, 0), np.int64),
        continuous=values,
        standardised=values,
        tensors=[("continuous", numbers)] if numbers else [],
        actions=generator.integers(0, 1024, (*shape, actions)),
        text_action=numbers == 0,
        present=np.ones(shape, bool),
        segments=np.zeros(shape, np.int64),
    )


def make_batch(kind: str, config: GatoConfig, rows: int, seed: int) -> Batch:
    """A batch of full rows of `config.context` positions.

    "text": one timestep of text. "control": 8 words, 20 numbers and 4 actions a timestep.
    "mixed": text, control, and half the rows with a 64 x 64 image (16 patches), 8 numbers and 4 actions.
    """
    generator, T = np.random.default_rng(seed), config.context

    def text(count: int) -> tuple[str, Steps]:
        return "text", made_steps(generator, count, 1, text=8, numbers=0, actions=T - 9)

    def control(count: int) -> tuple[str, Steps]:
        return "arm", made_steps(generator, count, -(-T // 33), text=8, numbers=20, actions=4)

    def pictures(count: int) -> tuple[str, Steps]:
        return "pictures", made_steps(generator, count, -(-T // 33), text=4, numbers=8, actions=4, image=64)

    quarter = max(1, rows // 4)
    groups = {
        "text": lambda: [text(rows)],
        "control": lambda: [control(rows)],
        "mixed": lambda: [text(quarter), control(quarter), pictures(rows - 2 * quarter)],
    }
    return join(groups[kind](), config)


def gato_updates(
    config: GatoConfig, batches: Sequence[Batch], precision: str, compiled: bool
) -> Iterator[int]:
    """An endless run of updates as `factotum train` makes them; yields positions."""
    torch.manual_seed(0)
    training = TrainConfig(precision=precision, compile_model=compiled, device="cpu")  # type: ignore[arg-type]
    objective = GatoObjective(config.vocabulary.continuous_start, balanced=False)
    learner = Learner(Gato(config), objective, training, make_accelerator("cpu"))
    for step, batch in enumerate(cycle(batches)):
        learner.accumulate(batch, seed=step, last=True)
        learner.update(step)
        yield batch.tokens


def plain_updates(config: GatoConfig, rows: int, precision: str, same: str) -> Iterator[int]:
    """An endless run of nanoGPT's updates; yields positions."""
    torch.manual_seed(0)
    model = plain_model(config, same).train()
    optimizer = make_optimizer(model, learning_rate=1e-4)
    ids = torch.randint(0, config.vocabulary.size, (rows, config.context + 1))
    while True:
        with torch.autocast("cpu", torch.bfloat16, enabled=precision == "bf16"):
            loss = model(ids[:, :-1], ids[:, 1:])
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        yield rows * config.context


def rate(updates: Iterator[int], count: int) -> Callable[[], float]:
    """A contestant: tokens a second over `count` updates."""

    def run() -> float:
        start = time.perf_counter()
        tokens = sum(next(updates) for _ in range(count))
        return tokens / (time.perf_counter() - start)

    return run


def main(args: Args) -> None:
    """Measure each kind of batch beside the plain model."""
    torch.set_num_threads(args.threads)
    repeats, updates = (3, 2) if args.quick else (args.repeats, args.updates)
    config = GatoConfig(vocabulary=Vocabulary(TEXT_SIZE[args.size]), stochastic_depth=0.0, **SIZES[args.size])
    rows = max(4, args.tokens // config.context)
    contestants = {
        f"plain {p}": rate(plain_updates(config, rows, p, args.same), updates) for p in ("fp32", "bf16")
    }
    for kind in args.batches:
        batches = [make_batch(kind, config, rows, seed) for seed in range(2)]
        contestants[f"{kind} fp32"] = rate(gato_updates(config, batches, "fp32", False), updates)
        contestants[f"{kind} fp32 compiled"] = rate(gato_updates(config, batches, "fp32", True), updates)
        contestants[f"{kind} bf16 compiled"] = rate(gato_updates(config, batches, "bf16", True), updates)
    rates = interleaved(contestants, repeats)
    ratios = []
    for kind in args.batches:
        ratios += [
            ratio(rates, f"{kind} fp32", "plain fp32", target=1.0),
            ratio(rates, f"{kind} fp32 compiled", "plain fp32", target=1.0),
            ratio(rates, f"{kind} bf16 compiled", "plain fp32", target=1.5),
            ratio(rates, f"{kind} bf16 compiled", "plain bf16"),
        ]
    counts = {"gato": parameters(Gato(config)), "plain": parameters(plain_model(config, args.same))}
    print(f"parameters: {counts}, rows: {rows} of {config.context}")
    details = {"parameters": counts, "same": args.same, "rows": rows, "config": to_json_dict(config)}
    output = args.output or Path(__file__).parent / "results" / f"train_speed_{args.size}.json"
    report("train_speed", "tokens/s", rates, ratios, output, **details)


if __name__ == "__main__":
    main(tyro.cli(Args))
