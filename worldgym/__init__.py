"""worldgym: train agents inside learned video models."""
