import json
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from worldgym.cli import main
from worldgym.data.recordings import Recordings, to_unit
from worldgym.errors import ConfigError, DataError
from worldgym.metrics.fvd import Gaussian, frechet_distance
from worldgym.metrics.lpips import LPIPS
from worldgym.reports.protocol import PROTOCOLS, Figures, Protocol, Scorer, find_protocol, run_protocol
from worldgym.reports.samples import Samples, imagine_samples
from worldgym.world_model import WorldModel

SHORT = Protocol(2, 3)
VIDEOS, SAMPLES = 4, 3


@pytest.fixture(scope="module")
def tiny(parity: Path) -> WorldModel:
    return WorldModel.from_pretrained(parity, device="cpu")


@pytest.fixture(scope="module")
def recordings(synthetic_recordings: Path) -> Recordings:
    return Recordings(synthetic_recordings)


def darkness(first: torch.Tensor, second: torch.Tensor) -> torch.Tensor:
    """A stand-in for LPIPS: the less the better."""
    return (first - second).abs().mean(dim=(1, 2, 3))


def colours(videos: torch.Tensor) -> torch.Tensor:
    """A stand-in for I3D."""
    return videos.double().mean(dim=(2, 3)).flatten(1)


@pytest.fixture(scope="module")
def figures(tiny: WorldModel, recordings: Recordings) -> Figures:
    return run_protocol(tiny, recordings, SHORT, VIDEOS, SAMPLES, 0, darkness, colours)


@pytest.fixture(scope="module")
def futures(tiny: WorldModel, recordings: Recordings) -> list[tuple[torch.Tensor, Samples]]:
    """The clips and the futures that the protocol samples."""
    found = []
    for episode in (0, 3, 7, 11):  # evenly from all
        seed = int(np.random.default_rng([0, episode, 0]).integers(2**31))
        generator = torch.Generator().manual_seed(seed)
        clip = recordings.segment(episode, 0, 5)
        (samples,) = imagine_samples(
            tiny, clip.frames[:2], clip.actions[1:], 3, SAMPLES, tiny.config.sampling, generator
        )
        found.append((torch.from_numpy(clip.frames), samples))
    return found


def test_the_protocols_are_those_of_the_paper() -> None:
    assert {name: each[:2] for name, each in PROTOCOLS.items()} == {
        "bair": (1, 15),
        "robonet": (2, 10),
        "vp2": (2, 10),
        "metaworld": (2, 10),
    }
    with pytest.raises(ConfigError, match=r"unknown protocol 'bare'.*did you mean 'bair'"):
        find_protocol("bare")


def test_best_and_mean_equal_their_definitions(figures: Figures, futures: list[tuple[torch.Tensor, Samples]]) -> None:
    best, mean, still, dark = [], [], [], []
    for frames, samples in futures:
        real = to_unit(frames[2:])
        errors = (to_unit(samples.frames) - real).double().square().mean(dim=(2, 3, 4)) + 1e-8
        ratios = -10 * errors.log10()
        best.append(ratios[ratios.mean(dim=1).argmax()])
        mean.append(ratios.mean(dim=0))
        still.append(-10 * ((to_unit(frames[1]) - real).double().square().mean(dim=(1, 2, 3)) + 1e-8).log10())
        values = torch.stack([darkness(to_unit(sample), real) for sample in samples.frames])
        dark.append(values[values.mean(dim=1).argmin()])
    for part, expected in (("best", best), ("mean", mean), ("last_frame", still)):
        curve = torch.stack(expected).mean(dim=0)
        assert figures[part]["psnr"] == pytest.approx(curve.tolist(), rel=1e-5)
        assert figures["average"][part]["psnr"] == pytest.approx(float(curve.mean()), rel=1e-5)
    assert figures["best"]["lpips"] == pytest.approx(torch.stack(dark).mean(dim=0).tolist(), rel=1e-4)
    assert figures["average"]["best"]["psnr"] > figures["average"]["mean"]["psnr"]
    assert figures["average"]["best"]["lpips"] < figures["average"]["mean"]["lpips"]


def test_fvd_takes_all_samples_after_their_context(
    figures: Figures, futures: list[tuple[torch.Tensor, Samples]]
) -> None:
    real, made = Gaussian(), Gaussian()
    for frames, samples in futures:
        real.add(colours(frames[None]))
        for sample in samples.frames:
            made.add(colours(torch.cat([frames[:2], sample])[None]))
    assert (real.count, made.count) == (VIDEOS, VIDEOS * SAMPLES)
    assert figures["fvd"] == pytest.approx(frechet_distance(real, made), rel=1e-6)


def test_rewards_are_compared(figures: Figures, futures: list[tuple[torch.Tensor, Samples]]) -> None:
    assert len(figures["reward_r2"]) == len(figures["reward_rank_correlation"]) == SHORT.horizon
    made = torch.stack([samples.rewards.mean(dim=0) for _, samples in futures]).sum(dim=1)
    assert -1 <= figures["return_rank_correlation"] <= 1
    assert made.std() > 0


def test_without_weights_the_rest_runs(tiny: WorldModel, recordings: Recordings) -> None:
    found = run_protocol(tiny, recordings, SHORT._replace(anywhere=True), 2, 1)
    assert set(found["best"]) == {"psnr", "ssim"}
    assert "fvd" not in found
    assert found["best"] == found["mean"]  # of one sample
    again = run_protocol(tiny, recordings, SHORT._replace(anywhere=True), 2, 1)
    assert np.isclose(again["average"]["best"]["psnr"], found["average"]["best"]["psnr"])


def test_a_video_has_the_same_futures_whichever_others_are_scored(tiny: WorldModel, recordings: Recordings) -> None:
    scorer = Scorer(tiny, recordings, SHORT, 2)
    few, all_ = scorer.places(2), scorer.places(12)
    assert few == [all_[0], all_[11]]
    scores = [scorer.score(place) for place in all_]
    for place, score in ((few[0], scores[0]), (few[1], scores[11])):
        assert torch.equal(scorer.score(place).mean["psnr"], score.mean["psnr"])
    other = Scorer(tiny, recordings, SHORT, 2, seed=1).score(few[0])
    assert not torch.equal(other.mean["psnr"], scores[0].mean["psnr"])


def test_what_does_not_fit_is_refused(tiny: WorldModel, recordings: Recordings, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="predicts 15 frames from 1, but the model takes 2 context frames"):
        run_protocol(tiny, recordings, PROTOCOLS["bair"])
    with pytest.raises(DataError, match="expected an episode of at least 32 frames, got 13 at most"):
        run_protocol(tiny, recordings, Protocol(2, 30))
    other = recordings.episodes[0].load()
    small = type(other)(other.frames[:, ::2, ::2], other.actions[:, :3], other.rewards, other.successes, other.info)
    small.save(tmp_path / "small" / "a.safetensors")
    with pytest.raises(DataError, match=r"expected frames of size \(64, 64\), got \(32, 32\)"):
        run_protocol(tiny, Recordings(tmp_path / "small"), SHORT)
    narrow = type(other)(other.frames, other.actions[:, :3], other.rewards, other.successes, other.info)
    narrow.save(tmp_path / "narrow" / "a.safetensors")
    with pytest.raises(DataError, match="expected actions of length 4, got 3"):
        run_protocol(tiny, Recordings(tmp_path / "narrow"), SHORT)


def test_the_command_writes_figures_table_and_plot(
    tiny_checkpoint: Path, synthetic_recordings: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    torch.manual_seed(0)
    save_file({name: value.abs() for name, value in LPIPS().state_dict().items()}, tmp_path / "lpips.safetensors")
    out = tmp_path / "new" / "figures.json"
    command = f"evaluate --checkpoint {tiny_checkpoint} --data {synthetic_recordings} --protocol vp2 --device cpu"
    options = f"--videos 1 --samples 1 --lpips {tmp_path}/lpips.safetensors --out {out}"
    assert main(f"{command} {options}".split()) == 0
    shown = capsys.readouterr().out
    assert "| horizon | PSNR best of 1 | SSIM best of 1 | LPIPS best of 1 |" in shown
    assert "FVD was not measured: --i3d names no weights" in shown
    figures = json.loads(out.read_text())
    assert figures["protocol"] == "vp2"
    assert figures["missing"] == {"fvd": "--i3d names no weights"}
    assert len(figures["best"]["lpips"]) == 10
    assert "| all " in out.with_suffix(".md").read_text()
    assert out.with_suffix(".png").read_bytes()[1:4] == b"PNG"
    for wrong, message in (
        (f"{command} --horizon 3 --out {out}", "predicts 10 frames"),
        (f"{command} --i3d {tmp_path}/lpips.safetensors --out {out}", "expected the weights of I3D"),
    ):
        assert main(wrong.split()) == 2
        assert message in capsys.readouterr().err
