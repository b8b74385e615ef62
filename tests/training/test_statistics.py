from __future__ import annotations

import json
from importlib.resources import files

import numpy as np
import pytest
from scipy.stats import trim_mean

from factotum.core.checks import UserError
from factotum.training.statistics import (
    can_normalise,
    interquartile_mean,
    mean,
    median,
    normalised_score,
    share_at_least,
    stratified_bootstrap,
    task_means,
    worst,
)

JAT = json.loads(files("factotum.worlds.suites").joinpath("jat_scores.json").read_text())


def test_normalised_score_by_hand():
    assert normalised_score(1518.7, random=227.8, expert=16912.5) == pytest.approx(
        0.0774, abs=5e-5
    )  # JAT, Alien
    assert normalised_score([-1.0, 0.0, 1.0], -1.0, 1.0).tolist() == [0.0, 0.5, 1.0]


@pytest.mark.parametrize(("random", "expert"), [(23.1, 20.4), (0.0, 0.0), (0.0, np.nan), (-np.inf, 1.0)])
def test_without_a_scale_normalisation_is_refused(random, expert):
    assert not can_normalise(random, expert)
    with pytest.raises(UserError, match="expert score above the random one"):
        normalised_score(1.0, random, expert)


@pytest.mark.parametrize("domain", ["atari", "babyai", "metaworld", "mujoco", "all"])
def test_published_summary_of_jat(domain):
    rows = [row for row in JAT["tasks"].values() if domain in ("all", row["domain"])]
    tasks = [np.array([row["jat_normalised_card"]]) for row in rows]
    published = JAT["domain_summary_from_card_values"][domain]
    assert len(tasks) == published["tasks"]
    assert float(mean(tasks)) == pytest.approx(published["mean"], abs=1e-4)
    assert float(median(tasks)) == pytest.approx(published["median"], abs=1e-4)
    assert round(float(share_at_least(tasks, 0.5)) * len(tasks)) == published["at_least_0_5"]
    assert round(float(share_at_least(tasks, 0.9)) * len(tasks)) == published["at_least_0_9"]


@pytest.mark.parametrize("shape", [(1, 1), (3, 1), (4, 5), (7, 50), (157, 3)])
def test_interquartile_mean_is_the_trimmed_mean_that_rliable_takes(shape):
    scores = np.random.default_rng(0).normal(size=shape)
    assert float(interquartile_mean(list(scores))) == pytest.approx(
        trim_mean(scores, 0.25, axis=None), rel=1e-12
    )


def test_interquartile_mean_by_hand():
    # eight scores: two lowest and two highest are dropped, (2 + 3 + 4 + 5) / 4 is left
    assert float(interquartile_mean([np.array([0.0, 1, 2, 3]), np.array([4.0, 5, 6, 700])])) == 3.5


def test_tasks_count_once_however_many_episodes():
    tasks = [np.zeros(99), np.ones(1)]
    assert float(mean(tasks)) == 0.5
    assert task_means(tasks).tolist() == [0.0, 1.0]
    assert float(share_at_least(tasks, 0.5)) == 0.5


def test_statistics_keep_leading_axes():
    tasks = [np.random.default_rng(task).normal(size=(6, 10 + task)) for task in range(4)]
    for statistic in (mean, median, interquartile_mean, share_at_least):
        each = [float(statistic([task[row] for task in tasks])) for row in range(6)]
        assert statistic(tasks) == pytest.approx(each)


def test_worst_ten():
    scores = {f"t{i:02}": i / 20 for i in range(20)}
    assert worst(scores) == [(f"t{i:02}", i / 20) for i in range(10)]


def test_bootstrap_interval_of_a_mean_matches_the_normal_approximation():
    tasks = list(np.random.default_rng(1).normal(size=(5, 50)))
    error = np.sqrt(np.mean([task.var() / 50 for task in tasks]) / 5)
    low, high = stratified_bootstrap(tasks, mean)
    centre = float(mean(tasks))
    assert low == pytest.approx(centre - 1.96 * error, abs=0.12 * error)
    assert high == pytest.approx(centre + 1.96 * error, abs=0.12 * error)


def test_bootstrap_resamples_within_tasks():
    # tasks differ, their episodes do not: a resample of episodes changes nothing, one of tasks would
    assert stratified_bootstrap([np.zeros(20), np.ones(20)], mean) == (0.5, 0.5)


def test_bootstrap_covers_the_truth_about_as_often_as_it_says():
    generator = np.random.default_rng(0)
    inside = 0
    for trial in range(200):
        tasks = list(generator.normal(size=(4, 40)))
        low, high = stratified_bootstrap(tasks, interquartile_mean, repetitions=300, seed=trial)
        inside += low <= 0.0 <= high
    assert 0.89 <= inside / 200 <= 0.99


def test_bootstrap_is_reproducible_from_its_seed():
    tasks = list(np.random.default_rng(2).normal(size=(3, 10)))
    once = stratified_bootstrap(tasks, median, repetitions=100, seed=3)
    assert once == stratified_bootstrap(tasks, median, repetitions=100, seed=3)
    assert once != stratified_bootstrap(tasks, median, repetitions=100, seed=4)


def test_emptiness_is_refused():
    for tasks in ([], [np.zeros(0)]):
        with pytest.raises(UserError, match="at least one"):
            mean(tasks)
        with pytest.raises(UserError, match="at least one"):
            stratified_bootstrap(tasks, mean)
    with pytest.raises(UserError, match="level"):
        stratified_bootstrap([np.zeros(3)], mean, level=95)
