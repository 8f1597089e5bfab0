"""The world model: the only place that combines tokenizer, transformer and frames."""

from worldgym.world_model.checks import checked_dtype
from worldgym.world_model.model import Imagined, WorldModel
from worldgym.world_model.state import WorldModelState

__all__ = ["Imagined", "WorldModel", "WorldModelState", "checked_dtype"]
