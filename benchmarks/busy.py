"""What a busy core costs: a picture on two threads, alone and beside a process that keeps one core busy.

    python -m benchmarks.busy [--out benchmarks/results]

Writes `busy.json`: seconds of a picture of few steps with the threads of torch waiting as they do by themselves, and
as the command and the app let them (GOMP_SPINCOUNT), each in a process of its own. Wants a machine of two cores, or
`taskset -c 0,1`.
"""

import argparse
import json
import os
import subprocess
import sys
from datetime import UTC, datetime
from pathlib import Path
from statistics import median
from typing import Any

from deadheat.measure import environment

from deadheat import load

STEPS, PICTURES = 4, 5
DRAW = f"""
import json, time, torch
from deadheat import load
torch.set_num_threads(2)
pipe, taken = load("pocket-dit"), []
pipe.set_progress_bar_config(disable=True)
for _ in range({PICTURES} + 1):
    begin = time.perf_counter()
    pipe("a fox", num_inference_steps={STEPS}, generator=torch.Generator().manual_seed(0))
    taken.append(time.perf_counter() - begin)
print(json.dumps(taken[1:]))
"""


def seconds(spins: str | None) -> list[float]:
    """Return the seconds of every picture of a process of its own."""
    settings = {name: value for name, value in os.environ.items() if name != "GOMP_SPINCOUNT"}
    settings |= {"GOMP_SPINCOUNT": spins} if spins else {}
    done = subprocess.run([sys.executable, "-c", DRAW], env=settings, capture_output=True, text=True, check=True)
    found: list[float] = json.loads(done.stdout.splitlines()[-1])
    return found


def main() -> None:
    """Measure and write the result."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("benchmarks/results"))
    out: Path = parser.parse_args().out
    rows: dict[str, Any] = {}
    for where in ("alone", "beside a busy core"):
        busy = [sys.executable, "-c", "while True: pass"]  # in a session of its own, as another program would be
        beside = subprocess.Popen(busy, start_new_session=True) if where != "alone" else None
        try:
            for how, spins in (("by itself", None), ("as we set it", "1000")):
                rows[f"{where}, {how}"] = taken = seconds(spins)
                print(f"{where}, {how}: {median(taken):.3f} s", flush=True)
        finally:
            if beside:
                beside.kill()
                beside.wait()
    record = {
        "created": datetime.now(UTC).isoformat(timespec="seconds"),
        "environment": environment(load("pocket-dit")),
        "steps": STEPS,
    }
    out.mkdir(parents=True, exist_ok=True)
    (out / "busy.json").write_text(json.dumps(record | {"seconds": rows}, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
