"""The doors, one concept per file. A route takes validated input, asks one service, and returns."""
