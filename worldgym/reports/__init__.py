"""Results that a person reads: evaluation, model card, demo, video, provenance."""
