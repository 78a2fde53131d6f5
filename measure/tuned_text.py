"""The answer of `tune` as text."""

import statistics
from collections import Counter
from typing import TYPE_CHECKING

from .report import score_text
from .track import Entry

if TYPE_CHECKING:
    from .tuned import Tuned

SHOWN = 12


def answer(tuned: "Tuned") -> str:
    """Return the answer for people: what to take, what it does, what else there is, and what was given up."""
    s = tuned.settings
    lines = [f"{s['model']}, {s['steps']} steps: {tuned.goal}", *_best(tuned), ""]
    lines += [*_frontier(tuned), "", *_given_up(tuned), ""]
    lines += [f"note: {note}" for note in tuned.notes]
    if s["ignored_words"]:
        lines.append(f"note: {s['model']} does not know, and ignores: {', '.join(s['ignored_words'])}")
    lines.append(f"took {tuned.seconds:.0f} s, {len(tuned.entries)} settings tried")
    if tuned.stopped:
        lines.append(f"WARNING: ended early: {tuned.stopped}")
    if tuned.best:
        lines += [f"WARNING: {text}" for text in tuned.best.warnings]
    return "\n".join(lines)


def _best(tuned: "Tuned") -> list[str]:
    best = tuned.best
    if best is None:
        return [f"  {tuned.claim}"]
    base, speed = tuned.track.baseline, tuned.speedup(best)
    if speed:
        ratios = [whole / part for whole, part in best.beside]
        plain, own = (statistics.median(side) for side in zip(*best.beside, strict=True))
        time = f"{speed:.2f}× ({min(ratios):.2f}–{max(ratios):.2f}), {own:.3f} s instead of {plain:.3f} s"
    else:
        time = f"about {tuned.expected(best):.3f} s instead of {tuned.expected(base):.3f} s, reckoned from its steps"
    lines = [f"  {best.name}", f"  {time}; {best.calls} of {best.asked} calls; {tuned.claim}"]
    for metric in tuned.metrics:
        worst, error = tuned.worst(best, metric), tuned.error(best, metric)
        said = f"  {metric}: mean {score_text(tuned.mean(best, metric), metric)}"
        said += f" ± {score_text(error, metric)}" if error else ""
        said += f", worst {score_text(worst[0], metric)} (“{worst[1][0]}”)" if worst else ""
        lines.append(said)
    lines.append(f"  {len(best.scores)} pictures" + (" of held-out prompts" if tuned.measured else " of probes"))
    return [*lines, *_plainly(tuned)]


def _plainly(tuned: "Tuned") -> list[str]:
    plain = tuned.fewer_steps()
    if plain is None:
        return ["  plainly fewer steps: none that was tried does"]
    if plain is tuned.best:
        return ["  plainly fewer steps win here: no accelerator that was tried does better"]
    return [
        f"  plainly fewer steps: {plain.name} do, in {'' if plain.seconds else 'about '}{tuned.expected(plain):.3f} s"
    ]


def _row(tuned: "Tuned", entry: Entry) -> str:
    metric = tuned.goal.metrics[0]
    mark = "*" if entry is tuned.best else " "
    kind = "measured" if entry.seconds else "reckoned"
    return (
        f"{mark} {tuned.expected(entry):8.3f}  {kind}  {score_text(tuned.mean(entry, metric), metric):>9}"
        f"  {len(entry.scores):3} pictures  {entry.name[:80]}"
    )


def _frontier(tuned: "Tuned") -> list[str]:
    head = f"frontier: seconds against {tuned.goal.metrics[0]}"
    return [head, *(_row(tuned, entry) for entry in tuned.frontier()[:SHOWN])]


def _given_up(tuned: "Tuned") -> list[str]:
    dropped = [entry for entry in tuned.entries if entry.dropped]
    lines = [f"given up: {len(dropped)} of {len(tuned.entries)} settings"]
    reasons = Counter(entry.dropped for entry in dropped)
    for reason, count in reasons.most_common(SHOWN):
        names = [entry.name[:60] for entry in dropped if entry.dropped == reason]
        lines.append(f"  {reason}: {', '.join(names[:3])}{f' and {count - 3} more' if count > 3 else ''}")
    if tuned.space.left_out:
        lines.append(f"  not for this pipeline: {', '.join(tuned.space.left_out)}")
    return lines
