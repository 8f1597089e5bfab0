"""Steps a second of the learned environment, in float32: python tests/benchmarks/bench_environment.py"""

import time
from collections.abc import Callable

import gymnasium as gym
import torch

import worldgym  # noqa: F401  (registers the ids)

STEPS = 20


def seconds(step: Callable[[], object]) -> float:
    """For ``STEPS`` steps, after three that warm up."""
    for _ in range(3):
        step()
    start = time.perf_counter()
    for _ in range(STEPS):
        step()
    return time.perf_counter() - start


def main() -> None:
    print(f"{torch.get_num_threads()} threads, steps a second of all environments together")
    env = gym.make("WorldModel-MetaWorld-v0", task="hammer")
    env.reset(seed=0)
    print(f" 1  {STEPS / seconds(lambda: env.step(env.action_space.sample())):.0f}")
    for count in (8, 32):
        envs = gym.make_vec("WorldModel-MetaWorld-v0", num_envs=count)
        envs.reset(seed=0)
        print(f"{count:2}  {count * STEPS / seconds(lambda: envs.step(envs.action_space.sample())):.0f}")  # noqa: B023


if __name__ == "__main__":
    main()
