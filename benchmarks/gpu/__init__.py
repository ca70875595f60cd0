"""What a GPU must tell, each part a process of its own: `python -m benchmarks.gpu PART [--minutes M]`.

  probe     versions and ceilings; a captured step is the step; the engine on the GPU draws what it draws on a CPU
  bits      reproducible jobs in random company, float16 and bfloat16, with graphs and without
  speed     rows a second by size: graphs and eager, waited for and launched ahead; graph memory; VAE; text; stock
  trace     mixed arrivals at 1.2 and 2 times what one after the other carries
  xl        SDXL at 1024 pixels: eager and graphs, decode, the stock pipeline
  compiled  the same sizes with a compiled UNet, and the stock pipeline with one
  fewer     pictures a second with guidance_end and cache, beside plain ones

Full-size random weights, made on the device; nothing is timed on zeros. A part that runs out of minutes says what it
left out. Figures are written where `--json` says, else to gpu-PART.json in $OUT if that is set, else nowhere.
`--device cpu --small` tries the script itself.
"""
