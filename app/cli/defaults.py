"""What a command means where nothing is said."""

DEFAULT_URL = "http://127.0.0.1:8000"
"""Where `darkroom up` serves."""
