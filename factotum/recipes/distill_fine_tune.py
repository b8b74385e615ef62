"""A distilled student goes on by reinforcement learning in its world, its teacher's loss annealed.

The run's folder `fine_tune/` is one of `teacher_loop.py`: checkpoints, metrics, the best policy; it resumes like those.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np

from factotum.core.checks import UserError
from factotum.core.config import to_json_dict
from factotum.distill.expert import WorldExpert
from factotum.distill.fine_tune import FineTuneConfig, FineTuner
from factotum.distill.model import PolicyNetwork
from factotum.distill.objective import DistillationObjective
from factotum.distill.store import load_policy
from factotum.recipes.distill_evaluate import agent_of
from factotum.recipes.distill_play import PlayConfig
from factotum.recipes.distill_tasks import Lesson
from factotum.recipes.play_vector import play_episodes
from factotum.recipes.teacher_loop import LoopConfig, train_teacher
from factotum.worlds.vector import make_vector

EPISODES = 32
"""Games that say which policy of a run is its best."""


def fine_tune(
    run: Path,
    network: PolicyNetwork,
    lesson: Lesson,
    objective: DistillationObjective,
    config: FineTuneConfig,
    play: PlayConfig,
    steps: int,
    seed: int,
) -> PolicyNetwork:
    """Improve a student by reinforcement learning; the policy that scored best on the way.

    Args:
        run: of the student; what is written goes into `fine_tune` there.
        network: the student, changed in place.
        lesson: its task and teacher.
        objective: the distillation loss.
        config: how it learns.
        play: environments side by side, and the share of random actions when policies are compared.
        steps: of the environments together.
        seed: of what is drawn.

    Raises:
        UserError: a student that cannot go on so, changed settings, numbers that are not finite.
    """
    if steps < 1:
        raise UserError(f"fine_tune: expected 1 step or more, got {steps}")
    if isinstance(lesson.teacher, WorldExpert):
        raise UserError(
            f"fine_tune: expected a teacher that labels observations, got the expert of {lesson.task}"
        )
    world = make_vector(lesson.task, play.environments, threads=play.threads)
    judge = make_vector(lesson.task, EPISODES, threads=play.threads)
    learner = FineTuner(
        network, lesson.teacher.label, objective, config, environments=world.count, steps=steps, seed=seed
    )
    loop = LoopConfig(
        steps=steps,
        checkpoint_every=max(1, steps // 20),
        evaluate_every=max(1, steps // 10),
        log_every=max(1, steps // 100),
        seed=seed,
    )

    def evaluate(student: PolicyNetwork) -> np.ndarray:
        return play_episodes(judge, agent_of(lesson, student, play.epsilon, seed, judge), EPISODES, seed=0)

    settings = {
        "task": lesson.task,
        "teacher": [lesson.source, lesson.version],
        "network": to_json_dict(network.config),
        "objective": to_json_dict(objective),
        "fine_tune": to_json_dict(config),
        "environments": world.count,
    }
    train_teacher(world, learner, loop, run / "fine_tune", evaluate=evaluate, settings=settings)
    world.close()
    judge.close()
    return load_policy(run / "fine_tune" / "best")
