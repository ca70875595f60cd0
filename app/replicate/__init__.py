"""Replicate's predictions API: its schemas and routes."""
