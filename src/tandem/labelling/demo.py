"""Seeded data to try the page with: small posts whose truth is known, and questions of all shapes.

The posts come from the micro world, so that a reward can be refitted on the votes within a minute
and agreement with the truth can be looked at. The others show what real data looks like: code,
a table, several turns, a tool, text from right to left, a ranking of four.
"""

from __future__ import annotations

from dataclasses import replace

from tandem.labelling.data_access import Answered, Message, draw_posts
from tandem.labelling.questions import GOLD
from tandem.rng import Seed

POSTS = 40
KNOWN = 5
RUBRIC = """Choose the answer that you would rather have received.

1. **Right before nice.** A wrong fact outweighs style.
2. **To the point.** What was asked, and no more.
3. Equal is a fine answer: press `4`.

In the short posts that begin with *summarize*, a good summary tells what the writer (`i`) felt,
met, found or visited, and nothing about the others."""


def demo_questions(seed: Seed, posts: int = POSTS, known: int = KNOWN) -> list[Answered]:
    """Return the questions of `tandem label demo`; some of the posts are gold."""
    drawn = draw_posts(posts, seed)
    gold = [
        replace(row, meta={**row.meta, GOLD: 1 if better > 0 else 2})
        for row, better in drawn[:known]
    ]
    return [*_SHAPES, *gold, *(row for row, _ in drawn[known:])]


def _asked(name: str, prompt: str | tuple[Message, ...], *answers: str) -> Answered:
    messages = ({"role": "user", "content": prompt},) if isinstance(prompt, str) else prompt
    text = "\n".join(str(m.get("content") or "") for m in messages)
    blank = (None,) * len(answers)
    authors = tuple(f"system {k + 1}" for k in range(len(answers)))
    return Answered(f"demo-{name}", text, messages, answers, blank, authors, {}, {})


_SHAPES = (
    _asked(
        "code",
        "How do I read a text file line by line in Python without loading all of it?",
        "Iterate over the file. It is closed at the end of the block, also after an error:\n\n"
        "```python\nwith open('notes.txt', encoding='utf-8') as lines:\n"
        "    for line in lines:\n        print(line.rstrip('\\n'))\n```\n\n"
        "Only one line is in memory at a time.",
        "Use `readlines()`:\n\n```python\nlines = open('notes.txt').readlines()\n"
        "for line in lines:\n    print(line)\n```\n\nThis reads the file line by line.",
    ),
    _asked(
        "table",
        "Compare a bicycle and a bus for a commute of 4 km.",
        "| | bicycle | bus |\n|---|---|---|\n| time | 15 min | 12 min and waiting |\n"
        "| cost | almost none | a ticket |\n| rain | unpleasant | dry |\n\n"
        "For 4 km I would cycle, and keep the bus for rain.",
        "Both are good. A bicycle is healthy. A bus is comfortable. It depends on what you like.",
    ),
    _asked(
        "turns",
        (
            {"role": "user", "content": "I want to cook something with lentils tonight."},
            {"role": "assistant", "content": "Gladly. Do you have red or brown ones?"},
            {"role": "user", "content": "Red. And I have half an hour."},
        ),
        "Then make dal: simmer 200 g of red lentils with turmeric in 600 ml of water for 20 "
        "minutes, fry cumin and garlic in oil, and pour that over it. Salt at the end.",
        "Soak the lentils overnight, then cook them for an hour and a half with a ham bone.",
    ),
    _asked(
        "tool",
        (
            {"role": "user", "content": "Will it rain in Lisbon tomorrow?"},
            {
                "role": "assistant",
                "content": "",
                "tool_calls": [
                    {
                        "type": "function",
                        "function": {"name": "forecast", "arguments": {"city": "Lisbon"}},
                    }
                ],
            },
            {"role": "tool", "content": '{"rain_probability": 0.8, "from": "14:00"}'},
        ),
        "Probably: the chance is 80 %, from about two in the afternoon. The morning looks dry.",
        "No, Lisbon is known for its sunshine.",
    ),
    _asked(
        "arabic",
        "ما هي عاصمة المغرب، وكم عدد سكانها تقريبًا؟",
        "عاصمة المغرب هي **الرباط**، ويبلغ عدد سكانها نحو نصف مليون نسمة. أما أكبر مدينة فهي "
        "الدار البيضاء.",
        "عاصمة المغرب هي الدار البيضاء.",
    ),
    _asked(
        "hebrew",
        "כתוב משפט אחד שמסביר מהי פוטוסינתזה.",
        "בפוטוסינתזה צמחים משתמשים באור כדי להפוך מים ופחמן דו־חמצני לסוכר ולחמצן.",
        "פוטוסינתזה היא כשצמחים אוכלים אדמה.",
    ),
    _asked(
        "ranking",
        "Give me one sentence of advice for a first talk in front of many people.",
        "Know your first two sentences by heart, and the rest will follow.",
        "Don't be nervous.",
        "Practise aloud, standing, with a clock, at least three times.",
        "Imagine that everybody in the audience is a vegetable, and then look at nobody.",
    ),
)
