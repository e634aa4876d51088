"""Labels pairs through a server, one line a group, and may be killed: url, kept, groups."""

import sys
from pathlib import Path

from tandem.data.record import Completion, Group, Prompt
from tandem.engines.language_models.openai import Server
from tandem.judges.llm import Labeller
from tandem.tasks.micro.feedback import COMPARE


def main() -> None:
    url, kept, n = sys.argv[1], Path(sys.argv[2]), int(sys.argv[3])
    groups = [
        Group(
            Prompt(f"x{i}", "", ({"role": "user", "content": f"q{i}"},)),
            (Completion("good " * (i % 3) + "a"), Completion("b")),
        )
        for i in range(n)
    ]
    judge = Labeller(
        Server("judge-1", url, key=None, kept=kept, concurrency=4), COMPARE, ("right",)
    )
    for group in judge(groups):
        print(group.preferences[0].p)


if __name__ == "__main__":
    main()
