"""The meta-training report shows the numbers it was given and needs no network."""

import json

from factotum.training.search_report import progress_figure, search_figure, write_search_report

MEASURED = {
    "step": 1200,
    "held_out": {"2d/10": -1.25, "2d/20": -1.5, "3d/20": -1.75},
    "random": {"2d/10": -1.0, "2d/20": -1.125, "3d/20": -2.0},
    "curves": {
        "2d": {"core": [0.0, -1.5], "random": [0.0, -1.125]},
        "3d": {"core": [0.0, -1.75], "random": [0.0, -2.0]},
    },
}
METRICS = [{"step": step, "held_out": MEASURED["held_out"], "random": MEASURED["random"]} for step in (1, 2)]


def test_report_and_picture(tmp_path):
    lines = [{"step": 1, "loss": 1.0}, *METRICS]
    (tmp_path / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    page = write_search_report(tmp_path, MEASURED, title="A sampler").read_text()
    for shown in ("A sampler", "1,200 training steps", "-1.250", "-1.125", "-0.375", "+0.250"):
        assert shown in page
    assert page.count("<svg") == 3  # searches, progress, learning curves
    assert "http" not in page
    assert (tmp_path / "held_out.png").read_bytes().startswith(b"\x89PNG")


def test_a_run_without_measurements_has_its_curves(tmp_path):
    (tmp_path / "metrics.jsonl").write_text('{"step": 1, "loss": 1.0}\n')
    page = write_search_report(tmp_path, None, title="A sampler").read_text()
    assert "Learning curves" in page
    assert "Held-out" not in page
    assert not (tmp_path / "held_out.png").exists()


def test_curves_are_the_values_over_evaluations():
    panels = search_figure(MEASURED["curves"]).axes
    assert [axes.get_title(loc="left") for axes in panels] == ["2d", "3d"]
    core, chance = panels[1].get_lines()
    assert (core.get_label(), list(core.get_xdata()), list(core.get_ydata())) == (
        "core",
        [1, 2],
        [0.0, -1.75],
    )
    assert list(chance.get_ydata()) == [0.0, -2.0]


def test_progress_has_a_line_a_horizon_and_random_search_dashed():
    first, second = progress_figure([{"step": 0, "loss": 1.0}, *METRICS]).axes
    solid, dashed, *_ = first.get_lines()
    assert list(solid.get_xdata()) == [1, 2]
    assert list(solid.get_ydata()) == [-1.25, -1.25]
    assert dashed.get_ydata()[0] == -1.0
    assert len(first.get_lines()) == 4
    assert len(second.get_lines()) == 2
