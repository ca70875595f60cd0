"""The engine. Start with engine.py."""
