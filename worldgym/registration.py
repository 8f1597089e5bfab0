"""The ids of all environments, registered by name: importing worldgym imports none of them."""

import gymnasium as gym


def register_envs() -> None:
    """Register ``WorldModel-X-v0`` and ``Simulator-X-v0`` with Gymnasium.

    Gymnasium's order and space checks stay off: the environments make these checks themselves, so that users of
    ``gym.make`` see their errors.
    """
    gym.register(
        "WorldModel-MetaWorld-v0",
        entry_point="worldgym.envs.world_model_env:WorldModelEnv",
        vector_entry_point="worldgym.envs.world_model_env:WorldModelVectorEnv",
        max_episode_steps=100,
        order_enforce=False,
        disable_env_checker=True,
        kwargs={"checkpoint": "metaworld-64"},
    )
    gym.register(
        "Simulator-MetaWorld-v0",
        entry_point="worldgym.envs.metaworld:SimulatorMetaWorld",
        max_episode_steps=100,
        order_enforce=False,
        disable_env_checker=True,
    )
    for name in ("Toy", "Dials"):
        gym.register(
            f"Simulator-{name}-v0",
            entry_point=f"worldgym.envs.{name.lower()}:Simulator{name}",
            max_episode_steps=25,
            order_enforce=False,
            disable_env_checker=True,
        )
