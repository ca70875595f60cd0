"""Finished pictures on the gateway's side: signed links, and streams of bytes."""
