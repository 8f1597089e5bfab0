r"""What `worldgym twin --quick` makes of environments of every kind, in one table.

    python tests/benchmarks/study_twins.py --out outputs/twins
    python tests/benchmarks/study_twins.py --out outputs/twins --envs CartPole-v1 ale_py:ALE/Pong-v5 --hours 0.2

Makes a twin of each environment, measures how fast both step, and writes twins.md and twins.json. A twin that is there
is kept, one that was interrupted continues. An environment that fails is reported, and the others are still done.
PushT and dm_control need more packages: `pip install gym-pusht pymunk==6.11.1 'shimmy[dm-control]'`.
"""

import argparse
import json
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import gymnasium as gym
import torch

import worldgym  # noqa: F401  (registers the ids)
from worldgym.pretrained import CONFIG
from worldgym.reports.provenance import provenance
from worldgym.reports.tables import number, table
from worldgym.storage.files import atomic_json, atomic_write

ENVIRONMENTS = (
    "CartPole-v1",
    "LunarLander-v3",
    "CarRacing-v3",
    "ale_py:ALE/Pong-v5",
    "minigrid:MiniGrid-Empty-8x8-v0",
    "gym_pusht:gym_pusht/PushT-v0",
    "shimmy:dm_control/cartpole-balance-v0",
)
STEPS = 100  # that are timed
COLUMNS = (
    "environment",
    "steps/s real",
    "steps/s imagined",
    "32 at once",
    "horizon",
    "PSNR at 1 (last frame)",
    "at the horizon",
    "reward R²",
    "ends F1",
)


def make_twin(name: str, folder: Path, hours: float | None) -> bool:
    """Make a twin by the command; whether it succeeded."""
    command = [sys.executable, "-m", "worldgym", "twin", "--env", name, "--out", str(folder), "--quick"]
    return subprocess.run(command + ([] if hours is None else ["--hours", str(hours)])).returncode == 0


def steps_a_second(env: Any, slots: int = 1) -> float:
    """Of random actions, new episodes included."""
    env.reset(seed=0)
    env.action_space.seed(0)
    begin = time.perf_counter()
    for _ in range(STEPS):
        *_, terminated, truncated, _ = env.step(env.action_space.sample())
        if slots == 1 and (terminated or truncated):
            env.reset()
    env.close()
    return STEPS * slots / (time.perf_counter() - begin)


def row(name: str, folder: Path) -> dict[str, Any]:
    """The figures of the twin's card, and how fast it and the real environment step."""
    figures = json.loads((folder / CONFIG).read_text(encoding="utf-8"))["figures"]
    pooled = figures["by_task"]["all"]
    imagined, still = pooled["sampled"], pooled["last_frame"]["psnr"]
    learned: dict[str, Any] = {"checkpoint": str(folder)}
    return {
        "environment": name,
        "real": steps_a_second(gym.make("Simulator-v0", env=name)),
        "imagined": steps_a_second(gym.make("WorldModel-v0", **learned)),
        "imagined, 32 slots": steps_a_second(gym.make_vec("WorldModel-v0", num_envs=32, **learned), 32),
        "horizon": figures["horizon"],
        "psnr": [imagined["psnr"][0], imagined["psnr"][-1]],
        "psnr of the last frame": [still[0], still[-1]],
        "reward_r2": imagined.get("reward_r2", [None])[-1],
        "termination_f1": figures["events"].get("termination_f1"),
    }


def cells(found: dict[str, Any]) -> list[str]:
    psnr = [
        f"{number(own, '.1f')} ({number(still, '.1f')})"
        for own, still in zip(found["psnr"], found["psnr of the last frame"], strict=True)
    ]
    speeds = [number(found[name], ".0f") for name in ("real", "imagined", "imagined, 32 slots")]
    ends = [number(found[name], ".2f") for name in ("reward_r2", "termination_f1")]
    return [found["environment"], *speeds, str(found["horizon"]), *psnr, *ends]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--envs", nargs="+", default=ENVIRONMENTS, metavar="ID")
    parser.add_argument("--hours", type=float, help="for each twin (default: five minutes)")
    options = parser.parse_args()
    rows, failed = [], []
    for name in options.envs:
        folder = options.out / name.split(":")[-1].replace("/", "-")
        if make_twin(name, folder, options.hours):
            rows.append(row(name, folder))
        else:
            failed.append(name)
    facts = provenance(torch.device("cpu"))
    atomic_json(options.out / "twins.json", {**facts, "hours": options.hours, "twins": rows, "failed": failed})
    text = table(list(COLUMNS), [cells(found) for found in rows])
    with atomic_write(options.out / "twins.md") as temporary:
        temporary.write_text(f"# Twins\n\n{facts['date']}, {facts['machine']}, {facts['commit']}\n\n{text}\n")
    print(text)
    if failed:
        sys.exit(f"no twin of {', '.join(failed)}")


if __name__ == "__main__":
    main()
