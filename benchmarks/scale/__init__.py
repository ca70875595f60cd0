"""What a thousand workers and ten thousand callers cost one Redis, for this version and an older one in the same run.

`python -m benchmarks.scale` is `make scale`: versions.py takes the older version out of git, run.py is the process that
plays workers and callers of one version against a Valkey of its own. Everything that talks to Redis is that version's
own code; only the drawing is pretended.
"""
