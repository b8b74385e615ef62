"""What joining costs: training beside the components' own passes, and decoding beside length and beside recomputing.

    python benchmarks/gats.py --quick

Components are untrained models of transformers: a frozen text decoder, a frozen vision encoder, a trained decoder that
acts, joined by at least 5 % of their parameters.

*Training*: forward and backward of the whole over the sum of what its components need by themselves: frozen ones a
forward without gradients, the trained one forward and backward of the same loss.
*Decoding*: one action at a time and an image now and then, in one state at step 100 and one at step 10,000 by turns;
both were brought there by large moments. Recomputing is the forward over all 1,000 steps, with the frozen components'
features kept, in its favour. CPU time of one thread counts, so that other jobs on the machine matter less.
"""

from __future__ import annotations

import os

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch
import tyro
from _measure import Ratio, interleaved, ratio, report
from torch import Tensor, nn

from factotum.gats import GATS, Component, GATSConfig
from factotum.gats.baselines import at_parameters, trained_parameters
from factotum.gats.decode import GATSDecoder, Moment
from factotum.gats.objective import GATSBatch, GATSObjective

VOCABULARY = 512


@dataclass(frozen=True)
class Args:
    """Measure what joining costs."""

    width: int = 384
    """of every component"""
    depth: int = 6
    """blocks of every component"""
    layers: int = 6
    """GATS layers"""
    share: float = 0.05
    """of the components' parameters that the joining part has"""
    batch_size: int = 4
    """rows in training"""
    actions: int = 128
    """elements of the acting component in training; the text has 32, and there are four images of 64"""
    context: int = 128
    """own elements that the acting component sees when decoding"""
    far: int = 10_000
    """the later step"""
    every: int = 25
    """steps between images when decoding"""
    repeats: int = 11
    """rounds that count"""
    threads: int = 1
    """CPU threads"""
    quick: bool = False
    """smaller components, three rounds, a later step of 2,000"""
    output: Path | None = None
    """JSON file; by default benchmarks/results/gats.json"""


def modules(args: Args) -> dict[str, nn.Module]:
    """Untrained components."""
    import transformers

    torch.manual_seed(0)
    sizes: dict[str, Any] = {
        "hidden_size": args.width, "intermediate_size": 4 * args.width, "num_hidden_layers": args.depth,
        "num_attention_heads": args.width // 64,
    }  # fmt: skip
    decoder = {**sizes, "vocab_size": VOCABULARY, "num_key_value_heads": args.width // 64}
    decoder |= {"pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2}
    return {
        "text": transformers.LlamaForCausalLM(transformers.LlamaConfig(**decoder)),
        "vision": transformers.ViTModel(transformers.ViTConfig(**sizes, image_size=64, patch_size=8)),
        "action": transformers.LlamaForCausalLM(transformers.LlamaConfig(**decoder)),
    }


def make_model(args: Args) -> GATS:
    """The composition, its joining part at least at a share of its components."""
    found = modules(args)
    components = {
        "text": Component(found["text"], window=32),
        "vision": Component(found["vision"], window=64),
        "action": Component(found["action"], window=32, steered=True, frozen=False),
    }
    own = sum(parameter.numel() for module in found.values() for parameter in module.parameters())
    acting = sum(parameter.numel() for parameter in found["action"].parameters())
    config = GATSConfig(layers=args.layers, width=64, heads=4)
    config = at_parameters("gats", components, config, acting + int(args.share * own))
    unit = 8 * config.heads  # sizes of heads that vector registers like, upwards
    return GATS(components, replace(config, width=-(-config.width // unit) * unit))


def make_batch(args: Args) -> GATSBatch:
    """Random data: a text, four images, and actions between them."""
    B, T = args.batch_size, args.actions
    generator = torch.Generator().manual_seed(0)
    ids = torch.randint(3, VOCABULARY, (B, T), generator=generator)
    images = torch.randn(4 * B, 3, 64, 64, generator=generator)
    steps = torch.arange(float(T)).expand(B, -1)
    return GATSBatch(
        {
            "text": {"input_ids": ids[:, :32]},
            "vision": {"pixel_values": images},
            "action": {"input_ids": ids},
        },
        {"text": torch.zeros(B, 32), "vision": steps[:, :: T // 4][:, :4], "action": steps},
        {"action": ids.roll(-1, 1)},
    )


def once(work: Callable[[], Any]) -> float:
    """Passes a second, by the CPU time of one."""
    start = time.process_time()
    work()
    return 1.0 / (time.process_time() - start)


def training(args: Args, model: GATS) -> tuple[dict[str, list[float]], list[Ratio]]:
    """The whole beside the sum of its parts, in one run."""
    batch, objective = make_batch(args), GATSObjective()

    def alone() -> None:
        for name, tower in model.towers.items():
            with torch.set_grad_enabled(not tower.frozen):
                output = tower.module(**batch.inputs[name])
            if not tower.frozen:
                ids_M = batch.targets[name].flatten()
                nn.functional.cross_entropy(output.logits.flatten(0, 1), ids_M).backward()
        model.zero_grad(set_to_none=True)

    def joined() -> None:
        loss, _, _ = objective(model, batch)
        loss.backward()
        model.zero_grad(set_to_none=True)

    model.train()
    rates = interleaved(
        {"components alone": lambda: once(alone), "joined": lambda: once(joined)}, args.repeats, warm_up=1
    )
    return rates, [ratio(rates, "joined", "components alone", target=1 / 1.25)]


class Episode:
    """One episode: an instruction, an image now and then, one action a step."""

    def __init__(self, args: Args, model: GATS) -> None:
        generator = torch.Generator().manual_seed(0)
        self.args, self.decoder, self.at = args, GATSDecoder(model, {"action": args.context}), 0
        self.state = self.decoder.initial_state(1)
        self.ids = torch.randint(3, VOCABULARY, (1, 64), generator=generator)
        self.image = torch.randn(1, 3, 64, 64, generator=generator)
        text = Moment({"text": {"input_ids": self.ids[:, :32]}}, {"text": torch.zeros(1, 32)})
        self.decoder.step(text, self.state)

    def moment(self, steps: int) -> Moment:
        """The next steps at once; an image where one is due."""
        times = self.at + torch.arange(float(steps))[None]
        inputs: dict[str, Any] = {"action": {"input_ids": self.ids.repeat(1, -(-steps // 64))[:, :steps]}}
        when: dict[str, Tensor] = {"action": times + 0.5}
        due = times[:, times[0] % self.args.every == 0]
        if due.shape[1]:
            inputs["vision"] = {"pixel_values": self.image.expand(due.shape[1], -1, -1, -1)}
            when["vision"] = due
        self.at += steps
        return Moment(inputs, when)

    def go_to(self, step: int, chunk: int = 100) -> None:
        """By large moments."""
        while self.at < step:
            self.decoder.step(self.moment(min(chunk, step - self.at)), self.state)

    def cycle(self) -> float:
        """Steps a second, over one image and the steps until the next."""
        start = time.process_time()
        for _ in range(self.args.every):
            self.decoder.step(self.moment(1), self.state)
        return self.args.every / (time.process_time() - start)


def recompute(args: Args, model: GATS, steps: int) -> Callable[[], float]:
    """The next step's output by a forward over all steps."""
    episode = Episode(args, model)
    moment = episode.moment(steps)
    inputs, times = dict(moment.inputs), {"text": torch.zeros(1, 32), **moment.times}
    kept = model.encode({"text": {"input_ids": episode.ids[:, :32]}, "vision": inputs["vision"]})  # type: ignore[dict-item]

    def run() -> float:
        with torch.no_grad():
            return once(lambda: model({**kept, "action": inputs["action"]}, times))

    return run


def decoding(args: Args, model: GATS) -> tuple[dict[str, list[float]], list[Ratio]]:
    """Steps early and late by turns, and recomputing beside them."""
    near, far, middle = (Episode(args, model) for _ in range(3))
    late = f"step {args.far:,}"
    with torch.no_grad():
        near.go_to(100)
        middle.go_to(1000)
        far.go_to(args.far)
    again = recompute(args, model, 1000)
    rates = interleaved(
        {"step 100": near.cycle, "step 1,000": middle.cycle, late: far.cycle, "recomputed at 1,000": again},
        args.repeats,
        warm_up=1,
    )
    return rates, [
        ratio(rates, late, "step 100", target=0.9),
        ratio(rates, "step 1,000", "recomputed at 1,000", target=20.0),
    ]


def main(args: Args) -> None:
    """Measure both, one after the other."""
    if args.quick:
        args = Args(
            width=192, depth=4, layers=4, batch_size=2, far=min(args.far, 2000), repeats=3, context=args.context,
            threads=args.threads, output=args.output,
        )  # fmt: skip
    torch.set_num_threads(args.threads)
    model = make_model(args)
    total = sum(parameter.numel() for parameter in model.parameters())
    joining = sum(parameter.numel() for parameter in model.layers.parameters())
    rates, ratios = training(args, model)
    more_rates, more_ratios = decoding(args, model)
    report(
        "gats", "passes or steps / s of CPU time", rates | more_rates, ratios + more_ratios, args.output,
        components=total - joining, joining=joining, trained=trained_parameters(model), width=model.config.width,
        sizes=asdict(args) | {"output": None},
    )  # fmt: skip


if __name__ == "__main__":
    main(tyro.cli(Args))
