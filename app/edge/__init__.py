"""Before a route is reached: the protocol, the guard, keys, limits, and how a refusal is said. Knows no job."""
