"""The world model: tokenizer, transformer and frames meet here and nowhere else."""

from worldgym.world_model.model import Imagined, WorldModel, WorldModelState, checked_dtype

__all__ = ["Imagined", "WorldModel", "WorldModelState", "checked_dtype"]
