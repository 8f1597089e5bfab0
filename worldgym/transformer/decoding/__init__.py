"""One imagined frame's positions, in three ways that give the same result: PyTorch operators, compiled C, a CUDA graph."""
