"""Frames <-> codes."""

from worldgym.config import CompactTokenizerConfig, IndependentTokenizerConfig, TokenizerConfig
from worldgym.tokenizer.base import Tokenizer


def build_tokenizer(config: TokenizerConfig) -> Tokenizer:
    """The tokenizer that ``config`` describes, with fresh weights."""
    if isinstance(config, CompactTokenizerConfig):
        from worldgym.tokenizer.compact import CompactTokenizer

        return CompactTokenizer(config)
    if isinstance(config, IndependentTokenizerConfig):
        from worldgym.tokenizer.independent import IndependentTokenizer

        return IndependentTokenizer(config)
    from worldgym.tokenizer.compressive import CompressiveTokenizer

    return CompressiveTokenizer(config)
