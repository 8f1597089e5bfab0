"""What a model's figures say against it, in plain sentences."""

import math
from collections.abc import Mapping
from typing import Any

LEAST_PERPLEXITY = 2.0  # of the dynamics codes: below it nearly all frames have the same codes
SAME_CODES = (
    "The tokenizer learned nothing of what changes: its dynamics codes are nearly always the same one (perplexity "
    "{perplexity:.1f} of {codes})."
)
NO_BETTER = (
    "The model learned nothing that repeating the last frame does not give: at no horizon are its frames closer to the "
    "real ones."
)
ADVICE = "Train longer, or on recordings in which more changes from step to step."


def cautions(figures: Mapping[str, Any], dynamics_codes: int) -> list[str]:
    """Look for signs that a model learned nothing.

    Args:
        figures: what ``worldgym evaluate`` measured.
        dynamics_codes: size of the dynamics codebook.

    Returns:
        A sentence for each sign, and what to do; empty without one.
    """
    found = []
    perplexity = figures["perplexity"]["dynamics"]
    if perplexity < LEAST_PERPLEXITY:
        found.append(SAME_CODES.format(perplexity=perplexity, codes=dynamics_codes))
    imagined, still = (figures["by_task"]["all"][name]["psnr"] for name in ("sampled", "last_frame"))
    pairs = [(ours, theirs) for ours, theirs in zip(imagined, still, strict=True) if _finite(theirs)]
    if pairs and not any(not _finite(ours) or ours > theirs for ours, theirs in pairs):
        found.append(NO_BETTER)
    return [*found, ADVICE] if found else []


def _finite(psnr: float | None) -> bool:
    """Whether frames differ at all: the PSNR of equal ones is infinite, None in JSON files."""
    return psnr is not None and math.isfinite(psnr)
