"""worldgym: train agents inside learned video models."""

from typing import TYPE_CHECKING, Any

from worldgym.envs.registry import register_envs

if TYPE_CHECKING:
    from worldgym.world_model import Imagined, WorldModel, WorldModelState

__all__ = ["Imagined", "WorldModel", "WorldModelState"]


def __getattr__(name: str) -> Any:
    """Load the world model, and torch with it, when it is first asked for."""
    if name in __all__:
        from worldgym import world_model

        return getattr(world_model, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


register_envs()
