"""Model folders: what may be loaded, and what comes out of them."""
