"""The table of simulators and learned worlds."""

import json
from pathlib import Path

import pytest

from worldgym.cli import main
from worldgym.envs.registry import specs


def test_every_family_has_a_row(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["worlds"]) == 0
    rows = capsys.readouterr().out.splitlines()[2:]
    families = {spec.simulator_id: spec for name, spec in specs().items() if name}
    assert [row.split("|")[1].strip() for row in rows] == list(families)
    for row, spec in zip(rows, families.values(), strict=True):
        assert spec.tasks[0] in row
        assert spec.install in row
        assert (spec.checkpoint or "-") in row


def test_measured_rates_are_written(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "worlds.json"
    assert main(f"worlds --names Toy Dials --measure --steps 30 --out {out}".split()) == 0
    found = json.loads(out.read_text())
    assert found["worlds"].keys() == {"Toy", "Dials"}
    for about in found["worlds"].values():
        assert about["real_fps"] > 10
        assert about["expert"] is True
    assert {"date", "machine", "commit"} <= found.keys()
    assert "frames/s real" in capsys.readouterr().out


@pytest.mark.simulator
def test_a_learned_world_has_fidelity_and_a_rate(tmp_path: Path) -> None:
    out = tmp_path / "worlds.json"
    assert main(f"worlds --names MetaWorld --measure --steps 5 --out {out}".split()) == 0
    (about,) = json.loads(out.read_text())["worlds"].values()
    assert about["checkpoint"] == "metaworld-64"
    assert about["psnr_over_last_frame"] > 2
    assert about["imagined_fps"] > 1


def test_unknown_simulators_name_the_nearest(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["worlds", "--names", "MetaWord"]) == 2
    assert "did you mean 'MetaWorld'" in capsys.readouterr().err
