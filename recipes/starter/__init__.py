"""How the bundled model is made, from an icon set and a caption sampler to the folder that is shipped.

Read in this order: `words` (what can be said), `plan` (one picture, decided), `captions` and `mistakes` (the same in
words, true and nearly so), `sources` and `sprites` (icons), `scenery` and `styles` and `compose` (the plan in pixels),
`stream` (endless batches); then `autoencoder`, `tokens`, `networks`, `diffusion` (what is trained), `training`,
`replicas`, `adopt` and `widen` (how), `train_*` (the training), `exam`, `rules`, `looks` and `evaluate` (what came of
it), `assemble`, `vocabulary` and `card` (what is shipped), `score` (the scorer's use). README.md has the commands.

Knows nothing of the service but the scorer that it serves and where that lies (worker/models/scorer.py).
"""
