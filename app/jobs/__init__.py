"""What the gateway does with jobs: let them in, follow them, call them off, keep them in order, show them."""
