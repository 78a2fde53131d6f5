"""What fits the goal of a race, and which of two entries is better."""

from dataclasses import dataclass

from .goal import Estimate
from .track import Entry, Track

SLOWER, RECKONED = 1.04, 1.08  # as slow as this, beside one that surely holds, is out; before anything is timed


@dataclass(eq=False)
class Judge:
    """Judges the entries of one race.

    Attributes:
        pace: the entry that drew the most probes, which others are compared with; None in the finals.
    """

    track: Track
    pace: Entry | None = None

    def quality(self, entry: Entry) -> Estimate:
        """Return by how much an entry is better than asked, in the mean."""
        return self.track.judged(entry, self.pace if entry is not self.pace else None)

    def fits(self, entry: Entry) -> bool:
        """Tell whether it is within what was asked, as far as is known."""
        budget = self.track.goal.budget
        return self.track.expected(entry) <= budget if budget is not None else self.quality(entry).mean >= 0

    def sure(self, entry: Entry) -> bool:
        """Tell whether it is so by more than chance."""
        budget = self.track.goal.budget
        return self.track.expected(entry) <= budget if budget is not None else self.quality(entry).holds

    def lost(self, entry: Entry) -> bool:
        """Tell whether it is beyond doubt not so."""
        budget = self.track.goal.budget
        if budget is not None:
            return self.track.expected(entry) > budget * (1.15 if not entry.seconds else 1.02)
        return self.quality(entry).lost

    def worth(self, entry: Entry) -> float:
        """Return what is to be as large as can be: quality within a budget, else speed."""
        if self.track.goal.budget is not None:
            return self.quality(entry).mean
        return -self.track.expected(entry)

    def overtaken(self, entry: Entry, by: Entry) -> str:
        """Return why an entry cannot win against one that surely fits; "" if it can."""
        if entry is by:
            return ""
        if self.track.goal.budget is None:
            factor = SLOWER if entry.seconds and by.seconds else RECKONED
            late = self.track.expected(entry) > factor * self.track.expected(by)
            return f"slower than {by.name}, which holds the floor" if late else ""
        mine, other = self.quality(entry), self.quality(by)
        worse = mine.mean + mine.error < other.mean
        return f"no better than {by.name}, which is within the budget" if worse else ""
