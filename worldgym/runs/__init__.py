"""What every training run shares, of world models and of agents: folder, log, signals, checkpoints, exact resume."""
