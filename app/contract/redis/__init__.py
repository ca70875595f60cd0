"""Redis as all processes use it: keys, scripts, and one class for each side's questions."""
