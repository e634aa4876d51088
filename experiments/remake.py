"""Make every published page again from what is committed; nothing is sampled, nothing is fitted.

    python experiments/remake.py        # `make pages`

Comparisons by `tandem bench` have their outcomes, prompt by prompt, beside their JSON (Parquet):
their statistics are made again from those. Other experiments keep what they measured in their JSON:
their pages are made again from that. Those that were measured before outcomes were kept say so.
"""

from __future__ import annotations

import subprocess
import sys
import time
from pathlib import Path

HERE = Path(__file__).parent
RESULTS = HERE.parent / "docs" / "results"
PAGES: tuple[tuple[str, ...], ...] = (
    ("pages.py", "--again"),
    ("rest_figure.py", "rest"),
    ("coverage.py", "--page"),
    ("gold_reward.py", "--page-only"),
    ("search.py", "--page-only"),
    ("iterated.py", "--page-only"),
    ("cyclic_preferences.py", "--again", "--page", str(RESULTS / "cyclic-preferences.md")),
    ("nash.py", "--again", "--page", str(RESULTS / "nash.md")),
    ("moving_worlds.py",),
    ("overoptimisation.py", "--page"),
    ("rlaif.py", "--page", "--results", str(RESULTS / "rlaif.json")),
    ("rlp_rewards.py", "--page"),
    ("rlp_rewards.py", "--page", "--name", "rlp-shared-rewards"),
    ("rlp_text.py", "--page"),
    ("self_improvement.py", "--again", "--page", str(RESULTS / "self-improvement.md")),
    ("self_improvement.py", "--again", "--page", str(RESULTS / "self-improvement-ways.md")),
    ("self_improvement_search.py", "--again", "--page",
     str(RESULTS / "self-improvement-search.md")),
    ("optional_stopping.py", "--page"),
    ("phases.py", "--again"),
    ("claims.py",),
    ("world.py",),
    ("findings.py",),
)  # fmt: skip
"""Every page by the script that makes it; the last step is the index."""
APART = {"label-plans": "its JSON does not hold the plan as text; experiments/label_plans.py does"}
"""Pages that are made again only by doing the experiment again, and why."""


WAITING = {
    "gold_reward.py": RESULTS / "gold-reward.json",
    "search.py": RESULTS / "search.json",
    "cyclic_preferences.py": RESULTS / "cyclic-preferences.json",
    "iterated.py": RESULTS / "iterated.json",
    "nash.py": RESULTS / "nash.json",
    "optional_stopping.py": RESULTS / "optional-stopping.json",
}
"""Pages whose experiment may not have been run yet, by what it leaves."""


def main() -> int:
    """Make the pages one after another; the exit code is the number of those that failed."""
    begun, failed = time.monotonic(), 0
    for name, why in APART.items():
        print(f"{name}: left as it is, {why}")
    for script, *words in PAGES:
        if not WAITING.get(script, HERE).exists():
            print(f"{script}: not measured yet")
            continue
        ended = subprocess.run(
            [sys.executable, str(HERE / script), *words], cwd=HERE.parent, check=False,
            stdout=subprocess.DEVNULL,
        )  # fmt: skip
        told = "made" if ended.returncode == 0 else f"exit code {ended.returncode}"
        print(f"{script} {' '.join(words)}: {told}", flush=True)
        failed += ended.returncode != 0
    subprocess.run([sys.executable, str(HERE.parent / "docs" / "generate.py")], check=True)
    print(f"{len(PAGES) - failed} of {len(PAGES)} in {time.monotonic() - begun:.0f} s")
    return failed


if __name__ == "__main__":
    sys.exit(main())
