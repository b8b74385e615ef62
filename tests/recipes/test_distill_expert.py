"""The experts of worlds as teachers of `factotum distill`, and what only teachers of observations can do."""

import numpy as np
import pytest
import torch
import tyro

from factotum.core.checks import UserError
from factotum.distill import PolicyAgent, PolicyNetwork, preset
from factotum.distill.expert import WorldExpert
from factotum.recipes.distill import Args, main
from factotum.recipes.distill_evaluate import Agreeing, Evaluation, evaluate_lesson
from factotum.recipes.distill_fine_tune import fine_tune
from factotum.recipes.distill_tasks import find_lessons, make_objective, student_config
from factotum.worlds import vector_suite
from factotum.worlds.suites.task import ExpertFailure
from tests.recipes.distill_toys import CARTPOLE, small
from tests.worlds.test_vector_suite import line

LINE = "line/right"


@pytest.fixture(autouse=True)
def toy(monkeypatch):
    monkeypatch.setitem(vector_suite.SUITES, "line", line("success"))


def distil(*options):
    return main(tyro.cli(Args, args=[str(option) for option in options]))


def test_an_expert_becomes_a_network_that_does_as_well(tmp_path):
    options = small(tmp_path, "expert", "--worlds", LINE, hours=3, steps=200, updates=100)
    more = ("--student", "mlp-8", "--learning-rate", "1e-2", "--acting", "mixed", "--evaluation-epsilon", "0")
    measured = distil(*options, *more)
    game = measured["games"][0]
    assert game["teacher_scores"] == game["student_scores"] == [1.0] * 4
    assert game["agreement_on_student_states"] == 1.0
    assert (game["teacher_parameters"], game["teacher_latency_ms"]) == (None, None)
    assert measured["of"]["epsilon"] == 0.0
    assert "sample" not in measured["of"]
    again = distil(*options, *more, "--evaluation-sample")
    assert again["of"] == {**measured["of"], "sample": True}
    assert (tmp_path / "report.html").stat().st_size > 20_000


def test_evaluation_has_the_noise_of_play_unless_told(tmp_path):
    options = small(tmp_path, "expert", "--worlds", LINE, hours=1, steps=40, updates=5)
    assert distil(*options, "--student", "mlp-8", "--epsilon", "0.1")["of"]["epsilon"] == 0.1


def test_a_student_may_draw_from_its_policy():
    (lesson,) = find_lessons(("expert",), (LINE,), None)
    network = PolicyNetwork(preset("mlp-4", (2,), {LINE: 2}, "logits"))
    with torch.no_grad():
        network.heads[0][-1].weight.zero_()
        network.heads[0][-1].bias.copy_(torch.tensor([0.0, -1.0]))  # left, but right with probability 0.27
    scores = [
        evaluate_lesson(lesson, network, Evaluation(40, 40, epsilon=0.0, sample=sample))["student_scores"]
        for sample in (False, True)
    ]
    assert sum(scores[0]) == 0.0
    assert 1 <= sum(scores[1]) <= 20


def test_labels_are_certain_policies_and_students_have_one_head():
    lessons = find_lessons(("expert",), (LINE,), None)
    objective = make_objective(lessons, {})
    assert (objective.loss, objective.temperature) == ("kl", 0.01)
    assert student_config("mlp-8", lessons, objective).actions == {LINE: 2}


def test_worlds_without_an_expert_are_refused(monkeypatch):
    with pytest.raises(UserError, match="gym/CartPole-v1: expected a world with an expert"):
        find_lessons(("expert",), (CARTPOLE,), None)
    monkeypatch.setitem(vector_suite.SUITES, "line", line("return", None))
    with pytest.raises(UserError, match="line/right: expected a task with an expert"):
        find_lessons(("expert",), (LINE,), None)
    with pytest.raises(UserError, match="worlds: expected the name of the world that expert is for"):
        find_lessons(("expert",), (), None)


def test_fine_tuning_needs_a_teacher_of_observations(tmp_path):
    (lesson,) = find_lessons(("expert",), (LINE,), None)
    with pytest.raises(
        UserError, match="expected a teacher that labels observations, got the expert of line"
    ):
        fine_tune(tmp_path, None, lesson, None, None, None, 10, 0)


def test_an_expert_that_gives_up_at_once_is_never_agreed_with(monkeypatch):
    def give_up(env):
        def act(observation, last_action):
            raise ExpertFailure("no plan")

        return act

    monkeypatch.setitem(vector_suite.SUITES, "line", line("return", give_up))
    (lesson,) = find_lessons(("expert",), (LINE,), None)
    network = PolicyNetwork(preset("mlp-4", (2,), {LINE: 2}, "logits"))
    found = evaluate_lesson(lesson, network, Evaluation(episodes=2, environments=2, epsilon=0.0))
    assert np.isnan(found["agreement_on_teacher_states"])
    assert found["teacher_scores"] == [-21.0, -21.0]  # it does action 0 for all 6 steps


def test_agreement_is_not_asked_where_the_expert_is_silent():
    world = vector_suite.VectorSuite(LINE, 2)
    expert = WorldExpert(world)
    agent = PolicyAgent(PolicyNetwork(preset("mlp-4", (2,), {LINE: 2}, "logits")), epsilon=0.0)
    asked = Agreeing(agent, expert, continuous=False, every=1)
    seen = world.reset(0)
    for _ in range(3):
        asked(seen, None, None, np.array([True, True]))
        seen = world.step(np.array([0, 1])).observation
    assert asked.count == 2 + 2 + 1  # the first expert gave up two to the left
