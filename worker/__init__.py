"""The GPU side: holds the model in memory, denoises, and puts pictures away. Knows no HTTP."""
