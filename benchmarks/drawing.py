"""How much of what prompts ask for the pocket models draw: the scores in README and in the models' cards.

    python -m benchmarks.drawing [pocket-dit] [--prompts 256] [--out benchmarks/results]

Prompts are fresh ones of the generator: some of the simplest scenes were among what the models were trained on, with
other noise. Writes `drawing-MODEL.json`.
"""

import argparse
import json
from datetime import UTC, datetime
from pathlib import Path

from deadheat.measure import environment

from deadheat import load
from training.denoisers import GUIDANCE, STEPS, adherence_means, generate, prompts

SIDE = 128


def main() -> None:
    """Draw, look, and write the result."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", nargs="?", default="pocket-dit", choices=("pocket-dit", "pocket-unet"))
    parser.add_argument("--prompts", type=int, default=256)
    parser.add_argument("--out", type=Path, default=Path("benchmarks/results"))
    given = parser.parse_args()
    pipe, words = load(given.model), prompts(given.prompts)
    scores = adherence_means(words, generate(pipe, words, SIDE, STEPS))
    print(" ".join(f"{name} {100 * score:.1f} %" for name, score in scores.items()))
    record = {
        "created": datetime.now(UTC).isoformat(timespec="seconds"),
        "environment": environment(pipe),
        "settings": {"prompts": given.prompts, "steps": STEPS, "guidance": GUIDANCE, "side": SIDE},
        "scores": scores,
    }
    given.out.mkdir(parents=True, exist_ok=True)
    (given.out / f"drawing-{given.model}.json").write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
