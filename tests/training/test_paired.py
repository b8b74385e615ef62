"""The paper's figure re-computed from the paper's scores; intervals that know whose seeds they are about."""

import numpy as np
import pytest
from scipy.stats import gmean, trim_mean

from factotum.core.checks import UserError
from factotum.training.paired import (
    Paired,
    geometric_mean,
    geometric_mean_normalised,
    geometric_mean_ratio,
    human_normalised,
    interquartile_ratio,
    random_normalised_ratio,
    run_ratios,
    score_ratio,
    seed_bootstrap,
)

DQN = {"Breakout": 303.9, "Freeway": 25.8, "Pong": 16.2, "Qbert": 4589.8}
STUDENTS = {
    "MSE": ({"Breakout": 102.9, "Freeway": 25.7, "Pong": 15.3, "Qbert": 5607.3}, 79.0),
    "NLL": ({"Breakout": 235.9, "Freeway": 26.2, "Pong": 15.4, "Qbert": 6773.5}, 102.5),
    "KL": ({"Breakout": 287.8, "Freeway": 26.7, "Pong": 16.3, "Qbert": 7112.8}, 111.2),
}


def one_run(name, student, teacher, **scale):
    return Paired(name, np.full((1, 1, 1), student), np.full((1, 1), teacher), **scale)


@pytest.mark.parametrize("loss", STUDENTS)
def test_the_papers_geometric_means_come_from_its_scores(loss):
    scores, published = STUDENTS[loss]
    games = [one_run(name, scores[name], DQN[name]) for name in DQN]
    assert 100 * geometric_mean_ratio(games) == pytest.approx(published, abs=0.06)
    assert 100 * score_ratio(games[0]) == pytest.approx(100 * scores["Breakout"] / 303.9)


def test_geometric_mean_is_scipys():
    ratios = np.random.default_rng(0).uniform(0.1, 3, 12)
    assert geometric_mean(ratios) == pytest.approx(float(gmean(ratios)))


def test_what_is_undefined_is_nan():
    assert geometric_mean([1.0, 0.0]) == 0.0
    assert np.isnan(geometric_mean([1.0, -0.5]))
    assert np.isnan(score_ratio(one_run("pong", 3.0, -20.0)))  # a teacher that loses has no ratio
    assert np.isnan(score_ratio(one_run("pong", 3.0, 0.0)))
    assert np.isnan(random_normalised_ratio(one_run("pong", 3.0, 4.0)))  # random play unknown
    assert np.isnan(random_normalised_ratio(one_run("pong", 3.0, 4.0, random=5.0)))
    assert np.isnan(human_normalised(one_run("pong", 3.0, 4.0, random=5.0))).all()
    assert np.isnan(run_ratios(one_run("pong", 3.0, -20.0))).all()
    assert np.isnan(interquartile_ratio([one_run("a", 1.0, 1.0), one_run("pong", 3.0, -20.0)]))
    assert np.isnan(seed_bootstrap([one_run("pong", 3.0, -20.0)], geometric_mean_ratio, repetitions=3)).all()


def test_scores_below_zero_are_compared_above_random_play():
    game = one_run("pong", -10.0, 20.0, random=-20.0, human=10.0)
    assert random_normalised_ratio(game) == 0.25
    assert geometric_mean_normalised([game, one_run("b", 1.0, 1.0, random=0.0)]) == pytest.approx(0.5)
    assert human_normalised(game) == pytest.approx((1 / 3, 4 / 3))


def test_each_student_is_measured_by_its_own_teacher():
    student = np.array([[[10.0, 12.0], [8.0, 8.0]], [[1.0, 3.0], [2.0, 2.0]]])
    game = Paired("a", student, np.array([[10.0, 12.0], [3.0, 5.0]]), random=1.0)
    assert run_ratios(game) == pytest.approx(np.array([[1.0, 0.7], [1 / 3, 1 / 3]]))
    assert score_ratio(game) == pytest.approx(5.75 / 7.5)


def test_interquartile_mean_is_rliables():
    generator = np.random.default_rng(0)
    games = [
        Paired(name, generator.uniform(0, 2, (5, 3, 7)), generator.uniform(1, 2, (5, 7))) for name in "abcd"
    ]
    pooled = np.stack([run_ratios(game) for game in games])
    assert interquartile_ratio(games) == pytest.approx(trim_mean(pooled, 0.25, axis=None))


def spread(games, over, **options):
    low, high = seed_bootstrap(games, geometric_mean_ratio, over=over, **options)
    return high - low


def test_each_level_varies_what_it_names():
    ones = np.ones((4, 5, 6))
    teachers_differ = ones * np.arange(1.0, 5)[:, None, None]
    students_differ = ones * np.arange(1.0, 6)[None, :, None]
    episodes_differ = ones * np.arange(1.0, 7)[None, None, :]
    for scores, name in (
        (teachers_differ, "teachers"),
        (students_differ, "students"),
        (episodes_differ, "episodes"),
    ):
        game = Paired("a", scores, np.ones((4, 6)))
        for over in ("teachers", "students", "episodes"):
            assert (spread([game], (over,), repetitions=200) > 0.1) == (over == name), (name, over)


def test_episodes_are_resampled_together_because_they_are_paired():
    luck = np.random.default_rng(0).uniform(1, 100, (1, 40))  # the same starts favour both alike
    assert spread([Paired("a", 0.5 * luck[:, None], luck)], ("episodes",)) == pytest.approx(0.0, abs=1e-12)


def test_interval_over_seeds_covers_the_truth_about_as_often_as_it_says():
    generator, inside = np.random.default_rng(0), 0
    for trial in range(120):
        students = 1 + generator.normal(0, 0.1, (12, 1, 1)) + generator.normal(0, 0.1, (12, 12, 1))
        low, high = seed_bootstrap(
            [Paired("a", students, np.ones((12, 1)))], geometric_mean_ratio, repetitions=200, seed=trial
        )
        inside += low <= 1.0 <= high
    assert 0.85 <= inside / 120 <= 0.99


def test_bootstrap_is_reproducible_from_its_seed():
    game = Paired("a", np.random.default_rng(1).uniform(1, 2, (3, 3, 4)), np.ones((3, 4)))
    once = seed_bootstrap([game], interquartile_ratio, repetitions=50, seed=1)
    assert once == seed_bootstrap([game], interquartile_ratio, repetitions=50, seed=1)
    assert once != seed_bootstrap([game], interquartile_ratio, repetitions=50, seed=2)


@pytest.mark.parametrize(
    ("student", "teacher", "message"),
    [
        (np.ones((2, 3)), np.ones((2, 3)), r"expected scores of students \(teacher seeds, student seeds"),
        (np.ones((2, 0, 3)), np.ones((2, 3)), "none of them 0"),
        (np.ones((2, 3, 4)), np.ones((3, 4)), r"expected scores of teachers \(2, 4\).*got \(3, 4\)"),
        (np.full((1, 1, 2), np.nan), np.ones((1, 2)), "a: scores of students: expected finite"),
        (np.ones((1, 1, 2)), np.full((1, 2), np.inf), "a: scores of teachers: expected finite"),
    ],
)
def test_scores_that_do_not_go_together_are_refused(student, teacher, message):
    with pytest.raises(UserError, match=message):
        Paired("a", student, teacher)


def test_wrong_options_are_refused():
    game = one_run("a", 1.0, 1.0)
    with pytest.raises(UserError, match="at least one ratio"):
        geometric_mean([])
    with pytest.raises(UserError, match="at least one game"):
        seed_bootstrap([], geometric_mean_ratio)
    with pytest.raises(UserError, match="expected some of teachers, students, episodes"):
        seed_bootstrap([game], geometric_mean_ratio, over=("seeds",))
    with pytest.raises(UserError, match="level"):
        seed_bootstrap([game], geometric_mean_ratio, level=95)
