"""The checkpoints that ship with worldgym: a folder each, with weights, ``config.json`` and a model card."""

from pathlib import Path

DEFAULT = "metaworld-64"
"""The checkpoint that commands use unless another one is given."""


def shipped() -> dict[str, Path]:
    """The folders of all shipped checkpoints by their names."""
    return {config.parent.name: config.parent for config in sorted(Path(__file__).parent.glob("*/config.json"))}


def path(name: str) -> Path:
    """The folder of a shipped checkpoint.

    Args:
        name: its name, such as :data:`DEFAULT`.

    Returns:
        The folder.

    Raises:
        KeyError: if no checkpoint of this name ships; the message lists the names.
    """
    known = shipped()
    if name not in known:
        raise KeyError(f"expected the name of a shipped checkpoint ({', '.join(known) or 'none'}), got {name!r}")
    return known[name]
