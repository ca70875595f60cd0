"""How the bundled unCLIP model is made of the bundled model and the bundled scorer.

Read in this order: `towers` (what a vector is), `parts` (what a StableUnCLIPPipeline has beside a
StableDiffusionPipeline), `examples` (pictures, vectors, captions), `train_prior`, `train_unet`, `drawing`, `evaluate`
and `sheets` (what came of it), `assemble` (what is shipped), `card`. README.md has the commands.

Pictures and captions are those of recipes.starter, and so are its rules.
"""
