import pytest
from gymnasium import spaces

from factotum.core.checks import UserError
from factotum.worlds.suites import registry
from factotum.worlds.suites.jat import jat_score
from factotum.worlds.suites.task import Suite, Task


def chess(name="chess/Mate"):
    return Task(name, None, spaces.Dict({}), spaces.Discrete(2), "mate", name, "success", 10)


CHESS = Suite("chess", "Chess", ("chess/Mate", "chess/Stale"), chess, ("no_such_module",), None)


class EntryPoint:
    name = "their-chess"

    def __init__(self, made):
        self.made = made

    def load(self):
        return lambda: self.made


@pytest.fixture
def install(monkeypatch):
    def install_points(*made):
        monkeypatch.setattr(registry, "entry_points", lambda group: [EntryPoint(each) for each in made])
        registry._all_suites.cache_clear()

    yield install_points
    registry._all_suites.cache_clear()


def test_built_in_suites_have_the_counts_of_the_paper():
    counts = {name: len(suite.names) for name, suite in registry.suites().items()}
    assert {name: counts[name] for name in ("babyai", "metaworld", "atari", "mujoco")} == {
        "babyai": 39,
        "metaworld": 50,
        "atari": 57,
        "mujoco": 11,
    }


def test_suites_of_other_packages_register_by_entry_point(install):
    install(CHESS)
    assert registry.task("chess/Mate").instruction == "mate"
    assert registry.expand(["chess"]) == ["chess/Mate", "chess/Stale"]
    install([CHESS])
    assert "chess" in registry.suites()


@pytest.mark.parametrize("made", [(CHESS, CHESS), (3.5,), ([CHESS, "checkers"],)])
def test_bad_entry_points_are_named(install, made):
    install(*made)
    with pytest.raises(UserError, match="their-chess"):
        registry.suites()


def test_expand_takes_suites_globs_and_names_once_and_in_order():
    names = registry.expand(["babyai/GoToRedBall", "babyai/GoToRed*", "metaworld/reach", "text:/some/folder"])
    assert names == [
        "babyai/GoToRedBall",
        "babyai/GoToRedBallGrey",
        "babyai/GoToRedBallNoDists",
        "babyai/GoToRedBlueBall",
        "metaworld/reach",
        "text:/some/folder",
    ]
    assert len(registry.expand(["metaworld"])) == 50


@pytest.mark.parametrize("pattern", ["babyai/GotoLocal", "babyai/Nothing*", "metawrld", ""])
def test_unknown_patterns_are_refused(pattern):
    with pytest.raises(UserError, match="unknown task"):
        registry.expand([pattern])


def test_unknown_task_names_the_closest():
    with pytest.raises(UserError, match="did you mean babyai/GoToLocal"):
        registry.task("babyai/GotoLocal")


def test_missing_packages_give_the_install_command():
    assert CHESS.missing() == "pip install no_such_module"
    assert Suite("x", "X", (), chess, ("no_such_module", "json"), "chess").missing() == (
        "pip install 'factotum[chess]'"
    )
    assert Suite("x", "X", (), chess, ("json",), "chess").missing() is None


def test_jat_scores_cover_their_four_suites():
    names = registry.expand(["babyai", "metaworld", "atari", "mujoco"])
    assert all(jat_score(name) is not None for name in names)
    assert jat_score("babyai/BossLevel") == pytest.approx(0.5435)
    assert jat_score("gym/Taxi") is None
