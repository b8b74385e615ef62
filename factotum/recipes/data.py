"""`factotum data`: what datasets there are, what is in one, and whether they are sound."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import tyro
from rich.console import Console
from rich.table import Table

from factotum.core.checks import UserError
from factotum.data.episode import leaves_over_time
from factotum.data.store import Dataset, list_datasets, open_dataset
from factotum.data.validate import validate

SHOWN_PROBLEMS = 50
"""Problems of one dataset that are printed; the rest is counted."""


@dataclass(frozen=True)
class ListArgs:
    """One line for each dataset."""

    data: Path = Path("data")
    """Folder of datasets."""


@dataclass(frozen=True)
class ShowArgs:
    """Spaces, size, scores and the first steps of one dataset."""

    dataset: tyro.conf.Positional[str]
    """Id below the folder of datasets, or the path of any Minari dataset."""
    data: Path = Path("data")
    """Folder of datasets."""
    episode: int = 0
    """Episode whose first steps are shown."""
    steps: int = 3
    """Steps to show."""


@dataclass(frozen=True)
class ValidateArgs:
    """Read datasets whole and say what is wrong where; the exit code is 1 if anything is."""

    datasets: tyro.conf.Positional[tuple[str, ...]] = ()
    """Ids or paths; by default all below the folder of datasets."""
    data: Path = Path("data")
    """Folder of datasets."""


Command = (
    Annotated[ListArgs, tyro.conf.subcommand("list", prefix_name=False)]
    | Annotated[ShowArgs, tyro.conf.subcommand("show", prefix_name=False)]
    | Annotated[ValidateArgs, tyro.conf.subcommand("validate", prefix_name=False)]
)


@dataclass(frozen=True)
class Args:
    """List, show or validate datasets."""

    command: tyro.conf.OmitArgPrefixes[Command] = field(default_factory=ListArgs)
    """What to do."""


def main(args: Args | ListArgs | ShowArgs | ValidateArgs) -> None:
    """Do what the subcommand says.

    Raises:
        UserError: no such dataset, one that cannot be read, or problems found by validate.
    """
    command = args.command if isinstance(args, Args) else args
    if isinstance(command, ListArgs):
        _list(command)
    elif isinstance(command, ShowArgs):
        _show(command)
    else:
        _validate(command)


def _list(args: ListArgs) -> None:
    names = list_datasets(args.data)
    if not names:
        print(f"no datasets in {args.data}; `factotum collect` makes some")
        return
    table = Table("dataset", "episodes", "steps", "mean score", "expert", "made by")
    for name in names:
        try:
            table.add_row(name, *_row(open_dataset(name, args.data)))
        except UserError as error:
            table.add_row(name, "", "", "", "", f"cannot be read: {error}")
    _console().print(table)


def _row(dataset: Dataset) -> list[str]:
    own = dataset.metadata
    scores = [score for score in own.get("scores", []) if score is not None]
    mean = f"{np.mean(scores):.3g}" if scores else "?"
    expert = f"{own['expert']['score']:.3g}" if own["expert"] else "?"
    made_by = own.get("actor") or dataset.raw_metadata.get("algorithm_name") or "?"
    return [str(len(dataset)), str(dataset.raw_metadata.get("total_steps", "?")), mean, expert, str(made_by)]


def _show(args: ShowArgs) -> None:
    dataset = open_dataset(args.dataset, args.data)
    own = dataset.metadata
    table = Table.grid(padding=(0, 2))
    for name, value in _facts(dataset, own):
        table.add_row(f"[bold]{name}", value)
    console = _console()
    console.print(table)
    _print_steps(dataset, args, console)


def _facts(dataset: Dataset, own: dict[str, Any]) -> list[tuple[str, str]]:
    lengths = dataset.lengths
    facts = [
        ("dataset", dataset.id),
        ("path", str(dataset.path)),
        ("task", str(own["task"])),
        ("instruction", str(own["instruction"])),
        ("observations", _space(dataset.observation_space)),
        ("actions", _space(dataset.action_space)),
        ("episodes", f"{len(dataset)} of {_spread(lengths)} steps, {lengths.sum()} in all"),
    ]
    facts += [(name, _reference(own[name])) for name in ("random", "expert") if own[name]]
    scores = [score for score in own.get("scores", []) if score is not None]
    if scores:
        facts.append(("scores", f"{own['measure']}: {_spread(np.array(scores))}"))
    for name in ("actor", "labeller", "filter", "next_seed", "versions"):
        if own.get(name) is not None:
            facts.append((name, str(own[name])))
    if own.get("discarded"):
        reasons = Counter(reason or "score below the filter" for _, _, reason in own["discarded"])
        facts.append(("discarded", ", ".join(f"{count} {reason}" for reason, count in reasons.most_common())))
    return [(name, value.replace("[", "\\[")) for name, value in facts]


def _space(space: Any) -> str:
    """The space in short: bounds and character sets that fill pages are left out.

    >>> from gymnasium import spaces
    >>> _space(spaces.Dict({"state": spaces.Box(-1, 1, (39,)), "word": spaces.Text(8)}))
    'Dict(state: Box(39,) float32, word: Text up to 8)'
    """
    kind = type(space).__name__
    if kind == "Dict":
        return f"Dict({', '.join(f'{name}: {_space(child)}' for name, child in space.spaces.items())})"
    if kind == "Tuple":
        return f"Tuple({', '.join(map(_space, space.spaces))})"
    if kind == "Text":
        return f"Text up to {space.max_length}"
    if kind == "Discrete":
        return f"Discrete {space.n}"
    return f"{kind}{space.shape} {space.dtype}"


def _spread(values: np.ndarray) -> str:
    """Mean and quantiles in words.

    >>> _spread(np.array([1.0, 2.0, 6.0]))
    'mean 3 (min 1, quartiles 1.5 2 4, max 6)'
    """
    low, first, middle, third, high = np.quantile(values, [0, 0.25, 0.5, 0.75, 1])
    quartiles = f"{first:.3g} {middle:.3g} {third:.3g}"
    return f"mean {values.mean():.3g} (min {low:.3g}, quartiles {quartiles}, max {high:.3g})"


def _reference(reference: dict[str, Any]) -> str:
    return f"{reference['score']:.4g} ({reference['source']})"


def _print_steps(dataset: Dataset, args: ShowArgs, console: Console) -> None:
    if not 0 <= args.episode < len(dataset):
        raise UserError(f"--episode: expected 0 to {len(dataset) - 1}, got {args.episode}")
    episode = dataset.episode(args.episode)
    table = Table(
        "step", "observation", "action", "reward", title=f"episode {args.episode}, seed {episode.seed}"
    )
    for step in range(min(args.steps, len(episode))):
        observation = "\n".join(_brief(*leaf, step) for leaf in leaves_over_time(episode.observations))
        action = "\n".join(_brief(*leaf, step) for leaf in leaves_over_time(episode.actions))
        table.add_row(str(step), observation, action, f"{episode.rewards[step]:.4g}")
    console.print(table)


def _brief(name: str, leaf: Any, step: int) -> str:
    value = leaf[step]
    if isinstance(value, str):
        text = repr(value)
    elif np.size(value) <= 8:
        text = np.array2string(np.asarray(value), precision=3)
    else:
        numbers = np.asarray(value)
        text = f"{numbers.shape} {numbers.dtype} from {numbers.min():.3g} to {numbers.max():.3g}"
    return (f"{name} {text}" if name else text).replace("[", "\\[")


def _validate(args: ValidateArgs) -> None:
    names = args.datasets or tuple(list_datasets(args.data))
    if not names:
        raise UserError(f"--data: expected a folder with datasets, found none in {args.data}")
    bad = 0
    for name in names:
        problems = validate(_folder(name, args.data))
        bad += bool(problems)
        count = f"{len(problems)} problem{'s' * (len(problems) > 1)}"
        print(f"{name}: {count if problems else 'sound'}")
        for problem in problems[:SHOWN_PROBLEMS]:
            print(f"  {problem}")
        if len(problems) > SHOWN_PROBLEMS:
            print(f"  and {len(problems) - SHOWN_PROBLEMS} more")
    if bad:
        raise UserError(f"{bad} of {len(names)} datasets have problems")


def _folder(name: str, root: Path) -> Path:
    """Where a dataset lies that perhaps cannot be opened."""
    below = root / name
    return below if below.is_dir() else Path(name) if Path(name).is_dir() else open_dataset(name, root).path


def _console() -> Console:
    """A console that does not cut lines short where there is no terminal."""
    console = Console()
    return console if console.is_terminal else Console(width=160)
