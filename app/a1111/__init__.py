"""The HTTP API of AUTOMATIC1111's web UI: its words, its routes, and what its clients need to start."""
