"""How the seconds of a step fall with the share of image tokens that region-adaptive sampling computes.

    python -m benchmarks.regions [--threads 2] [--repeats 5] [--out benchmarks/results/regions.json]

On transformers of SD3's class: pocket-dit at its own size (256 tokens), and a random one of four wider blocks at 256
and 1024 tokens, whose steps cost what steps of a real model cost next to their overhead. In one run the full steps and
the sparse ones alternate, so both meet the same machine; a step is measured from scheduler step to scheduler step.
Beside the measured ratio stands 1/r, which no overhead and no share of text tokens could beat.
"""

import argparse
import json
import statistics
import time
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import torch
from deadheat.accelerators import RegionAdaptive, attached
from deadheat.measure import environment
from deadheat.measure.timing import after_each_step
from deadheat.pipelines import call_arguments
from diffusers import SD3Transformer2DModel

from deadheat import load

RATIOS = (0.5, 0.35, 0.25, 0.15, 0.05)
STEPS = 24


def wide(pipe: Any) -> Any:
    """Put a wider transformer with random weights into a pocket pipeline: four blocks of width 384."""
    config = {**pipe.transformer.config, "num_layers": 4, "num_attention_heads": 6, "attention_head_dim": 64}
    config |= {"caption_projection_dim": 384, "sample_size": 32, "pos_embed_max_size": 32}
    torch.manual_seed(0)
    pipe.transformer = SD3Transformer2DModel.from_config(config).eval()
    return pipe


def seconds(pipe: Any, ratio: float, side: int) -> dict[str, list[float]]:
    """Return the seconds of the full steps and of the sparse ones of one run."""
    resets = " ".join(str(step) for step in range(2, STEPS, 2))
    method = RegionAdaptive(ratio=ratio, warmup=1, resets=resets, of=STEPS, max_gap=100)
    ends: list[float] = []
    arguments = call_arguments(
        pipe, prompt="a fox above a mushroom", steps=STEPS, guidance=4.0, size=(side, side), seed=0
    )
    with attached(pipe, method) as session, after_each_step(pipe, lambda *_: ends.append(time.perf_counter())):
        pipe(**arguments | {"output_type": "latent"})
    kinds = [step.action for step in session.stage.runs[-1].steps]
    spent = [(kind, end - begin) for kind, begin, end in zip(kinds[1:], ends, ends[1:], strict=False)]
    return {name: [s for kind, s in spent if kind == name] for name in ("computed", "partial")}


def measured(pipe: Any, side: int, repeats: int) -> list[dict[str, Any]]:
    """Return a row for every ratio: the median gain of a sparse step over the full steps of the same run."""
    rows = []
    for ratio in RATIOS:
        seconds(pipe, ratio, side)  # a warm-up
        gains = []
        for _ in range(repeats):
            found = seconds(pipe, ratio, side)
            gains.append(statistics.median(found["computed"]) / statistics.median(found["partial"]))
        rows.append({"ratio": ratio, "bound": 1 / ratio, "gain": statistics.median(gains), "gains": gains})
        print(f"  {ratio:4.0%} of the tokens: {rows[-1]['gain']:.2f} times faster (1/r is {1 / ratio:.2f})")
    return rows


def main() -> None:
    """Measure and write the result."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--out", type=Path, default=Path("benchmarks/results/regions.json"))
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    tables = {}
    for name, make, side in (
        ("pocket-dit, 256 tokens", lambda p: p, 128),
        ("four blocks of 384, 256 tokens", wide, 128),
        ("four blocks of 384, 1024 tokens", wide, 256),
    ):
        pipe = make(load("pocket-dit"))
        pipe.set_progress_bar_config(disable=True)
        print(name)
        tables[name] = measured(pipe, side, arguments.repeats)
    record = {
        "created": datetime.now(UTC).isoformat(timespec="seconds"),
        "environment": environment(load("pocket-dit")),
        "tables": tables,
    }
    arguments.out.parent.mkdir(parents=True, exist_ok=True)
    arguments.out.write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
