"""Files on disk: atomic writing, safetensors reading, optimizer state."""
