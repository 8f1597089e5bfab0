"""Making the environments that commands are given by their ids."""

from typing import Any

import gymnasium as gym

from worldgym.errors import ConfigError, WorldGymError


def make_env(env_id: str, **arguments: Any) -> Any:
    """``gym.make``, whose errors name the option.

    Raises:
        ConfigError: for an unknown id, a package that is not installed, or an environment that is not worldgym's.
    """
    try:
        return gym.make(env_id, **arguments)
    except WorldGymError:
        raise
    except (gym.error.Error, ModuleNotFoundError) as error:
        raise ConfigError(f"--env {env_id}: {error}") from error
    except TypeError as error:
        raise ConfigError(
            f"--env {env_id}: expected an environment of worldgym, such as Simulator-MetaWorld-v0, or Simulator-v0 "
            f"with the id of any Gymnasium environment as its task: {error}"
        ) from error
