"""Live in both worlds at once: the real Meta-World and the imagined one, from the same frames, under the same actions.

Needs the simulator: pip install worldgym[metaworld]
"""

import argparse

import gymnasium as gym
import numpy as np

import worldgym  # noqa: F401  (registers the ids)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--task", default="plate-slide")
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()

    real = gym.make("Simulator-MetaWorld-v0", task=options.task)
    learned = gym.make("WorldModel-MetaWorld-v0", task=options.task)

    # The model starts from two real frames: the simulator's first, and the one after an expert's step.
    first, _ = real.reset(seed=options.seed)
    second, *_ = real.step(real.unwrapped.expert_action())
    learned.reset(seed=options.seed, options={"frames": np.stack([first, second])})

    print("step  real reward  imagined  PSNR dB  uncertainty")
    for step in range(1, options.steps + 1):
        action = real.unwrapped.expert_action()
        frame, reward, *_ = real.step(action)
        imagined, guess, _, _, info = learned.step(action)
        error = np.square((frame.astype(float) - imagined) / 255).mean()
        print(f"{step:4d}  {reward:11.2f}  {guess:8.2f}  {-10 * np.log10(error):7.1f}  {info['uncertainty']:11.2f}")


if __name__ == "__main__":
    main()
