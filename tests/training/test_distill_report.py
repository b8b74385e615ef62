"""What a distillation's report says, and what it shows where nothing is known."""

import pytest

from factotum.core.files import append_json_line
from factotum.training.distill_report import learning_figure, size_figure, write_distill_report

GAME = {
    "task": "minatar/a", "teacher_parameters": 1000, "teacher_latency_ms": 0.5, "agreement_on_teacher_states": 0.97,
    "agreement_on_student_states": 0.83,
}  # fmt: skip
EVALUATION = {
    "of": {"episodes": 100, "epsilon": 0.05}, "protocol": "Whole games.",
    "student": {"parameters": 40, "bytes": 160, "latency_ms": 0.1, "device": "cpu"}, "games": [GAME],
    "tasks": {"minatar/a": {
        "student": 8.4, "teacher": 10.0, "random": 1.0, "ratio": [0.84, 0.8, 0.9], "human_normalised": None,
        "random_normalised_ratio": [0.822, 0.77, 0.88],
    }},
    "geometric_mean_ratio": [0.84, 0.8, 0.9], "geometric_mean_normalised": [0.822, 0.77, 0.88],
}  # fmt: skip
UNDEFINED = {
    **EVALUATION,
    "games": [{"task": "minatar/a", "teacher_parameters": None, "teacher_latency_ms": 0.5,
               "distance_on_teacher_states": 0.01, "distance_on_student_states": 0.25}],
    "tasks": {"minatar/a": {
        "student": -8.0, "teacher": -4.0, "random": -20.0, "ratio": [None] * 3, "human_normalised": [0.5, 1.25],
        "random_normalised_ratio": [0.75, None, None],
    }},
    "geometric_mean_ratio": [None] * 3, "geometric_mean_normalised": [0.75, None, None],
}  # fmt: skip


@pytest.fixture
def run(tmp_path):
    for step in (1, 2, 3):
        line = {
            "step": step,
            "loss": 1 / step,
            "agreement": 0.5,
            "agreement/x": 0.4,
            "agreement/y": 0.6,
            "kl": 0.1,
        }
        append_json_line(tmp_path / "metrics.jsonl", {**line, "timing": {"seconds": 30.0 * step}})
    return tmp_path


def report(run, evaluation, **options):
    return write_distill_report(run, evaluation, **options).read_text()


def test_the_report_tells_ratios_sizes_and_agreement(run):
    hours = [{"hour": hour, "task": "minatar/a", "acting": "teacher", "score": 9.0} for hour in range(3)]
    scores = [{"hour": 2, "step": 2, "score": {"minatar/a": 5.0}}]
    text = report(run, EVALUATION, hours=hours, scores=scores, play_seconds=10.0)
    for told in (
        "84.0% [80.0%, 90.0%]",
        "82.2% [77.0%, 88.0%]",
        "4.0% of the teacher",
        "97.0%",
        "83.0%",
        "100 games",
    ):
        assert told in text, told
    assert "90% of the time was the student&#x27;s" in text or "90% of the time was the student's" in text
    assert "http://" not in text.replace("http://www.w3.org", "")


def test_what_is_undefined_is_said(run):
    text = report(run, UNDEFINED)
    assert "undefined" in text
    assert "75.0%" in text
    assert "50% (teacher 125%)" in text
    assert "Mean squared distance" in text
    assert "unknown" in text
    assert (
        size_figure({"run": UNDEFINED}).axes[0].get_ylabel() == "score over the teacher's, above random play"
    )


def test_other_students_of_the_same_teachers_stand_beside(run):
    other = {**EVALUATION, "student": {"parameters": 77, "bytes": 308, "latency_ms": 0.2, "device": "cpu"}}
    text = report(run, EVALUATION, beside={"wider": other})
    assert "wider" in text
    assert ">77<" in text
    assert "Other students are runs beside this one" in text
    labels = [
        entry.get_text()
        for entry in size_figure({"a": EVALUATION, "wider": other}).axes[1].get_legend().texts
    ]
    assert labels == ["teachers", "a", "wider"] or set(labels) == {"teachers", "a", "wider"}


def test_a_run_that_is_not_finished_has_a_report_too(run):
    text = report(run, None, title="on the way")
    assert "on the way" in text
    assert "Student beside its teachers" not in text


def test_curves_by_task_where_there_are_several():
    line = {"step": 1, "loss": 1.0, "agreement": 0.5, "agreement/x": 0.4, "agreement/y": 0.6, "error": 2.0}
    figure = learning_figure([line], [{"hour": 0, "task": "x", "score": None}])
    titles = [axes.get_title(loc="left") for axes in figure.axes]
    assert titles == ["loss", "agreement with the teacher", "squared distance of actions"]
    assert len(figure.axes[1].lines) == 2
