"""Families of models: how each turns a request into rows for its denoiser, and the last latents into pixels."""
