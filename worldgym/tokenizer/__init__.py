"""Frames <-> codes."""

from worldgym.config import CompactTokenizerConfig, TokenizerConfig
from worldgym.tokenizer.base import Tokenizer


def build_tokenizer(config: TokenizerConfig) -> Tokenizer:
    """The tokenizer that ``config`` describes, with fresh weights."""
    if isinstance(config, CompactTokenizerConfig):
        from worldgym.tokenizer.compact import CompactTokenizer

        return CompactTokenizer(config)
    from worldgym.tokenizer.compressive import CompressiveTokenizer

    return CompressiveTokenizer(config)
