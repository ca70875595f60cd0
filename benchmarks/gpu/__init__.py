r"""What a GPU must tell, each part a process of its own: `python -m benchmarks.gpu PART [--minutes M]`.

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

A machine with a GPU that is had for minutes has torch, transformers, accelerate, safetensors, pillow, scipy and psutil,
and often no way to a package index. Missing there are these wheels, to be fetched before, for its Python and not ours:

  python -m pip download -c constraints.txt --no-deps --only-binary=:all: --python-version 3.12 \
    --platform manylinux_2_28_x86_64 --platform manylinux2014_x86_64 -d wheels diffusers pydantic pydantic_core \
    annotated-types typing-inspection typing_extensions structlog importlib_metadata lazy-importer

and there, in the same folder, first whether it is right (two and a half minutes) and then how fast (eight and a half):

  python3 -m pip install --no-index --no-deps --target site wheels/*.whl
  mkdir -p figures; export PYTHONPATH=site HF_HUB_OFFLINE=1 OUT=figures
  python3 -m benchmarks.gpu probe --minutes 2.2
  for part in "bits 1" "speed 2.2" "trace 1.3" "xl 1" "compiled 1.9"; do set -- $part
    timeout $((${2%.*} * 60 + 85)) python3 -m benchmarks.gpu $1 --minutes $2; done

A traceback of the probe is mended before the figures are taken. Figures are of one machine, and name it.
"""
