"""Ordered pairs: (x, y, y') as one sequence, which a preference model of two arguments reads.

    prompt x | y | EOS | header | y' | EOS

Each answer keeps the end of turn that it has, and EOS stands behind both whether they have one
or not: an answer that was cut off is told from one that ended, and the score is always read at
an EOS. Before y' the chat template's own header of an assistant turn is repeated, where the
prompt was rendered by a template; plain text has none.

A pair is two completions of a derived group, one an order, behind the prompt they share: so both
orders are in one pack, and antisymmetry is a matter of subtraction. Nothing is cut: what is
longer than the model can read is counted or refused by whoever asks.

Shapes: M pairs, 2M completions of the derived group; pair k is 2k (as given) and 2k + 1.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from tandem.data.chat.template import ChatTemplate
from tandem.data.chat.tokens import TokenizerTraits
from tandem.data.record import Completion, FloatArray, Group, IntArray, Preference
from tandem.errors import DataError

Pair = tuple[int, int]


@dataclass(frozen=True, eq=False)
class PairSeparator:
    """What stands between two answers and behind them, in one tokenizer's tokens.

    Attributes:
        eos: the end-of-sequence token.
        header: the template's header of an assistant turn; empty without a template.
    """

    eos: IntArray
    header: IntArray

    @classmethod
    def of(cls, tokenizer: Any) -> PairSeparator:
        """Measure it on a tokenizer; a template that opens no turn has no header."""
        tokens = TokenizerTraits(tokenizer)
        text = _header(tokenizer) if tokens.templated else ""
        header = tokens.continuing([text])[0] if text else []
        return cls(np.array([tokens.eos], np.int32), np.array(header, np.int32))

    def join(self, group: Group, i: int, j: int) -> IntArray:
        """Return the tokens of completion i followed by completion j.

        Raises:
            DataError: one of them has no tokens.
        """
        first, second = (_tokens(group, k) for k in (i, j))
        header = self.header if group.prompt.messages is not None else self.header[:0]
        return np.concatenate([first, self.eos, header, second, self.eos])


def _header(tokenizer: Any) -> str:
    asked = [{"role": "user", "content": "?"}]
    shut, open_ = (ChatTemplate(tokenizer).render(asked, ask=ask) for ask in (False, True))
    return open_.removeprefix(shut) if open_.startswith(shut) else ""


def _tokens(group: Group, k: int) -> IntArray:
    tokens = group.completions[k].tokens
    if not len(tokens):
        raise DataError(
            f"group `{group.id}`: completion {k} has no tokens",
            "two answers are compared as one sequence of tokens",
            "tokenise first with `tandem.encode`",
        )
    return tokens


def both_orders(group: Group, pairs: Sequence[Pair], seam: PairSeparator) -> Group:
    """Derive the group whose completions are these pairs, each in both orders.

    Args:
        group: a prompt with answers, tokenised.
        pairs: M pairs of indices of its completions.
        seam: what stands between two answers.

    Returns:
        2M completions; columns and preferences are left out.
    """
    orders = itertools.chain.from_iterable(((i, j), (j, i)) for i, j in pairs)
    joined = tuple(Completion("", seam.join(group, i, j)) for i, j in orders)
    return Group(group.prompt, joined)


def judged_in_both_orders(group: Group, seam: PairSeparator) -> Group:
    """Derive the group of a group's judged pairs; their shares p follow, margins do not."""
    derived = both_orders(group, [(v.i, v.j) for v in group.preferences], seam)
    votes = (Preference(2 * k, 2 * k + 1, v.p, by=v.by) for k, v in enumerate(group.preferences))
    return replace(derived, preferences=tuple(votes))


def pair_log_odds(scores: FloatArray) -> FloatArray:
    """Return [M] log-odds that the first answer is better, from [2M] scores of both orders.

    (s(x, y, y') - s(x, y', y)) / 2, so that P(y > y') + P(y' > y) = 1
    (docs/theory/reward_models.md#preference-models-of-two-arguments).
    """
    both = scores.astype(np.float64)
    return 0.5 * (both[0::2] - both[1::2])


def longest_sequence(group: Group) -> int:
    """Return the tokens of a group's longest sequence, its prompt included."""
    return len(group.prompt.tokens) + max((len(c.tokens) for c in group.completions), default=0)
