"""Step Meta-World and its world model side by side, from the same frames and with the same actions.

Prints the reward of both, the PSNR between their frames and the world model's uncertainty.

Needs the simulator: pip install .[metaworld] in the checkout
"""

import argparse

import gymnasium as gym
import numpy as np

import worldgym  # noqa: F401  (registers the ids)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.ArgumentDefaultsHelpFormatter)
    parser.add_argument("--task", default="plate-slide", help="task of the simulator")
    parser.add_argument("--steps", type=int, default=20, help="steps of the episode")
    parser.add_argument("--seed", type=int, default=0, help="seed of the episode")
    options = parser.parse_args()

    real = gym.make("Simulator-MetaWorld-v0", task=options.task)
    learned = gym.make("WorldModel-MetaWorld-v0", task=options.task)

    # The world model starts from two real frames: the first one, and the one after the expert's first step.
    first, _ = real.reset(seed=options.seed)
    second, *_ = real.step(real.unwrapped.expert_action())
    learned.reset(seed=options.seed, options={"frames": np.stack([first, second])})

    print("step  real reward  imagined  PSNR dB  uncertainty")
    for step in range(1, options.steps + 1):
        action = real.unwrapped.expert_action()
        frame, reward, *_ = real.step(action)
        imagined, predicted, _, _, info = learned.step(action)
        error = np.square((frame.astype(float) - imagined) / 255).mean()
        print(f"{step:4d}  {reward:11.2f}  {predicted:8.2f}  {-10 * np.log10(error):7.1f}  {info['uncertainty']:11.2f}")


if __name__ == "__main__":
    main()
