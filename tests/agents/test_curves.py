"""Learning curves of several runs."""

import json
from pathlib import Path

import pytest
from PIL import Image

from worldgym.agents.curves import curves, write_curves
from worldgym.errors import DataError


def make_run(folder: Path, method: str, success: dict[int, float], task: str = "hammer", **training: int) -> Path:
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps({"method": method, "task": task, "training": training}))
    lines = [{"step": 5, "agent/q": 1.0}]
    lines += [{"step": step, "evaluation/success": v, "evaluation/return": 10 * v} for step, v in success.items()]
    (folder / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    return folder


def test_runs_of_one_method_are_averaged_at_common_steps(tmp_path: Path) -> None:
    runs = [
        make_run(tmp_path / "a0", "A", {10: 0.0, 20: 0.5, 30: 1.0}),
        make_run(tmp_path / "a1", "A", {10: 0.2, 20: 0.9}),
        make_run(tmp_path / "b0", "B", {10: 0.1}),
        make_run(tmp_path / "c0", "A", {10: 1.0}, task="coffee-push"),
    ]
    found = curves(runs)
    assert list(found) == ["coffee-push", "hammer"]
    assert list(found["hammer"]) == ["A", "B"]
    a = found["hammer"]["A"]
    assert a["steps"] == [10, 20]
    assert a["success"] == {"mean": pytest.approx([0.1, 0.7]), "min": [0.0, 0.5], "max": [0.2, 0.9]}
    assert a["return"]["mean"] == pytest.approx([1.0, 7.0])
    assert a["runs"][str(runs[0])] == {"steps": [10, 20, 30], "success": [0.0, 0.5, 1.0], "return": [0.0, 5.0, 10.0]}
    picture, numbers = write_curves(found, tmp_path / "out" / "curves.png")
    assert json.loads(numbers.read_text()) == found
    with Image.open(picture) as image:
        assert len(image.convert("RGB").getcolors(10**6)) > 50


def test_folders_without_curves_are_refused(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataError, match=r"empty: expected a run of .worldgym mbpo"):
        curves([tmp_path / "empty"])
    young = make_run(tmp_path / "young", "A", {})
    with pytest.raises(DataError, match="expected an evaluation, found none"):
        curves([young])
    apart = [make_run(tmp_path / name, "A", {step: 0.0}) for name, step in (("x", 1), ("y", 2))]
    with pytest.raises(DataError, match="found no common step"):
        curves(apart)


def test_averaging_runs_of_other_settings_warns(tmp_path: Path) -> None:
    runs = [make_run(tmp_path / str(seed), "A", {1: 0.0}, seed=seed, horizon=5) for seed in range(2)]
    assert len(curves(runs)["hammer"]["A"]["runs"]) == 2
    other = make_run(tmp_path / "other", "A", {1: 0.0}, seed=2, horizon=9)
    with pytest.warns(UserWarning, match=r"other is averaged with .*0, but .*: training.horizon: saved 5, requested 9"):
        curves([*runs, other])


def test_incomplete_last_line_of_a_log_is_ignored(tmp_path: Path) -> None:
    run = make_run(tmp_path / "run", "A", {10: 0.5})
    with (run / "metrics.jsonl").open("a") as file:
        file.write('{"step": 20, "evaluation/succ')
    assert curves([run])["hammer"]["A"]["steps"] == [10]


@pytest.mark.parametrize("name", ["curves", "curves.foo", "curves.json"])
def test_plot_needs_a_picture_suffix(name: str, tmp_path: Path) -> None:
    run = make_run(tmp_path / "run", "A", {10: 0.5})
    with pytest.raises(DataError, match=r"expected a file name that ends in .*\.png"):
        write_curves(curves([run]), tmp_path / "out" / name)
    assert not (tmp_path / "out").exists()
