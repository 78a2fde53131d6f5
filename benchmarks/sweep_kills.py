"""Does a sweep lose or repeat anything when it is killed? Kills its driver and its workers, and counts the cells.

    python -m benchmarks.sweep_kills [--cells 500] [--out benchmarks/results]

A tiny random pipeline is written to a folder, and swept by two workers in a process of their own. Three times a worker
is killed with SIGKILL, then the driver; the same call goes on. The last one comes to its end. Takes some minutes.

Writes ``sweep-kills.json``: when who was killed, and the checks that the project asks for: every cell there, finished,
none twice, each with its picture, and no line that stood in the file was changed by a later run.
"""

import argparse
import json
import random
import signal
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from multiprocessing import get_context
from multiprocessing.context import ForkProcess
from pathlib import Path
from typing import Any

import psutil
import torch
from deadheat.measure import environment
from deadheat.measure.sweep_file import FILE

from deadheat import load, sweep
from tests.families import FAMILIES

RECIPES = ["ab-cache:every=1..4,order=1|2"]  # with the baseline and a control: ten cells a seed
A_SEED = 10
KILLS = (0.12, 0.36, 0.6)  # of the cells: so many are there when the driver dies
WORKERS = 2
PATIENCE = 600.0  # seconds without a new cell after which something is wrong


def measured(model: str, out: Path, cells: int) -> None:
    """Run the sweep, or go on with it."""
    torch.set_num_threads(1)
    sweep(
        model, RECIPES, prompts=["a red cube"], seeds=range(cells // A_SEED), steps=2, size=(16, 16), repeats=1,
        metrics=["psnr"], workers=WORKERS, out=out,
    )  # fmt: skip


def lines(out: Path) -> list[str]:
    """Return the whole lines of the file, the header first; a line that is being written is none yet."""
    file = out / FILE
    text = file.read_text(encoding="utf-8") if file.exists() else ""
    return text[: text.rfind("\n") + 1].splitlines()


@dataclass
class Killer:
    """Kills a sweep again and again.

    Attributes:
        kills: what was killed, and how many cells stood in the file then.
        kept: whether every line of the file stayed as it was.
    """

    run: Callable[[], None]
    out: Path
    kills: list[dict[str, Any]] = field(default_factory=list)
    kept: bool = True
    before: list[str] = field(default_factory=list)

    def kill(self, at: int) -> None:
        """Let it run; kill a worker half way, and the driver when *at* cells are there."""
        driver = get_context("fork").Process(target=self.run)  # forked: everything is imported already
        driver.start()
        half = (max(0, len(self.before) - 1) + at) // 2
        self._wait(driver, half)
        if workers := _workers(driver):
            random.choice(workers).kill()
            self._note("worker")
        self._wait(driver, at)
        time.sleep(random.uniform(0, 0.3))
        driver.kill()
        driver.join()
        if driver.exitcode == -signal.SIGKILL:
            self._note("driver")
        self.look()

    def look(self) -> None:
        """Compare the file with what it was."""
        now = lines(self.out)
        self.kept &= now[: len(self.before)] == self.before
        self.before = now

    def _wait(self, driver: ForkProcess, cells: int) -> None:
        end, seen = time.monotonic() + PATIENCE, 0
        while (there := len(lines(self.out)) - 1) < cells:
            if there > seen:
                end, seen = time.monotonic() + PATIENCE, there
            if not driver.is_alive() or time.monotonic() > end:
                sys.exit(f"the sweep ended by itself, or stands still, at {there} cells")
            time.sleep(0.02)

    def _note(self, who: str) -> None:
        self.kills.append({"killed": who, "cells": max(0, len(lines(self.out)) - 1)})
        print(self.kills[-1], flush=True)


def _workers(driver: ForkProcess) -> list[psutil.Process]:
    """Return the processes that measure for a driver."""
    found = []
    for child in psutil.Process(driver.pid).children():
        try:
            if "spawn_main" in " ".join(child.cmdline()):
                found.append(child)
        except psutil.Error:  # it has just ended
            continue
    return found


def checks(rows: list[dict[str, Any]], out: Path, cells: int, killer: Killer) -> dict[str, bool]:
    """Return what the project asks for, each with whether it is so."""
    ids, killed = [row["id"] for row in rows], [kill["killed"] for kill in killer.kills]
    return {
        f"{len(KILLS)} drivers killed": killed.count("driver") == len(KILLS),
        f"{len(KILLS)} workers killed": killed.count("worker") == len(KILLS),
        f"{cells} distinct cells": len(set(ids)) == cells,
        "no cell twice": len(ids) == len(set(ids)),
        "every cell finished": all(row["error"] is None and row["seconds"] for row in rows),
        "every picture there": all((out / row["picture"]).is_file() for row in rows if row["picture"]),
        "no line was changed": killer.kept,
    }


def main() -> None:
    """Sweep, kill, and write what was found."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--cells", type=int, default=500, help="a multiple of ten (default 500)")
    parser.add_argument("--out", type=Path, default=Path("benchmarks/results"))
    arguments = parser.parse_args()
    cells = max(2, arguments.cells // A_SEED) * A_SEED
    begin = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="deadheat-kills-") as folder:
        model, out = str(Path(folder) / "model"), Path(folder) / "sweep"
        FAMILIES["sd15"].build().save_pretrained(model)
        killer = Killer(lambda: measured(model, out, cells), out)
        for share in KILLS:
            killer.kill(round(share * cells))
        killer.run()
        killer.look()
        rows = [json.loads(line) for line in killer.before[1:]]
        found = checks(rows, out, cells, killer)
        record = {
            "cells": cells, "workers": WORKERS, "rows": len(rows), "kills": killer.kills, "checks": found,
            "seconds": round(time.monotonic() - begin, 1), "environment": environment(load(model)),
        }  # fmt: skip
    arguments.out.mkdir(parents=True, exist_ok=True)
    (arguments.out / "sweep-kills.json").write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")
    print(json.dumps({"checks": found, "seconds": record["seconds"]}, indent=1))
    sys.exit(0 if all(found.values()) else 1)


if __name__ == "__main__":
    main()
