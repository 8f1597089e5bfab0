"""Decoding of one frame's codes: PyTorch operators, compiled C and CUDA graphs, with equal results."""
