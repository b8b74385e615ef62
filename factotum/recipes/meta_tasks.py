"""What an optimizer is meta-trained on: sets of the corpus by name, single problems, and a user's own tasks."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Literal

from factotum.core.checks import UserError
from factotum.recipes.user_function import load_function
from factotum.worlds.problems import ModuleProblem, Problem, all_problems, corpus, find

SetName = Literal["all", "code", "paper", "none"]


def chosen_problems(name: SetName, extra: Sequence[str] = (), tasks: Sequence[str] = ()) -> list[Problem]:
    """The problems of a set, of names, and of a user's own functions; each name once.

    Args:
        name: "code" and "paper" are the two readings, "all" every problem there is, "none" none.
        extra: names of problems added.
        tasks: `module:function`, each returning what `ModuleProblem` takes, a problem, or a list of problems.

    Raises:
        UserError: nothing is left, a name twice, or what `load_tasks` raises.

    >>> len(chosen_problems("code")), [p.name for p in chosen_problems("none", ["rosenbrock"])]
    (101, ['rosenbrock'])
    """
    sets: dict[str, Callable[[], tuple[Problem, ...]]] = {
        "all": all_problems,
        "none": tuple,
        "code": lambda: corpus("code"),
        "paper": lambda: corpus("paper"),
    }
    found = [*sets[name](), *map(find, extra), *(one for path in tasks for one in load_tasks(path))]
    if not found:
        raise UserError("problems: expected a set, names or tasks, got none")
    names = [problem.name for problem in found]
    twice = [one for one in names if names.count(one) > 1]
    if twice:
        raise UserError(f"problems: expected each name once, got {twice[0]!r} twice")
    return found


def load_tasks(path: str) -> list[Problem]:
    """A user's function as problems.

    Args:
        path: `module:function`, looked for in the working directory too. The function returns (module, batches)
            or (module, batches, loss), see `ModuleProblem`, or a `Problem`, or a list of problems.

    Raises:
        UserError: no such module or function, or it returns something else.
    """
    function = load_function("tasks", path)
    made = function()
    if isinstance(made, Problem):
        return [made]
    if isinstance(made, list) and made and all(isinstance(one, Problem) for one in made):
        return made
    if isinstance(made, tuple):
        return [ModuleProblem(function, name=path)]
    raise UserError(
        f"tasks {path}: expected (module, batches), (module, batches, loss) or problems, got {type(made).__name__}"
    )
