"""The planner as a driver: what it plans from, when it plans again, and that it can be stopped."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import pytest

from worldgym.agents.planning import PlanningAgent
from worldgym.agents.planning.agent import Episode
from worldgym.envs.actions import ActionCodec
from worldgym.errors import InvalidOption
from worldgym.play import planner
from worldgym.play.session import PlaySession, Settings

MakeSession = Callable[..., PlaySession]


@pytest.fixture(autouse=True)
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    """Plans that are made fast."""
    monkeypatch.setattr(planner, "CANDIDATES", 8)
    monkeypatch.setattr(planner, "ELITES", 2)
    monkeypatch.setattr(planner, "HORIZON", 3)
    monkeypatch.setattr(planner, "REPLAN_EVERY", 2)


@pytest.fixture
def session(make_session: MakeSession) -> PlaySession:
    """A session in its third step."""
    made = make_session()
    made.reset(seed=3)
    made.step([1, 0])
    made.step([0, 1])
    return made


@pytest.fixture
def searched(monkeypatch: pytest.MonkeyPatch) -> list[Episode]:
    """The episodes that plans were made for, as they were then."""
    found = []
    search = PlanningAgent._search

    def noted(self: PlanningAgent, episode: Episode) -> Any:
        found.append(Episode(episode.seed, list(episode.frames), list(episode.actions)))
        return search(self, episode)

    monkeypatch.setattr(PlanningAgent, "_search", noted)
    return found


def test_it_plans_from_the_imagined_past_and_carries_out_some_steps(
    session: PlaySession, searched: list[Episode]
) -> None:
    frames = [moment.frame for moment in session._moments]
    for _ in range(3):
        session.step(None, "planner")
    assert len(searched) == 2
    np.testing.assert_array_equal(searched[0].frames, frames)
    np.testing.assert_array_equal(searched[0].actions, [[1, 0], [0, 1]])
    acted = session.view().values["acted"]
    assert acted["driver"] == "planner"
    assert acted["action"] == session._moments[-1].action.tolist()
    assert acted["milliseconds"] > 0
    assert all(np.abs(moment.action).max() <= 1 for moment in session._moments[3:])


def test_equal_sessions_plan_equally(make_session: MakeSession) -> None:
    chosen = []
    for _ in range(2):
        session = make_session()
        session.reset(seed=3)
        for _ in range(3):
            session.step(None, "planner")
        chosen.append([moment.action for moment in session._moments[1:]])
    np.testing.assert_array_equal(*chosen)


@pytest.mark.parametrize("between", ["person", "rewind"])
def test_a_plan_is_not_continued_after_something_else(
    session: PlaySession, searched: list[Episode], between: str
) -> None:
    session.step(None, "planner")
    if between == "person":
        session.step([0, 0])
        assert session.view().values["acted"] is None
    else:
        session.rewind(1)
    session.step(None, "planner")
    assert len(searched) == 2


def test_it_stops_when_the_person_takes_over(session: PlaySession) -> None:
    before = session.view()
    asked = 0

    def stopped() -> bool:
        nonlocal asked
        asked += 1
        return asked > 1

    session.step(None, "planner", stopped)
    assert asked == 2  # not at the end alone: three iterations were to come
    assert session.view().values == before.values
    session.step([1, 0])
    session.step(None, "planner")
    assert session.view().values["step"] == 4


def test_all_futures_take_its_actions(session: PlaySession) -> None:
    session.fork("luck")
    session.step(None, "planner")
    session.step(None, "planner")
    session.choose(0)
    assert session.view().values["step"] == 4


def test_actions_of_another_scale_are_planned_too(make_checkpoint: Any, tmp_path: Path) -> None:
    space = gym.spaces.Box(np.float32([2, -3]), np.float32([6, -1]))
    folder = make_checkpoint(action_dim=2, action_space=ActionCodec(space).describe())
    session = PlaySession(Settings(str(folder), tmp_path, simulator=False))
    session.picture(Path(__file__).parents[2].joinpath("docs/imagined.png").read_bytes())
    session.step(None, "planner")
    assert space.contains(session._moments[-1].action)
    np.testing.assert_allclose(session._codec.encode(session._moments[-1].action), session._moments[-1].vector)


def test_there_is_none_for_lists_of_actions(discrete_checkpoint: Path, tmp_path: Path) -> None:
    session = PlaySession(Settings(str(discrete_checkpoint), tmp_path))
    session.reset()
    assert session.view().values["drivers"] == []
    with pytest.raises(InvalidOption, match="nobody is called 'planner'"):
        session.step(None, "planner")
