"""The operator's view over HTTP: what everybody's jobs, models and workers are at, and what an operator changes."""
