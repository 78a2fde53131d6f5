"""The finals of `tune`: held-out prompts, one picture at a time, interleaved with the baseline and timed."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from .track import Entry
from .tuned import ENOUGH

if TYPE_CHECKING:
    from .race import Race

CLEAR = 24  # held-out cells after which the last one need not go on if it holds by three errors
FINALISTS = 4


@dataclass(eq=False)
class Finals:
    """The last part of a race."""

    race: "Race"

    def run(self) -> None:
        """Race until one surely fits, or none is left that may."""
        self.race.judge.pace = None  # what is claimed rests on held-out prompts alone
        racing = self._pool_of_finalists()
        for heat in range(4):
            if not racing:
                return
            self._heat(racing, baseline_rounds=len(self.race.course.held_out) if heat == 0 else 7)
            if any(self.race.judge.sure(entry) for entry in self.race.finalists if not entry.dropped):
                return
            racing = self._safer()

    def _pool_of_finalists(self) -> list[Entry]:
        alive = [entry for entry in self.race.entries if entry.scores and not entry.dropped]
        beside = max(alive, key=lambda entry: len(entry.scores), default=None)
        self.race.judge.pace = beside
        found = self.race.pool(FINALISTS) if alive else []
        self.race.judge.pace = None
        return found

    def _heat(self, racing: list[Entry], baseline_rounds: int) -> None:
        """Draw the held-out cells with all that race, interleaved; those that cannot win any more fall out."""
        track = self.race.track
        for entry in racing:
            entry.probes, entry.scores = entry.scores, {}
            self.race.finalists.append(entry)
        cells = self.race.course.held_out
        for nth, cell in enumerate(cells):
            racing = [entry for entry in racing if not entry.dropped]
            if not racing:
                return
            track.check_time()
            self.race.say(f"held-out prompt {nth + 1}/{len(cells)}: {', '.join(entry.name for entry in racing)}")
            with_baseline = nth < baseline_rounds or cell not in track.truth
            lanes = [*([track.baseline] if with_baseline else []), *racing]
            turn = nth % len(lanes)
            track.round([*lanes[turn:], *lanes[:turn]], cell)
            if nth + 1 >= ENOUGH and (nth + 1) % 4 == 0:
                self._thin_out(racing)
            if nth + 1 >= CLEAR and self._clear(racing):
                return

    def _clear(self, racing: Sequence[Entry]) -> bool:
        """Tell whether one is left, and nothing that more pictures could show would change that."""
        left = [entry for entry in racing if not entry.dropped]
        if len(left) != 1 or not self.race.judge.sure(left[0]):
            return False
        quality = self.race.judge.quality(left[0])
        return self.race.track.goal.budget is not None or quality.mean - 3 * quality.error >= 0

    def _thin_out(self, racing: Sequence[Entry]) -> None:
        for entry in racing:
            if not entry.dropped and self.race.judge.lost(entry):
                over = self.race.track.goal.budget is not None
                entry.dropped = "takes longer than the budget" if over else "misses the floor on held-out prompts"
        sure = [entry for entry in racing if not entry.dropped and self.race.judge.sure(entry)]
        if sure:
            best = max(sure, key=self.race.judge.worth)
            for entry in racing:
                if not entry.dropped:
                    entry.dropped = self.race.judge.overtaken(entry, best)

    def _safer(self) -> list[Entry]:
        """Return the next setting back of the finalist that came closest, where none fits."""
        back = -1 if self.race.track.goal.budget is None else 1
        if self.race.track.goal.budget is None:
            closest = max(self.race.finalists, key=lambda entry: self.race.judge.quality(entry).mean)
        else:
            closest = min(self.race.finalists, key=self.race.track.expected)
        line = next(line for line in self.race.space.lines if line.name == closest.line)
        at = closest.at + back
        while 0 <= at < len(line.recipes):
            known = next((e for e in self.race.entries if e.line == line.name and e.at == at), None)
            if known is None or not (known.failed or known in self.race.finalists):
                entry = known or Entry(line.recipes[at], line.name, at)
                if known is None:
                    self.race.entries.append(entry)
                entry.dropped = ""
                return [entry]
            at += back
        return []
