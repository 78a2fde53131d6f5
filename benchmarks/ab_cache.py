"""How much ABCache saves on the pocket model, what it costs in faithfulness, and what it costs when idle.

    python -m benchmarks.ab_cache [--prompts 8] [--repeats 8] [--out benchmarks/results/ab_cache.json]

Interleaved in one process after a warm-up; medians; the fewer-steps control runs beside every variant. Overhead: the
pipeline with ABCache(every=1) attached against the bare pipeline, as the median of ratios.
"""

import argparse
import json
import statistics
import time
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from deadheat.accelerators import attached
from deadheat.measure import environment
from deadheat.pipelines import POCKET, call_arguments

from deadheat import ACCELERATORS, compare, load

RECIPES = (
    "ab-cache:every=2",
    "ab-cache:every=3",
    "ab-cache:every=3,order=1",
    "ab-cache:every=4",
    "ab-cache:every=4,order=1",
)


def overhead(pipe: Any, repeats: int) -> dict[str, Any]:
    """Return the ratio of medians, attached with everything computed over bare, interleaved."""
    everything = ACCELERATORS["ab-cache"](every=1)  # type: ignore[call-arg]
    arguments = {"prompt": POCKET["pocket-dit"].prompts[0], "steps": 28, "guidance": 4.0}
    bare: list[float] = []
    idle: list[float] = []

    def timed(into: list[float]) -> None:
        given = call_arguments(pipe, **arguments)
        begin = time.perf_counter()
        pipe(**given)
        into.append(time.perf_counter() - begin)

    for turn in range(repeats + 1):
        for side in ("bare", "idle") if turn % 2 else ("idle", "bare"):
            if side == "bare":
                timed(bare)
            else:
                with attached(pipe, everything):
                    timed(idle)
    ratios = [i / b for i, b in zip(idle[1:], bare[1:], strict=True)]
    return {
        "ratio_of_medians": statistics.median(idle[1:]) / statistics.median(bare[1:]),
        "median_of_ratios": statistics.median(ratios),
        "smallest": min(ratios),
        "largest": max(ratios),
        "repeats": repeats,
    }


def main() -> None:
    """Run both benchmarks and write the result."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--prompts", type=int, default=8)
    parser.add_argument("--repeats", type=int, default=8)
    parser.add_argument("--out", type=Path, default=Path("benchmarks/results/ab_cache.json"))
    arguments = parser.parse_args()
    pipe = load("pocket-dit")
    prompts = POCKET["pocket-dit"].prompts[: arguments.prompts]
    result = compare(pipe, list(RECIPES), prompts=prompts, steps=28, repeats=arguments.repeats, memory=False)
    print(result.table())
    idle = overhead(pipe, 2 * arguments.repeats)
    print(f"attached and computing everything, over bare: {idle['median_of_ratios']:.3f}")
    lanes = [
        {
            "lane": lane.name,
            "role": lane.role,
            "control": lane.control,
            "seconds": lane.seconds,
            "speedup": lane.speedup,
            "speedup_range": lane.speedup_range,
            "calls": lane.calls,
            "scores": {m: {"mean": lane.mean(m), "worst": lane.worst(m)} for m in ("psnr", "ssim", "adherence")},
        }
        for lane in result.lanes
        if lane.role != "baseline"
    ]
    record = {
        "created": datetime.now(UTC).isoformat(timespec="seconds"),
        "environment": environment(pipe),
        "settings": result.settings,
        "baseline_seconds": result.baseline.seconds,
        "lanes": lanes,
        "idle_overhead": idle,
    }
    arguments.out.parent.mkdir(parents=True, exist_ok=True)
    arguments.out.write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
