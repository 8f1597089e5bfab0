"""Rounds of policies, recordings and training."""

import json
from pathlib import Path

import pytest

from worldgym.cli import main, refine
from worldgym.data.recordings import Recordings
from worldgym.pretrained import read_config
from worldgym.world_model import WorldModel

pytestmark = [pytest.mark.simulator, pytest.mark.filterwarnings("ignore::UserWarning")]

TRAINING = {"steps": 3, "batch_size": 2, "warmup_steps": 1, "validate_every": 3, "precision": "float32"}
RECIPE = {
    "tokenizer": {
        "model": {
            "type": "compact",
            "width": 8,
            "depth": 1,
            "latent_channels": 4,
            "context_codes": 16,
            "dynamics_codes": 16,
        },
        "job": {"segment_length": 8, "future_frames": 2, "first_share": 0.5},
        "training": TRAINING,
    },
    "transformer": {
        "model": {"layers": 1, "heads": 2, "hidden_size": 16, "mlp_size": 32, "max_positions": 129 + 4 * 17},
        "job": {"segment_length": 6, "later_share": 0.5, "first_share": 0.5, "reward_bins": 8, "head_batches": 1},
        "training": TRAINING,
    },
}


@pytest.fixture
def world(tmp_path: Path) -> Path:
    """A barely trained checkpoint of hammer."""
    (tmp_path / "recipe.json").write_text(json.dumps(RECIPE))
    data = f"--data {tmp_path}/train --held-out {tmp_path}/held-out --recipe {tmp_path}/recipe.json"
    for command in (
        f"collect --out {tmp_path}/train --tasks hammer --episodes random=2,expert=1 --workers 1 --max-steps 45",
        f"collect --out {tmp_path}/held-out --tasks hammer --episodes random=1 --seed 9 --workers 1 --max-steps 45",
        f"train tokenizer {data} --out {tmp_path}/tokenizer",
        f"train transformer {data} --tokenizer {tmp_path}/tokenizer --out {tmp_path}/transformer",
        f"export --tokenizer {tmp_path}/tokenizer --transformer {tmp_path}/transformer --held-out {tmp_path}/held-out "
        f"--out {tmp_path}/world",
    ):
        assert main(command.split()) == 0
    return tmp_path / "world"


def test_rounds_leave_worlds_and_continue(
    world: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(refine, "SLOTS", 2)
    monkeypatch.setattr(refine, "HORIZON", 4)
    monkeypatch.setattr(refine, "CLONE_STAGES", (1, 2))
    out = tmp_path / "refine"
    command = f"refine --checkpoint {world} --data {tmp_path}/train --held-out {tmp_path}/held-out --out {out}"
    command += " --policies 1 --policy-steps 8 --episodes 2 --updates 2"
    assert main(f"{command} --rounds 1".split()) == 0
    shown = capsys.readouterr().out
    assert "promised" in shown
    first = out / "round-1" / "world"
    episodes = Recordings(out / "round-1" / "data").episodes
    assert {episode.info.behaviour for episode in episodes} == {"policy-0", "policy-1", "policy-2"}
    trained_on = read_config(first).training_data
    assert trained_on["trained_on"]["episodes"]["hammer"] == {
        "expert": 1,
        "policy-0": 2,
        "policy-1": 2,
        "policy-2": 2,
        "random": 2,
    }
    assert len(trained_on["earlier"]) == 1
    gap = json.loads((out / "round-1" / "gap.json").read_text())
    assert gap["hammer"]["real"] == pytest.approx(sum(episode.rewards.sum() for episode in episodes) / 6, rel=1e-5)
    before = {path: path.read_bytes() for path in out.rglob("*") if path.is_file()}
    assert main(f"{command} --rounds 2".split()) == 0
    assert all(path.read_bytes() == content for path, content in before.items())
    assert WorldModel.from_pretrained(out / "round-2" / "world").config.slides
    recorded = Recordings(out / "round-1" / "data", out / "round-2" / "data").episodes
    assert len({(episode.info.behaviour, episode.info.seed) for episode in recorded}) == 12
