from pathlib import Path

import numpy as np
import pytest
import torch

from worldgym import WorldModel
from worldgym.config import Sampling
from worldgym.data.recordings import Recordings, Segments, fixed_segments, sample_segments, to_unit
from worldgym.metrics.pixels import psnr
from worldgym.reports.evaluation import Figures, evaluate, perplexities

HORIZON = 3
SAMPLINGS = {"sampled": Sampling(), "greedy": Sampling(top_k=1)}


@pytest.fixture(scope="module")
def tiny(tiny_checkpoint: Path) -> WorldModel:
    return WorldModel.from_pretrained(tiny_checkpoint, device="cpu")


@pytest.fixture(scope="module")
def segments(synthetic_recordings: Path) -> Segments:
    return sample_segments(Recordings(synthetic_recordings), 2 + HORIZON, count=1, steps=12)


@pytest.fixture(scope="module")
def figures(tiny: WorldModel, segments: Segments) -> Figures:
    return evaluate(tiny, segments, SAMPLINGS)


def test_every_predictor_is_measured_over_all_and_by_task(figures: Figures) -> None:
    assert list(figures) == ["all", "hammer", "plate-slide"]
    assert [figures[task]["segments"] for task in figures] == [12, 6, 6]
    for task in figures.values():
        assert set(task) == {"segments", "sampled", "greedy", "last_frame", "reconstruction"}
        assert all(len(task[name]["psnr"]) == HORIZON for name in task if name != "segments")
        assert {name for name in task if name != "segments" and "reward_r2" in task[name]} == set(SAMPLINGS)


def test_the_last_frame_is_measured_as_by_hand(figures: Figures, segments: Segments) -> None:
    frames = segments.batch.frames.numpy().astype(np.float64) / 255
    rows = {"all": range(12), "hammer": [i for i, task in enumerate(segments.tasks) if task == "hammer"]}
    for task, chosen in rows.items():
        for step in range(HORIZON):
            error = np.mean([(frames[row, 1] - frames[row, 2 + step]) ** 2 for row in chosen])
            assert figures[task]["last_frame"]["psnr"][step] == pytest.approx(-10 * np.log10(error), rel=1e-4)


def test_imagined_frames_and_rewards_are_measured_as_by_hand(
    figures: Figures, segments: Segments, tiny: WorldModel
) -> None:
    frames, actions, rewards = segments.batch
    imagined = tiny.rollout(frames[:, :2], actions[:, 1:], top_k=1, generator=torch.Generator().manual_seed(0))
    assert imagined.frames is not None
    error = (to_unit(imagined.frames) - to_unit(frames[:, 2:])).double().square().mean(dim=(0, 2, 3, 4))
    assert figures["all"]["greedy"]["psnr"] == pytest.approx([psnr(float(value)) for value in error], rel=1e-4)
    for step in range(HORIZON):
        real, made = rewards[:, 1 + step].double(), imagined.rewards[:, step].double()
        expected = 1 - ((real - made) ** 2).sum() / ((real - real.mean()) ** 2).sum()
        assert figures["all"]["greedy"]["reward_r2"][step] == pytest.approx(float(expected), rel=1e-4)


def test_a_seed_draws_the_same_tokens(tiny: WorldModel, segments: Segments, figures: Figures) -> None:
    only = {"sampled": Sampling()}
    assert evaluate(tiny, segments, only)["all"]["sampled"] == figures["all"]["sampled"]
    assert evaluate(tiny, segments, only, seed=1)["all"]["sampled"] != figures["all"]["sampled"]


def test_a_motionless_world_is_predicted_perfectly_by_its_last_frame(tiny: WorldModel, segments: Segments) -> None:
    still = segments.batch._replace(frames=segments.batch.frames[:, :1].expand(-1, 2 + HORIZON, -1, -1, -1))
    assert evaluate(tiny, Segments(still, segments.tasks), {})["all"]["last_frame"]["psnr"] == [np.inf] * HORIZON


def test_segments_are_worked_off_in_chunks(
    tiny: WorldModel, segments: Segments, figures: Figures, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("worldgym.reports.evaluation.CHUNK", 5)
    again = evaluate(tiny, segments, {"greedy": Sampling(top_k=1)})
    for name in ("greedy", "reconstruction"):
        assert again["all"][name]["psnr"] == pytest.approx(figures["all"][name]["psnr"], rel=1e-3)


def test_a_video_is_written(tiny: WorldModel, segments: Segments, tmp_path: Path) -> None:
    evaluate(tiny, segments, {"sampled": Sampling()}, tmp_path / "video.gif")
    assert (tmp_path / "video.gif").read_bytes()[:3] == b"GIF"


def test_perplexities_lie_within_the_codebooks(tiny: WorldModel, synthetic_recordings: Path) -> None:
    found = perplexities(tiny, fixed_segments(Recordings(synthetic_recordings), 5, (0,)))
    assert set(found) == {"context", "dynamics"}
    assert all(1 <= value <= 16 for value in found.values())
