"""OpenAI's images API: its routes, its waiting and streams."""
