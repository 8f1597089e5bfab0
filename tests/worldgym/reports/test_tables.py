import math
from typing import Any

import pytest

from worldgym.data.summary import Summary
from worldgym.reports.tables import data_table, horizon_table, number, table, task_table


def figures(psnr: list[float | None], still: list[float | None], rewards: list[float | None] | None) -> dict[str, Any]:
    sampled = {"psnr": psnr} if rewards is None else {"psnr": psnr, "reward_r2": rewards}
    return {"segments": 7, "sampled": sampled, "last_frame": {"psnr": still}}


def cells(text: str) -> list[list[str]]:
    return [[cell.strip() for cell in line.strip("| ").split(" | ")] for line in text.splitlines()]


def test_columns_have_equal_width() -> None:
    lines = table(["a", "long name"], [["1", "2"], ["a longer cell", "3"]]).splitlines()
    assert lines[0] == "| a             | long name |"
    assert lines[1] == "| ------------- | --------- |"
    assert len({len(line) for line in lines}) == 1


@pytest.mark.parametrize("task", ["a|b", "a\nb", "a \r\n b"])
def test_names_of_tasks_do_not_break_a_table(task: str) -> None:
    lines = table(["task"], [[task]]).splitlines()
    assert len(lines) == 3
    assert lines[2].replace(r"\|", "").count("|") == 2


@pytest.mark.parametrize("value", [None, math.inf, -math.inf, math.nan])
def test_figures_that_are_not_finite_are_shown_as_a_dash(value: float | None) -> None:
    assert number(value, ".1f") == "-"
    assert number(1.25, "+.1f") == "+1.2"
    found = figures([30.0, value], [20.0, value], [value, 0.5])
    assert cells(horizon_table(found))[2:] == [["1", "30.0", "20.0", "-"], ["2", "-", "-", "0.50"]]
    assert cells(task_table({"all": found}))[2] == ["all", "7", "30.0", "+10.0", "-", "-", "-", "0.50"]


def test_without_rewards_there_are_none_to_show() -> None:
    found = figures([30.0], [20.0], None)
    assert cells(horizon_table(found))[0] == ["horizon", "PSNR sampled", "PSNR last frame repeated"]
    assert cells(task_table({"all": found, "push": found}))[2:] == [
        [task, "7", "30.0", "+10.0", "-"] for task in ("push", "all")
    ]


@pytest.mark.parametrize("seeds", [{"expert": [0, 1], "random": [0, 0]}, {"push": {"expert": "0-1", "random": "0"}}])
def test_episodes_are_counted_by_task_and_behaviour(seeds: Summary) -> None:
    trained = {"episodes": {"push": {"expert": 2, "random": 1}}, "seeds": seeds}
    held_out = {"episodes": {"pull": {"expert": 4}}, "seeds": {"pull": {"expert": "9-12"}}}
    assert cells(data_table({"trained_on": trained, "held_out": held_out})) == [
        ["episodes", "training: expert", "training: random", "held out: expert"],
        ["--------", "----------------", "----------------", "----------------"],
        ["pull", "0", "0", "4"],
        ["push", "2", "1", "0"],
    ]
