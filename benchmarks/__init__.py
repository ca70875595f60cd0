"""Figures, never gates. Each is taken beside its rival in the same run."""
