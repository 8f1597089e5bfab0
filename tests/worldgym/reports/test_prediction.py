import json
from pathlib import Path

import imageio.v3 as iio
import pytest
import torch

from worldgym.config import Sampling
from worldgym.data.clips import Clip, Cut, read_clip
from worldgym.data.recordings import to_unit
from worldgym.errors import ConfigError
from worldgym.reports import samples as samples_module
from worldgym.reports.prediction import predict, prediction_figures, write_hidden_context, write_prediction
from worldgym.reports.samples import Samples
from worldgym.tokenizer.compressive import CompressiveTokenizer
from worldgym.world_model import WorldModel

HORIZON = 3


@pytest.fixture(scope="module")
def tiny(parity: Path) -> WorldModel:
    return WorldModel.from_pretrained(parity, device="cpu")


@pytest.fixture(scope="module")
def clip(tiny: WorldModel, synthetic_recordings: Path) -> Clip:
    return read_clip(synthetic_recordings, Cut(horizon=HORIZON), tiny.config)


@pytest.fixture(scope="module")
def imagined(tiny: WorldModel, clip: Clip) -> Samples:
    return predict(tiny, clip, 5, Sampling())


def test_one_future_is_that_of_a_rollout(tiny: WorldModel, clip: Clip) -> None:
    assert clip.actions is not None
    made = predict(tiny, clip, 1, Sampling(), seed=3)
    generator = torch.Generator().manual_seed(3)
    expected = tiny.rollout(clip.context[None], clip.actions[None], generator=generator)
    assert torch.equal(made.frames, expected.frames)
    torch.testing.assert_close(made.rewards, expected.rewards)


def test_futures_arrive_some_at_a_time(
    tiny: WorldModel, clip: Clip, imagined: Samples, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert imagined.frames.shape == (5, HORIZON, 64, 64, 3)
    assert len({frames.numpy().tobytes() for frames in imagined.frames}) == 5
    monkeypatch.setattr(samples_module, "ROWS", 2)
    assert predict(tiny, clip, 5, Sampling()).frames.shape == (5, HORIZON, 64, 64, 3)
    greedy = predict(tiny, clip, 3, Sampling(top_k=1)).frames
    assert (greedy[0].int() - greedy[2].int()).abs().max() <= 1  # batches of other sizes round differently


def test_figures_equal_their_definitions(clip: Clip, imagined: Samples) -> None:
    figures = prediction_figures(clip, imagined)
    errors = (to_unit(imagined.frames) - to_unit(torch.from_numpy(clip.future))).double().square().mean(dim=(2, 3, 4))
    ratios = -10 * errors.log10()
    best = int(ratios.mean(dim=1).argmax())
    assert figures["best_sample"] == best
    assert figures["psnr"]["best"] == pytest.approx(ratios[best].tolist())
    assert figures["psnr"]["mean"] == pytest.approx(ratios.mean(dim=0).tolist())
    assert {len(values) for values in figures["ssim"].values()} == {HORIZON}
    assert figures["rewards"]["recorded"] == clip.rewards.tolist()  # type: ignore[union-attr]
    assert figures["rewards"]["imagined"] == pytest.approx(imagined.rewards.mean(dim=0).tolist())


def test_videos_sheet_and_figures_are_written(clip: Clip, imagined: Samples, tmp_path: Path) -> None:
    files = write_prediction(tmp_path / "new", clip, imagined, {"psnr": [float("inf")]}, goal=True)
    assert json.loads(files.figures.read_text()) == {"psnr": [None]}
    assert len(iio.imread(files.gif)) == 1 + HORIZON  # without the goal
    assert files.mp4.stat().st_size > 0
    sheet = iio.imread(files.sheet)
    assert (sheet[84, 150 + 64] == clip.context[0, 32, 32]).all()  # the goal, enlarged twice
    assert (sheet[84, 150 + 2 * 132 + 64] == clip.future[0, 32, 32]).all()


def test_a_hidden_context_shows_what_codes_say(
    tiny: WorldModel, tiny_checkpoint: Path, clip: Clip, tmp_path: Path
) -> None:
    write_hidden_context(tmp_path / "sheet.png", tiny, clip)
    sheet = iio.imread(tmp_path / "sheet.png")
    assert sheet.shape[1] == 150 + HORIZON * 132
    with pytest.raises(ConfigError, match="hide_context: expected the published tokenizer"):
        write_hidden_context(tmp_path / "none.png", WorldModel.from_pretrained(tiny_checkpoint), clip)


def test_dropping_the_attention_leaves_nothing_of_the_context(tiny: WorldModel) -> None:
    tokenizer = tiny.tokenizer
    assert isinstance(tokenizer, CompressiveTokenizer)
    generator = torch.Generator().manual_seed(0)
    codes = torch.randint(56, (1, 2, 16), generator=generator)
    with torch.no_grad():
        _, features = tokenizer.encode_context(torch.rand(1, 2, 3, 64, 64, generator=generator))
        with_context, without = tokenizer.decode_future(codes, features), tokenizer.decode_without_context(codes)
        assert with_context.shape == without.shape == (1, 2, 3, 64, 64)
        assert not torch.allclose(with_context, without, atol=0.01)
        assert not torch.allclose(without[:, 0], without[:, 1], atol=0.01)  # the codes are still seen
