"""`factotum COMMAND`: one command a recipe; a user's error is one line and exit code 1."""

from __future__ import annotations

import importlib
import inspect
import sys
from collections.abc import Sequence

import tyro

from factotum import __version__
from factotum.core.checks import unknown

COMMANDS = {
    "tasks": "what exists: suites, tasks, experts, reference scores",
    "collect": "expert demonstrations into Minari datasets",
    "data": "list, show and validate datasets",
    "train": "one Gato on all datasets",
    "train-teacher": "a Q-network that plays one game, to be distilled: `train-teacher minatar-breakout`",
    "meta-train": "a learned optimizer from nothing: `meta-train sampler RUN` or `meta-train optimizer RUN`",
    "tune": "the parameters of any command or Python callable, from a search-space file",
    "bench": "the learned optimizer beside tuned ones on your model: `bench optimizer --model MODULE:FUNCTION`",
    "evaluate": "a checkpoint or a baseline on tasks, every episode's score stored",
    "play": "watch a checkpoint or an expert, or write a video",
    "report": "a run as one offline HTML file",
    "compose": "frozen networks joined by their activations, from a file that names them: train, evaluate, report",
    "pretrain": "what is joined frozen: `pretrain vision`, and `codes`, `text`, `pictures`, `judge` of drawn scenes",
    "distill": "experts become one small, fast policy: one teacher, many, or teachers that still learn",
    "export": "a policy as an ONNX file or a torch archive, which run without this package",
    "quickstart": "all of it in ten minutes: collect, train, evaluate, report",
    "generalist": "factotum-s, one small Gato for 122 tasks: collect, train, DAgger rounds, evaluate, report, ship",
}


PARTS: dict[tuple[str, ...], str] = {
    ("meta-train", "optimizer"): "meta_train_optimizer",
    **{("pretrain", what): "pretrain_scenes" for what in ("codes", "text", "pictures", "judge")},
}
"""Recipes of commands that have several, by their first option; what is not here is the command's own."""


def usage() -> str:
    """What `factotum --help` prints.

    >>> usage().splitlines()[0]
    'usage: factotum COMMAND [OPTIONS]'
    """
    width = max(map(len, COMMANDS))
    lines = [f"  {name:<{width}}  {what}" for name, what in COMMANDS.items()]
    return "\n".join(
        [
            "usage: factotum COMMAND [OPTIONS]",
            "",
            "Many specialists, one agent.",
            "",
            *lines,
            "",
            "`factotum COMMAND --help` lists a command's options.",
        ]
    )


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command; the exit code."""
    given = list(sys.argv[1:] if arguments is None else arguments)
    if not given or given[0] in ("-h", "--help"):
        print(usage())
        return 0
    if given[0] == "--version":
        print(f"factotum {__version__}")
        return 0
    name, options = given[0], given[1:]
    try:
        if name not in COMMANDS:
            raise unknown("command", name, COMMANDS)
        module = PARTS.get((name, *options[:1]), name.replace("-", "_"))
        recipe = importlib.import_module(f"factotum.recipes.{module}")
        args = tyro.cli(
            recipe.Args, prog=f"factotum {name}", args=options, description=inspect.getdoc(recipe.Args)
        )
        return _exit_code(recipe.main(args))
    except ValueError as error:
        print(f"factotum {name}: error: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print(f"\nfactotum {name}: interrupted; the same command goes on from here", file=sys.stderr)
        return 130


def _exit_code(result: object) -> int:
    return result if isinstance(result, int) else 0


def entry() -> None:
    """Console entry point."""
    sys.exit(main())


if __name__ == "__main__":
    entry()
