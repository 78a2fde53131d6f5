"""Is the answer of `tune` right? Measures it again on fresh prompts, beside every other setting of the same space.

    python -m benchmarks.tune [pocket-dit] [--floor psnr=38] [--time 10min] [--prompts 64] [--out benchmarks/results]
    python -m benchmarks.tune --again  # search anew, and hold the answer against what the last run measured

1. `tune` searches, with its own prompts and within its time.
2. Its answer draws fresh prompts, one picture at a time.
3. So does every other setting of the space, as long as it can still be the fastest that holds: after 3 prompts, and
   again after 8, it goes no further if it takes longer than the answer by more than their spread; after 8 also if its
   mean misses the floor by more than four standard errors.
4. The answer, the baseline, and what held the floor and was about as fast, are timed again, interleaved.

Writes `tune-MODEL.json`, after every setting: the answer, every row, and the two checks that the project asks for: the
answer's mean is at most 0.5 below the floor, and its median at most 10 % above that of the best setting that holds.
"""

import argparse
import json
import statistics
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from deadheat.measure import Tuned, tune
from deadheat.measure.goal import estimate, read_floor, read_seconds
from deadheat.measure.prompts import Cell
from deadheat.measure.track import Entry, Track

from deadheat import DeadheatError, load
from training.denoisers import prompts

FIRST, SECOND = 3, 8  # prompts after which the slow and the hopeless are given up
SLOW, HOPELESS = (1.15, 1.05), 4.0  # times the answer's seconds at first and second; standard errors
NEAR = 1.2  # times the answer's seconds, up to which settings are timed again
ROUNDS = 15
BELOW, ABOVE = 0.5, 1.1  # what the project allows: under the floor, and times the best's seconds
HOURS = 3600.0


def held(track: Track, entry: Entry) -> float:
    """Return by how much the mean of an entry is better than the floor."""
    return track.judged(entry).mean


def sweep(track: Track, entry: Entry, cells: Sequence[Cell], answer: float) -> bool:
    """Draw the cells with one setting, beside an *answer* of so many seconds; returns whether it drew them all."""
    for nth, cell in enumerate(cells):
        track.round([entry], cell)
        if nth + 1 == FIRST and entry.median > SLOW[0] * answer:
            return False
        if nth + 1 == SECOND:
            so_far = track.judged(entry)
            if entry.median > SLOW[1] * answer or so_far.mean + HOPELESS * so_far.error < 0:
                return False
    return True


def fresh_track(found: Tuned, pipe: Any, cells: Sequence[Cell]) -> Track:
    """Return a track of its own for the fresh prompts, with the baseline's pictures."""
    old = found.track
    track = Track(pipe, found.goal, old.settings, old.scorer, end=time.perf_counter() + 24 * HOURS)
    track.warm_up(cells[0])
    for cell in cells:
        track.round([track.baseline], cell)
    return track


def timed_again(track: Track, entries: Sequence[Entry], cells: Sequence[Cell]) -> None:
    """Time entries anew, interleaved with the baseline."""
    lanes = [track.baseline, *entries]
    for lane in lanes:
        lane.seconds = []
    for turn in range(ROUNDS):
        first = turn % len(lanes)
        track.round([*lanes[first:], *lanes[:first]], cells[turn % len(cells)])


def row(track: Track, entry: Entry, complete: bool, metric: str) -> dict[str, Any]:
    """Return what the result file keeps of a setting."""
    values = [value for scores in entry.scores.values() if (value := scores.get(metric)) is not None]
    finite = [min(value, 100.0) for value in values]
    return {
        "name": entry.name, "line": entry.line, "recipe": " + ".join(map(str, entry.recipe.accelerators)),
        "pictures": len(values), "complete": complete, "mean": statistics.fmean(finite), "worst": min(finite),
        "error": estimate(finite).error, "slack": held(track, entry), "seconds": entry.seconds, "calls": entry.calls,
    }  # fmt: skip


def main() -> None:
    """Run the search, then everything else, and write the result."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", nargs="?", default="pocket-dit")
    parser.add_argument("--floor", default="psnr=38")
    parser.add_argument("--time", default="10min")
    parser.add_argument("--prompts", type=int, default=64)
    parser.add_argument("--again", action="store_true", help="take the rows of the result file; measure others only")
    parser.add_argument("--out", type=Path, default=Path("benchmarks/results"))
    arguments = parser.parse_args()
    pipe = load(arguments.model)
    arguments.out.mkdir(parents=True, exist_ok=True)
    out = arguments.out / f"tune-{arguments.model.replace('/', '--')}.json"
    if arguments.again and not out.is_file():
        parser.error(f"--again wants the result of an earlier run, and there is no {out}")
    rows = json.loads(out.read_text())["rows"] if arguments.again else []
    found = tune(pipe, floor=read_floor([arguments.floor]), limit=read_seconds(arguments.time))
    print(found.text())
    if found.best is None:
        raise SystemExit("nothing was found to measure again")
    cells = [(prompt, 0) for prompt in prompts(arguments.prompts, "tune acceptance")]
    measure_all(found, fresh_track(found, pipe, cells), cells, out, rows)


def measure_all(found: Tuned, track: Track, cells: Sequence[Cell], out: Path, rows: Sequence[dict[str, Any]]) -> None:
    """Draw the fresh prompts with the answer and with everything else, and write what comes of it."""
    record: dict[str, Any] = {"tuned": found.to_dict(), "prompts": [prompt for prompt, _ in cells], "rows": []}
    known = {row["recipe"]: row for row in rows if "recipe" in row}
    best = found.best
    assert best is not None
    answer = Entry(best.recipe, best.line, best.at)
    entries = [answer] + [Entry(recipe, line.name, at) for line in found.space.lines
                          for at, recipe in enumerate(line.recipes) if recipe != answer.recipe]  # fmt: skip
    holding: list[Entry] = []
    for nth, entry in enumerate(entries):
        if entry is not answer and (old := known.get(" + ".join(map(str, entry.recipe.accelerators)))):
            record["rows"].append(old)
            entry.seconds = old["seconds"]
            holding += [entry] if old["complete"] and old["slack"] >= 0 else []
            continue
        try:
            whole = sweep(track, entry, cells, answer.median if answer.seconds else float("inf"))
        except (DeadheatError, RuntimeError, ValueError) as error:
            record["rows"].append({"name": entry.name, "line": entry.line, "failed": str(error)})
            continue
        holding += [entry] if whole and held(track, entry) >= 0 else []
        record["rows"].append(row(track, entry, whole, found.goal.metrics[0]))
        out.write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")
        print(f"{nth + 1}/{len(entries)} {entry.name[:70]}: {record['rows'][-1]['mean']:.2f}, {entry.median:.3f} s")

    near = [entry for entry in holding if entry is not answer and entry.median <= NEAR * answer.median]
    timed_again(track, [answer, *near], cells)
    record["checks"] = checks(track, answer, near)
    out.write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")
    print(json.dumps(record["checks"], indent=1))


def checks(track: Track, answer: Entry, near: Sequence[Entry]) -> dict[str, Any]:
    """Return whether the answer does what the project asks for; *near* are others that hold the floor."""
    best = min([*([answer] if held(track, answer) >= 0 or not near else []), *near], key=lambda entry: entry.median)
    return {
        "slack of the answer": held(track, answer), "holds within": -BELOW, "holds": held(track, answer) >= -BELOW,
        "answer seconds": answer.median, "baseline seconds": track.baseline.median, "best": best.name,
        "best seconds": best.median, "fast enough": answer.median <= ABOVE * best.median,
        "timed again": {entry.name: entry.seconds for entry in [track.baseline, answer, *near]},
    }  # fmt: skip


if __name__ == "__main__":
    main()
