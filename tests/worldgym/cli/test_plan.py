"""``worldgym plan``: episodes by planning, beside baselines."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import imageio_ffmpeg
import pytest
from PIL import Image

from worldgym.agents.drqv2 import DrQv2, DrQv2Config
from worldgym.cli import main
from worldgym.config import CompactTokenizerConfig, TransformerConfig, WorldModelConfig
from worldgym.training.initial import fresh_world_model

SIZES = "--candidates 6 --horizon 3 --replan-every 3 --episodes 1 --dtype float32"


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An untrained checkpoint of the toy world."""
    folder = tmp_path_factory.mktemp("world")
    tokenizer = CompactTokenizerConfig(
        resolution=32,
        width=8,
        depth=1,
        context_grid=4,
        frame_grid=2,
        latent_channels=4,
        context_codes=16,
        dynamics_codes=16,
    )
    sizes = {"layers": 1, "heads": 2, "key_value_heads": 1, "hidden_size": 16, "mlp_size": 32}
    transformer = TransformerConfig(**sizes, max_positions=tokenizer.layout.length(6))  # type: ignore[arg-type]
    bins = tuple(float(value) for value in range(-2, 3))
    config = WorldModelConfig(
        tokenizer, transformer, action_dim=2, reward=True, reward_bins=bins, success=True, tasks=("toy",)
    )
    fresh_world_model(config, 0).save_pretrained(folder)
    return folder


@pytest.fixture
def plan(world: Path, tmp_path: Path) -> Callable[..., int]:
    """Runs the command in the toy world; takes further options."""

    def run(options: str = "") -> int:
        common = f"plan --env Simulator-Toy-v0 --task toy --checkpoint {world} --out {tmp_path / 'out'} {SIZES}"
        return main(f"{common} {options}".split())

    return run


def read(path: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(path.read_text())
    return found


def test_episodes_figures_videos_and_baselines(
    plan: Callable[..., int], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    config = DrQv2Config(channels=4, features=8, hidden=16, precision="float32")
    DrQv2((32, 32, 3), 2, 2, config).save(tmp_path / "agent.safetensors")
    options = f"--proposal {tmp_path / 'agent.safetensors'} --terminal-value --pessimism 1 --max-uncertainty 5 --seed 4"
    assert plan(options) == 0
    out, shown = tmp_path / "out", capsys.readouterr().out
    assert all(f"| {row} " in shown for row in ("plan", "random", "proposal"))
    figures = read(out / "plan" / "episode-00000004.json")
    assert figures["steps"] == 25
    assert len(figures["plans"]) == 9
    assert figures["seconds_a_plan"] > 0
    assert imageio_ffmpeg.count_frames_and_secs(str(out / "plan" / "episode-00000004.mp4"))[0] == 26
    assert (out / "plan" / "episode-00000004.png").exists()
    assert imageio_ffmpeg.count_frames_and_secs(str(out / "proposal" / "episode-00000004.mp4"))[0] == 26
    summary = read(out / "plan.json")
    assert summary["results"]["random"]["episodes"] == 1
    assert summary["settings"]["pessimism"] == 1

    made = figures["return"], (out / "plan" / "episode-00000004.mp4").stat().st_mtime_ns
    assert plan(options + " --episodes 2") == 0  # continues: the first is kept
    assert made == (figures["return"], (out / "plan" / "episode-00000004.mp4").stat().st_mtime_ns)
    assert read(out / "plan.json")["results"]["plan"]["episodes"] == 2
    (out / "plan" / "episode-00000004.json").unlink()
    assert plan(options + " --episodes 2") == 0
    again = read(out / "plan" / "episode-00000004.json")
    assert [again["return"], again["plans"]] == [figures["return"], figures["plans"]]

    capsys.readouterr()
    assert plan("--pessimism 2") == 2
    assert "holds episodes with" in capsys.readouterr().err


@pytest.mark.parametrize(
    "options",
    [
        "--model simulator --planner cem --iterations 2",
        "--planner mppi --cost success --hold 2",
        "--planner shooting --cost goal --goal {goal}",
    ],
)
def test_planners_models_and_costs(plan: Callable[..., int], tmp_path: Path, options: str) -> None:
    Image.new("RGB", (32, 32), (0, 0, 255)).save(tmp_path / "goal.png")
    assert plan(options.format(goal=tmp_path / "goal.png")) == 0
    assert read(tmp_path / "out" / "plan.json")["results"]["plan"]["episodes"] == 1


def test_each_episode_has_the_goal_of_its_scripted_solution(plan: Callable[..., int], tmp_path: Path) -> None:
    assert plan("--model simulator --cost goal-success --episodes 2 --max-steps 5") == 0
    episodes = [tmp_path / "out" / "plan" / f"episode-{seed:08d}.json" for seed in range(2)]
    assert all(read(path)["goal_solved"] for path in episodes)
    assert [read(path)["steps"] for path in episodes] == [5, 5]
    goals = [path.with_suffix(".goal.png").read_bytes() for path in episodes]
    assert goals[0] != goals[1]
    assert not list((tmp_path / "out" / "random").glob("*.goal.png"))


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ("--goal {goal}", "expected --goal with goal or goal-success as the cost, got reward"),
        ("--cost goal --goal {goal}", "goal: expected uint8 [32, 32, 3]"),
        ("--cost goal --goal {text}", "expected a picture"),
        ("--planner shooting --iterations 2", "random shooting has one"),
        ("--replan-every 4", "replan_every: expected 1 to the horizon of 3 steps"),
        ("--pessimism -1", "pessimism"),
        ("--checkpoint metaworld-64", "takes 4 actions, the environment 2"),
    ],
)
def test_bad_options_are_explained(
    plan: Callable[..., int], tmp_path: Path, capsys: pytest.CaptureFixture[str], options: str, said: str
) -> None:
    Image.new("RGB", (16, 32)).save(tmp_path / "goal.png")
    (tmp_path / "text.png").write_text("no picture")
    assert plan(options.format(goal=tmp_path / "goal.png", text=tmp_path / "text.png")) == 2
    assert said in capsys.readouterr().err
    assert not (tmp_path / "out" / "plan").exists()
