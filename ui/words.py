"""Numbers as people read them, and what stands behind each."""

from typing import Any

NOTES = {
    "speed": "Median seconds of the baseline over those of the accelerated run, wall clock, measured in turns.",
    "psnr": "Closeness to the baseline's picture of the same seed. Above about 40 dB hardly anyone sees a difference.",
    "adherence": "Share of the objects, colours and places named in the prompt that a detector finds in the picture.",
    "calls": "Samples that went through the network. A step with guidance asks for two.",
    "memory": "Peak during the run minus before, against the same number of the baseline.",
}


def seconds_text(value: float) -> str:
    """Write seconds.

    >>> seconds_text(0.4567), seconds_text(12.345)
    ('0.46 s', '12.3 s')
    """
    return f"{value:.2f} s" if value < 10 else f"{value:.1f} s"


def size_text(value: int, signed: bool = False) -> str:
    """Write a number of bytes.

    >>> size_text(3_300_000), size_text(-2**31, signed=True), size_text(33_000), size_text(0, signed=True)
    ('3.1 MB', '-2.00 GB', '32 kB', '0')
    """
    sign = ("-" if value < 0 else "+" if value > 0 else "") if signed else ""
    mega = abs(value) / 2**20
    if mega < 0.1:
        return f"{sign}{mega * 1024:.0f} kB" if value else "0"
    return f"{sign}{mega:.1f} MB" if mega < 1024 else f"{sign}{mega / 1024:.2f} GB"


def spread_text(lane: Any) -> str:
    """Write the spread of the measured speed-up, and out of how many rounds."""
    rounds = len(lane.ratios)
    if rounds < 2:
        return "one round only: no spread"
    low, high = lane.speedup_range
    return f"{low:.2f} to {high:.2f}x over {rounds} rounds"


def range_text(lane: Any) -> str:
    """Write the median seconds of a lane with its smallest and largest."""
    median = seconds_text(lane.median)
    return median if len(lane.seconds) < 2 else f"{median} ({min(lane.seconds):.2f} to {max(lane.seconds):.2f})"
