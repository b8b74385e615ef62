"""Students beside their teachers: ratios of scores over games, with intervals over seeds. Pure functions of arrays.

Letters: K teacher seeds, J student seeds of each teacher, N episodes. Episode n of a student and of its teacher start
from the same seed. A number that is undefined (a ratio to a teacher that scored nothing) is NaN, never invented.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np

from factotum.core.checks import UserError, require_finite
from factotum.core.seeding import numpy_generator
from factotum.training.statistics import can_normalise, interquartile_mean, normalised_score

Level = Literal["teachers", "students", "episodes"]
SEEDS: tuple[Level, ...] = ("teachers", "students")


@dataclass(frozen=True)
class Paired:
    """Raw scores of one game.

    Args:
        game: its name.
        student_KJN: scores of the students, (teacher seeds, student seeds, episodes).
        teacher_KN: scores of the teachers, (teacher seeds, episodes).
        random: mean score of random play, None where unknown.
        human: mean score of a human, None where unknown.

    Raises:
        UserError: shapes that do not go together, no scores, or scores that are not finite.

    >>> Paired("pong", np.ones((2, 3, 10)), np.ones((3, 10)))
    Traceback (most recent call last):
    factotum.core.checks.UserError: pong: expected scores of teachers (2, 10) beside students (2, 3, 10), got (3, 10)
    """

    game: str
    student_KJN: np.ndarray
    teacher_KN: np.ndarray
    random: float | None = None
    human: float | None = None

    def __post_init__(self) -> None:
        student, teacher = np.asarray(self.student_KJN, float), np.asarray(self.teacher_KN, float)
        if student.ndim != 3 or student.size == 0:
            raise UserError(
                f"{self.game}: expected scores of students (teacher seeds, student seeds, episodes), none of them 0, "
                f"got {student.shape}"
            )
        K, _, N = student.shape
        if teacher.shape != (K, N):
            raise UserError(
                f"{self.game}: expected scores of teachers {(K, N)} beside students {student.shape}, "
                f"got {teacher.shape}"
            )
        require_finite(f"{self.game}: scores of students", student)
        require_finite(f"{self.game}: scores of teachers", teacher)
        object.__setattr__(self, "student_KJN", student)
        object.__setattr__(self, "teacher_KN", teacher)


Statistic = Callable[[Sequence[Paired]], float]


def score_ratio(game: Paired) -> float:
    """Mean score of the students over mean score of the teachers; NaN unless the teachers' is above 0.

    >>> score_ratio(Paired("pong", np.full((1, 1, 4), 9.0), np.full((1, 4), 10.0)))
    0.9

    Source: Policy Distillation (arXiv 1511.06295), section 4 (there of one teacher and one student, in per cent).
    """
    teacher = float(game.teacher_KN.mean())
    return float(game.student_KJN.mean()) / teacher if teacher > 0 else float("nan")


def random_normalised_ratio(game: Paired) -> float:
    """(student - random) / (teacher - random); NaN where random play is unknown or not below the teacher.

    >>> random_normalised_ratio(Paired("pong", np.full((1, 1, 4), 0.0), np.full((1, 4), 20.0), random=-20.0))
    0.5
    """
    teacher = float(game.teacher_KN.mean())
    if game.random is None or not can_normalise(game.random, teacher):
        return float("nan")
    return float(normalised_score(game.student_KJN.mean(), game.random, teacher))


def human_normalised(game: Paired) -> tuple[float, float]:
    """(score - random) / (human - random) of the students and of the teachers; NaN where there is no such scale.

    >>> human_normalised(Paired("pong", np.full((1, 1, 4), 5.0), np.full((1, 4), 10.0), random=0.0, human=10.0))
    (0.5, 1.0)
    """
    if game.random is None or game.human is None or not can_normalise(game.random, game.human):
        return float("nan"), float("nan")
    means = np.array([game.student_KJN.mean(), game.teacher_KN.mean()])
    student, teacher = normalised_score(means, game.random, game.human)
    return float(student), float(teacher)


def geometric_mean(ratios: Sequence[float] | np.ndarray) -> float:
    """exp(mean(log ratio)); 0 where one is 0, NaN where one is negative or undefined.

    >>> round(geometric_mean([0.5, 2.0]), 6), geometric_mean([0.0, 2.0]), geometric_mean([-0.1, 2.0])
    (1.0, 0.0, nan)
    """
    values = np.asarray(ratios, float)
    if values.size == 0:
        raise UserError("expected at least one ratio, got none")
    if not (values >= 0).all():
        return float("nan")
    return float(np.exp(np.log(values).mean())) if (values > 0).all() else 0.0


def geometric_mean_ratio(games: Sequence[Paired]) -> float:
    """The paper's figure: geometric mean over games of `score_ratio`.

    >>> teacher, good, bad = np.full((1, 2), 2.0), np.full((1, 1, 2), 4.0), np.full((1, 1, 2), 1.0)
    >>> round(geometric_mean_ratio([Paired("a", good, teacher), Paired("b", bad, teacher)]), 6)
    1.0
    """
    return geometric_mean([score_ratio(game) for game in games])


def geometric_mean_normalised(games: Sequence[Paired]) -> float:
    """Geometric mean over games of `random_normalised_ratio`."""
    return geometric_mean([random_normalised_ratio(game) for game in games])


def run_ratios(game: Paired) -> np.ndarray:
    """Each student over its own teacher, normalised by random play where that is known; (K, J), may hold NaN.

    >>> run_ratios(Paired("pong", np.full((1, 2, 4), 3.0), np.full((1, 4), 4.0))).tolist()
    [[0.75, 0.75]]
    """
    bottom = 0.0 if game.random is None else game.random
    span_K1 = game.teacher_KN.mean(1, keepdims=True) - bottom
    return np.divide(game.student_KJN.mean(2) - bottom, np.where(span_K1 > 0, span_K1, np.nan))


def interquartile_ratio(games: Sequence[Paired]) -> float:
    """Interquartile mean of `run_ratios` over games x runs; NaN where one is undefined.

    >>> runs = np.arange(1.0, 5.0)[None, :, None]
    >>> interquartile_ratio([Paired("a", runs, np.ones((1, 1)))])
    2.5

    Source: Agarwal et al. 2021 (arXiv 2108.13264), section 4.3, of scores normalised by the teacher's.
    """
    values = [run_ratios(game).ravel() for game in games]
    if any(np.isnan(one).any() for one in values):
        return float("nan")
    return float(interquartile_mean(values))


def seed_bootstrap(
    games: Sequence[Paired],
    statistic: Statistic,
    *,
    over: Sequence[Level] = SEEDS,
    level: float = 0.95,
    repetitions: int = 2000,
    seed: int = 0,
) -> tuple[float, float]:
    """Percentile interval of a statistic, resampling with replacement within each game, one level inside the other.

    Teacher seeds are drawn first, each with its students; then, for each drawn teacher by itself, student seeds; then
    episodes, for a teacher and all its students the same ones. Levels that are not named stay as they are, so that
    `over=("teachers",)` says what another draw of teachers would change, `over=("students",)` what another draw of
    students of the same teachers would. A level of one member varies nothing.

    Args:
        games: scores, each game resampled by itself.
        statistic: of such a sequence.
        over: levels that are resampled.
        level: coverage, 0.95 for the 2.5 % and 97.5 % percentiles.
        repetitions: number of resamples.
        seed: of the resampling.

    Returns:
        (low, high); both NaN where the statistic of a resample is undefined.

    Raises:
        UserError: no games, an unknown level, or a coverage outside of 0 to 1.

    >>> student = np.array([0.5, 1.5])[:, None, None] * np.ones((2, 3, 4))
    >>> seed_bootstrap([Paired("a", student, np.ones((2, 4)))], geometric_mean_ratio)
    (0.5, 1.5)
    >>> seed_bootstrap([Paired("a", student, np.ones((2, 4)))], geometric_mean_ratio, over=("students",))
    (1.0, 1.0)

    Source: Agarwal et al. 2021, section 4.1; Differs: two levels of seeds in place of one.
    """
    if not games:
        raise UserError("expected at least one game, got none")
    if not set(over) <= {"teachers", "students", "episodes"}:
        raise UserError(f"over: expected some of teachers, students, episodes, got {tuple(over)}")
    if not 0 < level < 1:
        raise UserError(f"level: expected a number between 0 and 1, got {level}")
    generator = numpy_generator(seed, "paired bootstrap")
    values = [statistic([_resampled(game, over, generator) for game in games]) for _ in range(repetitions)]
    if not np.isfinite(values).all():
        return float("nan"), float("nan")
    tail = 50 * (1 - level)
    low, high = np.percentile(values, [tail, 100 - tail])
    return float(low), float(high)


def _resampled(game: Paired, over: Sequence[Level], generator: np.random.Generator) -> Paired:
    K, J, N = game.student_KJN.shape
    k_K = generator.integers(K, size=K) if "teachers" in over else np.arange(K)
    student_KJN, teacher_KN = game.student_KJN[k_K], game.teacher_KN[k_K]
    if "students" in over:
        j_KJ = generator.integers(J, size=(K, J))
        student_KJN = np.take_along_axis(student_KJN, j_KJ[..., None], axis=1)
    if "episodes" in over:
        n_KN = generator.integers(N, size=(K, N))
        student_KJN = np.take_along_axis(student_KJN, n_KN[:, None, :], axis=2)
        teacher_KN = np.take_along_axis(teacher_KN, n_KN, axis=1)
    return replace(game, student_KJN=student_KJN, teacher_KN=teacher_KN)
