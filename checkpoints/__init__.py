"""The checkpoints that ship: one folder each, with weights, ``config.json`` and a model card."""

from pathlib import Path

DEFAULT = "metaworld-64"
"""The checkpoint that commands use unless told otherwise."""


def shipped() -> dict[str, Path]:
    """Name -> folder of every checkpoint that ships."""
    return {config.parent.name: config.parent for config in sorted(Path(__file__).parent.glob("*/config.json"))}


def path(name: str) -> Path:
    """The folder of a checkpoint that ships.

    Raises KeyError that lists the names there are.
    """
    known = shipped()
    if name not in known:
        raise KeyError(f"no checkpoint {name!r} ships; there are: {', '.join(known) or 'none'}")
    return known[name]
