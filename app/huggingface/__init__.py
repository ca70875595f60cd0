"""Hugging Face's inference API: zero-shot classification of pictures, as its own client asks for it."""
