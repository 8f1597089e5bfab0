"""Train algorithms of stable-baselines3 (SB3) in learned environments and simulators.

:func:`make_vec_env` makes a ``VecEnv`` of either kind. :class:`MixedReplayBuffer` and :class:`ImaginationCallback` turn
an off-policy algorithm such as SAC, TD3 or DQN into MBPO: it acts in a real environment, and its batches mix real and
imagined transitions.
"""

from worldgym.errors import DependencyNotInstalled

try:
    import stable_baselines3  # noqa: F401
    from stable_baselines3.common.buffers import NStepReplayBuffer  # noqa: F401  (missing in old versions)
except ImportError as error:
    raise DependencyNotInstalled(
        f"worldgym.agents.sb3 needs stable-baselines3 2.9.2 or newer ({error}): run `pip install worldgym[sb3]`"
    ) from error

from worldgym.agents.sb3.callback import ImaginationCallback
from worldgym.agents.sb3.replay import MixedReplayBuffer
from worldgym.agents.sb3.vec_env import BatchedVecEnv, make_vec_env

__all__ = ["BatchedVecEnv", "ImaginationCallback", "MixedReplayBuffer", "make_vec_env"]
