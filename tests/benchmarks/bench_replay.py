"""How fast the replay gives out batches: python tests/benchmarks/bench_replay.py [STEPS]

Beside it stands what the machine can do at best, a plain copy of as many bytes, and what consumes the batches: one
update of the agent on this machine's CPU.
"""

import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch

from worldgym.agents.common.mixed_replay import MixedReplay
from worldgym.agents.common.replay import ReplayBuffer
from worldgym.agents.drqv2 import DrQv2

SHAPE, ACTION_DIM, EPISODE = (64, 64, 3), 4, 100
BATCH, STACK, REPEATS = 256, 3, 50


def milliseconds(work: Callable[[], object], repeats: int = REPEATS) -> float:
    """The quickest of several runs, after two that warm up: other work on the machine counts least there."""
    spent = []
    for _ in range(repeats + 2):
        start = time.perf_counter()
        work()
        spent.append(time.perf_counter() - start)
    return 1000 * min(spent[2:])


def filled(steps: int, context: int, horizon: int) -> ReplayBuffer:
    """A replay whose ring has gone round once, of episodes of ``horizon`` steps."""
    replay = ReplayBuffer(SHAPE, ACTION_DIM, steps, frame_stack=STACK)
    frames = np.random.default_rng(0).integers(256, size=(1, context + horizon, *SHAPE), dtype=np.uint8)
    actions, rewards = np.zeros((1, horizon, ACTION_DIM), np.float32), np.zeros((1, horizon), np.float32)
    for _ in range(steps // horizon + 20):
        replay.add_episodes(frames, actions, rewards, context=context)
    return replay


def report(name: str, spent: float, samples: int, size: int) -> None:
    print(f"{name:44} {spent:8.2f} ms {1000 * samples / spent:10.0f} samples/s {size / spent / 1e6:6.1f} GB/s")


def files(replay: ReplayBuffer) -> None:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "replay.safetensors"
        for name, work in (("save", lambda: replay.save(path)), ("restore", lambda: replay.restore(path))):
            report(f"{name} all", milliseconds(work, 1), len(replay), path.stat().st_size)


def main() -> None:
    steps = int(sys.argv[1]) if len(sys.argv) > 1 else 20_000
    rng, replay, imagined = np.random.default_rng(0), filled(steps, 1, EPISODE), filled(steps // 4, STACK, 10)
    mixed, frame = MixedReplay(replay, imagined), int(np.prod(SHAPE))
    print(f"{len(replay)} real and {len(imagined)} imagined steps in {(replay.nbytes + imagined.nbytes) / 1e9:.2f} GB")
    size = BATCH * 2 * STACK * frame
    report("sample 256 transitions", milliseconds(lambda: replay.sample(rng, BATCH)), BATCH, size)
    report("sample 256 transitions, half imagined", milliseconds(lambda: mixed.sample(rng, BATCH, 0.5)), BATCH, size)
    source, target = np.ones(size, np.uint8), np.empty(size, np.uint8)
    report("a plain copy of as many bytes", milliseconds(lambda: np.copyto(target, source)), BATCH, size)
    report("16 segments of 12 frames", milliseconds(lambda: replay.segments(rng, 16, 12)), 16, 16 * 12 * frame)
    report("32 starts", milliseconds(lambda: replay.starts(rng, 32)), 32, 32 * STACK * frame)
    replay.start(np.zeros(SHAPE, np.uint8))
    action, picture = np.zeros(ACTION_DIM, np.float32), np.zeros(SHAPE, np.uint8)
    report("add a step", milliseconds(lambda: replay.add(action, 0.0, picture, False, False), 1000), 1, frame)
    files(replay)
    agent, batch = DrQv2(SHAPE, STACK, ACTION_DIM), replay.sample(rng, BATCH)
    spent = milliseconds(lambda: agent.update(batch), 1)
    report(f"one update of DrQ-v2, {torch.get_num_threads()} CPU threads", spent, BATCH, size)


if __name__ == "__main__":
    main()
