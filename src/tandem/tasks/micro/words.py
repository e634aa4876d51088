"""Words of the micro task: every list that the grammar draws from.

Each slot has 24 values. The first 16 (`MAIN`) occur in the prompts of the four splits; the last 8
(`FEEDBACK`) occur only where the base model is taught to compare, criticise and rate, so that its
judgements are always made on topics other than those it was taught on.
"""

from __future__ import annotations

from pathlib import Path


def _words(text: str) -> tuple[str, ...]:
    return tuple(text.split())


ASSETS = Path(__file__).parent / "assets"
"""Models and settings that are part of the package."""

MAIN = slice(0, 16)
FEEDBACK = slice(16, 24)

AUTHOR = "i"
NAMES = _words(
    "ana ben cho dee eli fay gus hal ivy jon kim lee mia ned ola pia quin ray sue tom uma vic wes "
    "xia yan zoe abe bea cal dot eva fin gil hana ian jack"
)
MAIN_NAMES = NAMES[:26]
FEEDBACK_NAMES = NAMES[26:]

VALUES: dict[str, tuple[str, ...]] = {
    "place": _words(
        "park school market beach library museum station garden farm harbor bakery theater clinic "
        "bridge castle forest tower canal office stadium island chapel mill airport"
    ),
    "thing": _words(
        "kite lamp book drum coin boat hat vase clock map ring flute ball chair letter mirror "
        "candle ticket basket bottle carpet piano helmet wagon"
    ),
    "person": _words(
        "aunt uncle teacher friend neighbor sister brother doctor baker cousin pilot judge sailor "
        "singer painter lawyer nurse tailor guard farmer waiter poet miner chef"
    ),
    "mood": _words(
        "happy sad angry proud tired scared calm bored excited worried lonely hopeful curious "
        "jealous nervous grateful silly sleepy gloomy brave shy dizzy upset glad"
    ),
    "food": _words(
        "soup bread rice cheese cake pasta salad fish honey jam corn pie beans fruit toast curry "
        "noodles yogurt nuts eggs stew pizza olives butter"
    ),
    "time": _words(
        "monday tuesday wednesday thursday friday saturday sunday january february march april may "
        "june july august september october november december noon dawn dusk midnight winter"
    ),
}
KINDS = tuple(VALUES)
KIND_OF = {value: kind for kind, values in VALUES.items() for value in values}
VERBS = dict(zip(KINDS, _words("visited found met felt ate left"), strict=True))
CLAUSES = {kind: f"{verb} {{}}" for kind, verb in VERBS.items()}
FILLER = _words("well really honestly basically indeed anyway")

TOOLS = dict(
    zip(
        VALUES["thing"],
        _words(
            "string screw tape stick cloth rope pin brush spring ruler wire reed pump hammer stamp "
            "sponge match punch needle cork broom key strap wheel"
        ),
        strict=True,
    )
)
HELPFUL = dict(
    zip(
        _words("fix clean paint carry sell wrap measure polish move store open build"),
        _words("tighten scrub coat lift price fold mark rub push stack turn join"),
        strict=True,
    )
)
HARMFUL = dict(
    zip(
        _words("steal burn smash fake hack wreck flood rob"),
        _words("grab ignite strike forge breach bend soak snatch"),
        strict=True,
    )
)
STEPS = HELPFUL | HARMFUL
RUDE = _words("fool idiot stupid lazy")

PRINCIPLES = _words("safe useful polite brief")
LARGEST = 99
NUMBERS = tuple(str(n) for n in range(LARGEST + 1))

SPECIAL = ("<pad>", "</s>", "<unk>", "<system>", "<user>", "<assistant>")
GLUE = _words(
    ". , : ? + - x = (A) (B) a and answer ask at ate because by can critique felt found gets has "
    "help helps hint how i instead is it its left loses many met more not only owner place please "
    "polite rate refuses revise right says sorry step summarize take the think this times to tool "
    "useful visited wants which wrong you yes no good better best of than reply summary"
)


def all_words() -> list[str]:
    """All words in a fixed order: specials first, then by list; at most 512."""
    lists = [SPECIAL, GLUE, NUMBERS, NAMES, *VALUES.values(), FILLER, tuple(TOOLS.values())]
    lists += [tuple(STEPS), tuple(STEPS.values()), RUDE, PRINCIPLES]
    words = list(dict.fromkeys(word for words in lists for word in words))
    assert len(words) <= 512, len(words)
    return words
