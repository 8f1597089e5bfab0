import dataclasses
import json
from pathlib import Path

import numpy as np
import pytest
import torch

from worldgym import WorldModel
from worldgym.config import Sampling, WorldModelConfig
from worldgym.data.branches import read_branches
from worldgym.data.recordings import Batch, Recordings, Segments, fixed_segments, sample_segments, to_unit
from worldgym.errors import ConfigError, DataError
from worldgym.metrics.pixels import psnr
from worldgym.reports.evaluation import Figures, evaluate, imagine_segments, perplexities
from worldgym.reports.tables import horizon_table, task_table
from worldgym.storage.files import to_json
from worldgym.tokenizer import build_tokenizer
from worldgym.transformer.transformer import Transformer

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


def test_psnr_of_the_last_frame_equals_its_definition(figures: Figures, segments: Segments) -> None:
    frames = segments.batch.frames.numpy().astype(np.float64) / 255
    rows = {"all": range(12), "hammer": [i for i, task in enumerate(segments.tasks) if task == "hammer"]}
    for task, chosen in rows.items():
        for step in range(HORIZON):
            error = np.mean([(frames[row, 1] - frames[row, 2 + step]) ** 2 for row in chosen])
            assert figures[task]["last_frame"]["psnr"][step] == pytest.approx(-10 * np.log10(error), rel=1e-4)


def test_psnr_and_r_squared_of_a_rollout_equal_their_definitions(
    figures: Figures, segments: Segments, tiny: WorldModel
) -> None:
    frames, actions, rewards = segments.batch[:3]
    imagined = tiny.rollout(frames[:, :2], actions[:, 1:], top_k=1, generator=torch.Generator().manual_seed(0))
    assert imagined.frames is not None
    error = (to_unit(imagined.frames) - to_unit(frames[:, 2:])).double().square().mean(dim=(0, 2, 3, 4))
    assert figures["all"]["greedy"]["psnr"] == pytest.approx([psnr(float(value)) for value in error], rel=1e-4)
    for step in range(HORIZON):
        real, made = rewards[:, 1 + step].double(), imagined.rewards[:, step].double()
        expected = 1 - ((real - made) ** 2).sum() / ((real - real.mean()) ** 2).sum()
        assert figures["all"]["greedy"]["reward_r2"][step] == pytest.approx(float(expected), rel=1e-4)


def test_equal_seeds_sample_equal_tokens(tiny: WorldModel, segments: Segments, figures: Figures) -> None:
    only = {"sampled": Sampling()}
    assert evaluate(tiny, segments, only)["all"]["sampled"] == figures["all"]["sampled"]
    assert evaluate(tiny, segments, only, seed=1)["all"]["sampled"] != figures["all"]["sampled"]


def test_psnr_is_infinite_where_nothing_moves(tiny: WorldModel, segments: Segments) -> None:
    still = segments.batch._replace(frames=segments.batch.frames[:, :1].expand(-1, 2 + HORIZON, -1, -1, -1))
    assert evaluate(tiny, Segments(still, segments.tasks), {})["all"]["last_frame"]["psnr"] == [np.inf] * HORIZON


def test_chunks_of_another_size_give_equal_figures(
    tiny: WorldModel, segments: Segments, figures: Figures, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("worldgym.reports.evaluation.CHUNK", 5)
    again = evaluate(tiny, segments, {"greedy": Sampling(top_k=1)})
    for name in ("greedy", "reconstruction"):
        assert again["all"][name]["psnr"] == pytest.approx(figures["all"][name]["psnr"], rel=1e-3)


def test_shown_frames_are_read_before_the_future_is_imagined(tiny: WorldModel, synthetic_recordings: Path) -> None:
    branches = read_branches(Recordings(synthetic_recordings), [(3, 2), (4, 0), (5, 6), (6, 2)], 2, HORIZON, 4)
    frames, rewards = imagine_segments(tiny, branches, Sampling(top_k=1), 0, "test", ("frames", "rewards"))
    batch, _, shown = branches
    assert shown is not None
    for row, count in enumerate(shown.counts.tolist()):
        assert count == [2, 0, 4, 2][row]
        known = torch.cat([batch.frames[row, :2], shown.frames[row, 4 - count :]])[None]
        state = tiny.start(known, shown.actions[row, 4 - count :][None] if count else None)
        alone = tiny.imagine(state, batch.actions[row, 1:][None], top_k=1)
        assert frames[row].equal(alone.frames[0])
        torch.testing.assert_close(rewards[row], alone.rewards[0])
    last = evaluate(tiny, branches, {})["all"]["last_frame"]["psnr"][0]
    shown_last = torch.stack([batch.frames[1, 1] if row == 1 else shown.frames[row, -1] for row in range(4)])
    error = (to_unit(shown_last) - to_unit(batch.frames[:, 2])).double().square().mean()
    assert last == pytest.approx(psnr(float(error)), rel=1e-4)


def test_a_model_without_actions_is_shown_no_frames_behind_its_context(
    tiny_config: WorldModelConfig, synthetic_recordings: Path
) -> None:
    config = dataclasses.replace(tiny_config, action_dim=0)
    model = WorldModel(config, build_tokenizer(config.tokenizer), Transformer.build(config))
    branches = read_branches(Recordings(synthetic_recordings), [(0, 2)], 2, HORIZON, 4)
    with pytest.raises(ConfigError, match="starts from its context alone"):
        evaluate(model, branches, SAMPLINGS)


def test_a_video_is_written(tiny: WorldModel, segments: Segments, tmp_path: Path) -> None:
    evaluate(tiny, segments, {"sampled": Sampling()}, tmp_path / "video.gif")
    assert (tmp_path / "video.gif").read_bytes()[:3] == b"GIF"


def test_perplexities_lie_within_the_codebooks(tiny: WorldModel, synthetic_recordings: Path) -> None:
    found = perplexities(tiny, fixed_segments(Recordings(synthetic_recordings), 5, (0,)))
    assert set(found) == {"context", "dynamics"}
    assert all(1 <= value <= 16 for value in found.values())


def test_rewards_in_a_column_are_refused(tiny: WorldModel, segments: Segments) -> None:
    column = segments.batch._replace(rewards=segments.batch.rewards[..., None])
    for measure in (lambda broken: evaluate(tiny, broken, SAMPLINGS), lambda broken: perplexities(tiny, broken)):
        with pytest.raises(DataError, match=r"expected .* rewards float32 \[B, L - 1\], .*got .*\[12, 4, 1\]"):
            measure(Segments(column, segments.tasks))


def test_segments_that_do_not_fit_the_model_are_refused(tiny: WorldModel, segments: Segments) -> None:
    frames, actions, rewards = segments.batch[:3]
    for batch, tasks, message in (
        (segments.batch, segments.tasks[:5], "expected a task for each of the segments 12, got 5"),
        (segments.batch._replace(frames=frames[:, :, ::2, ::2]), segments.tasks, r"size \(64, 64\), got \(32, 32\)"),
        (segments.batch._replace(frames=frames[:, :, ::2]), segments.tasks, r"size \(64, 64\), got \(32, 64\)"),
        (segments.batch._replace(actions=actions[..., :3]), segments.tasks, "actions of length 4, got 3"),
        (Batch(frames[:, :2], actions[:, :1], rewards[:, :1]), segments.tasks, "more than 2 frames, got 12 of 2"),
        (Batch(frames[:0], actions[:0], rewards[:0]), [], "at least 1 segment .*, got 0 of 5"),
    ):
        with pytest.raises(DataError, match=message):
            evaluate(tiny, Segments(batch, tasks), SAMPLINGS)


def test_a_model_without_rewards_or_actions_is_measured_by_its_frames(tiny: WorldModel, segments: Segments) -> None:
    config = dataclasses.replace(tiny.config, action_dim=0, reward=False)
    transformer = Transformer(config.transformer, config.layout, 0, False)
    found = evaluate(WorldModel(config, tiny.tokenizer, transformer), segments, {"sampled": Sampling()})
    assert set(found["all"]["sampled"]) == {"psnr", "uncertainty_auroc"}
    assert np.isfinite(found["all"]["sampled"]["psnr"]).all()


def test_figures_that_are_not_finite_are_null_in_json(tiny: WorldModel, segments: Segments) -> None:
    frames = segments.batch.frames[:, :1].expand_as(segments.batch.frames)
    batch = Batch(frames, segments.batch.actions, torch.ones_like(segments.batch.rewards))
    found = evaluate(tiny, Segments(batch, segments.tasks), {"sampled": Sampling()})
    assert np.isnan(found["all"]["sampled"]["reward_r2"]).all()
    read = json.loads(to_json(found))
    assert read["all"]["sampled"]["reward_r2"] == read["all"]["last_frame"]["psnr"] == [None] * HORIZON
    assert horizon_table(read["all"]) == horizon_table(found["all"])
    assert task_table(read) == task_table(found)
