"""A step is the same however it is cut, whatever columns its groups have or lack: for every loss.

Nothing here is a list of losses: they are the functions of `tandem.objectives` that return `Terms`,
with every choice of their options, and the rows of `PAIRWISE`. A loss finds its arguments by their
names in `ARGUMENTS`; columns are the fields of `Batch` and of `Pairs`. A new loss with a new
argument, or a new column, fails here until somebody says where it comes from.
"""

from __future__ import annotations

import inspect
import itertools
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, fields, replace
from typing import Any, Literal, get_args, get_origin, get_type_hints

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.nn.functional import softplus

from tandem import objectives
from tandem.batching.batch import Batch, Pairs, Terms
from tandem.batching.microbatches import Cut, Piece, cut_step
from tandem.batching.packing import RAGGED, pack_groups
from tandem.batching.ragged import Ragged
from tandem.data.record import Completion, FloatArray, Group, Preference
from tandem.errors import ConfigError, DataError
from tandem.objectives import PAIRWISE, bradley_terry, rank_weight
from tiny import VOCABULARY, group

BOUND = 1e-6
GROUPS = 6
Z0 = torch.tensor(0.2, dtype=torch.float64)


# --- a model of tables: what it says of a token hangs on that token alone ------------------------


class Tables:
    """Parameters in float64, and the outputs that losses read."""

    def __init__(self, seed: int) -> None:
        rng = torch.Generator().manual_seed(seed)
        shapes = ((VOCABULARY, VOCABULARY), (VOCABULARY,), (VOCABULARY,), (3, GROUPS))
        self.parameters = [
            torch.randn(shape, generator=rng, dtype=torch.float64).requires_grad_(True)
            for shape in shapes
        ]

    def read(self, batch: Batch) -> dict[str, Any]:
        """Return the model's outputs for a micro-batch by name."""
        bigram, value, score, by_group = self.parameters
        packed = batch.tokens
        ids = packed.ids.flatten()
        before = ids[packed.source]
        logp = torch.log_softmax(bigram, -1)[before, packed.target]
        joint, marginal, skl = by_group[:, torch.unique(batch.group)]
        return {
            "logp": Ragged(logp, packed.owner, packed.n),
            "value": Ragged(value[before], packed.owner, packed.n),
            "score": Ragged(score[packed.target], packed.owner, packed.n).sum(),
            "joint": joint,
            "marginal": marginal,
            "skl": softplus(skl),
        }


def some_pairs(batch: Batch) -> Pairs:
    """Return the comparisons of a micro-batch, which may have none."""
    none = torch.zeros(0, dtype=torch.long)
    return batch.pairs or Pairs(none, none, none.double())


def log_ratio(out: dict[str, Any], batch: Batch) -> Tensor:
    assert batch.ref_logp is not None
    return (out["logp"] - batch.ref_logp).sum()


def score_gap(out: dict[str, Any], batch: Batch) -> Tensor:
    pairs = some_pairs(batch)
    return out["score"][pairs.w] - out["score"][pairs.l]


ARGUMENTS: dict[str, Callable[[dict[str, Any], Batch], Any]] = {
    "logp": lambda out, batch: out["logp"],
    "value": lambda out, batch: out["value"],
    "score": lambda out, batch: out["score"],
    "joint": lambda out, batch: out["joint"],
    "marginal": lambda out, batch: out["marginal"],
    "skl": lambda out, batch: out["skl"],
    "h": log_ratio,
    "logit": score_gap,
    "pairs": lambda out, batch: some_pairs(batch),
    "p": lambda out, batch: some_pairs(batch).p,
    "ref": lambda out, batch: batch.ref_logp,
    "old": lambda out, batch: batch.old_logp,
    "adv": lambda out, batch: batch.advantages,
    "ret": lambda out, batch: batch.returns,
    "wins": lambda out, batch: batch.returns.mean(),
    "reward": lambda out, batch: scores_of(batch),
    "desirable": lambda out, batch: scores_of(batch),
    "weight": lambda out, batch: batch.weight,
    "z0": lambda out, batch: Z0,
    # of one loss alone
    "sppo_regression.h": lambda out, batch: (out["logp"] - batch.old_logp).sum(),
    "value_clip.old": lambda out, batch: batch.old_values,
    "bradley_terry.weight": lambda out, batch: rank_weight(some_pairs(batch), batch.group),
}
"""Where a loss's tensors come from, by the names of its parameters."""
NUMBERS = {
    "beta": 0.5, "tau": 0.3, "smoothing": 0.1, "noise": 0.2, "gamma": 0.7, "centring": 0.1,
    "length": 9.0, "eta": 0.7,
}  # fmt: skip
"""Settings that are numbers; others keep their defaults."""


def scores_of(batch: Batch) -> Tensor:
    """Return marks, nan where a group has none, as the losses of marked answers read them."""
    return torch.full((batch.tokens.n,), torch.nan) if batch.scores is None else batch.scores


# --- every loss, with every choice of its options ------------------------------------------------


@dataclass(frozen=True)
class Loss:
    """A loss with its options chosen.

    Attributes:
        whole: its units are comparisons or groups, so a group is never cut.
        margins: margins have a place in it.
    """

    name: str
    function: Callable[..., Terms]
    options: tuple[tuple[str, Any], ...]
    absent: tuple[str, ...] = ()
    margins: bool = True

    @property
    def parameters(self) -> dict[str, inspect.Parameter]:
        """The function's parameters by name."""
        return dict(inspect.signature(self.function).parameters)

    @property
    def whole(self) -> bool:
        """True where a group is never spread over micro-batches: it is compared, or one unit."""
        return bool({"pairs", "logit", "joint"} & self.parameters.keys())

    def __call__(self, out: dict[str, Any], batch: Batch) -> Terms:
        """Find the arguments by name and compute the terms."""
        if not self.margins and batch.pairs is not None:
            batch = replace(batch, pairs=replace(batch.pairs, margin=None))
        given = dict(self.options)
        for name in self.parameters:
            own = f"{self.function.__name__}.{name}"
            source = ARGUMENTS.get(own, ARGUMENTS.get(name))
            if source is not None and name not in self.absent:
                given[name] = source(out, batch)
        return self.function(**given)


def functions() -> dict[str, Callable[..., Terms]]:
    """Return every function of the objectives that returns terms."""
    public = {name: getattr(objectives, name) for name in objectives.__all__}
    return {
        name: function
        for name, function in public.items()
        if inspect.isfunction(function) and get_type_hints(function).get("return") is Terms
    }


def losses() -> Iterator[Loss]:
    """Yield every loss with every choice among its words, with and without what may be absent.

    Choices that the loss refuses are left out.
    """
    for name, function in functions().items():
        words = word_choices(function)
        parameters = inspect.signature(function).parameters
        numbers = {n: v for n, v in NUMBERS.items() if n in parameters}
        if name == "bradley_terry":
            numbers.pop("smoothing")  # excludes `noise`
        maybe = [n for n, p in parameters.items() if p.default is None and n in ARGUMENTS]
        takes = all(row.takes_margins for row in PAIRWISE.values() if row.function is function)
        for chosen in itertools.product(*words.values()):
            for absent in itertools.product(*((None, n) for n in maybe)):
                lacks = tuple(n for n in absent if n)
                label = "-".join([name, *map(str, chosen), *(f"no {n}" for n in lacks)])
                options = numbers | dict(zip(words, chosen, strict=True))
                loss = Loss(label, function, tuple(options.items()), lacks, takes)
                if is_allowed(loss):
                    yield loss
    for name, row in PAIRWISE.items():

        def named(logp: Ragged, ref: Ragged, pairs: Pairs, row: Any = row, **given: float) -> Terms:
            return row(logp, ref if row.uses_ref else None, pairs, **given)

        options = tuple((n, NUMBERS[n]) for n in row.settings if n in NUMBERS)
        yield Loss(f"PAIRWISE {name}", named, options, margins=row.takes_margins)


def word_choices(function: Callable[..., Terms]) -> dict[str, tuple[str, ...]]:
    """Return the options of a loss that are words, with all their values."""
    found: dict[str, tuple[str, ...]] = {}
    for name, hint in get_type_hints(function).items():
        literal = next((h for h in (hint, *get_args(hint)) if get_origin(h) is Literal), None)
        if literal is not None:
            found[name] = get_args(literal)
    return found


def is_allowed(loss: Loss) -> bool:
    """False for options that the loss refuses whatever the batch."""
    batch = packed(list(enumerate(some_groups(0))))
    try:
        loss(Tables(0).read(batch), batch)
    except ConfigError:
        return False
    return True


# --- groups with ragged columns -------------------------------------------------------------------


def some_groups(seed: int, count: int = GROUPS) -> list[Group]:
    """Return groups of 1 to 4 completions that have every column."""
    rng = np.random.default_rng(seed)
    return [full_group(f"g{i}", rng) for i in range(count)]


def full_group(name: str, rng: np.random.Generator) -> Group:
    n = int(rng.integers(1, 5))
    bare = group(name, rng, int(rng.integers(1, 6)), rng.integers(1, 7, n).tolist())
    completions = tuple(_full(c, rng) for c in bare.completions)
    votes = tuple(
        Preference(i, i + 1, float(rng.uniform()), float(rng.uniform(0, 2))) for i in range(n - 1)
    )
    return replace(
        bare,
        completions=completions,
        preferences=votes,
        scores=rng.integers(0, 2, n).astype(np.float64),
    )


def _full(completion: Completion, rng: np.random.Generator) -> Completion:
    mask = rng.uniform(size=len(completion.tokens)) < 0.7
    mask[-1] = True
    return replace(completion, mask=mask, weight=float(rng.uniform(0.2, 3)))


def _votes(g: Group, **changes: Any) -> Group:
    return replace(g, preferences=tuple(replace(v, **changes) for v in g.preferences))


def _completions(g: Group, **changes: Any) -> Group:
    return replace(g, completions=tuple(replace(c, **changes) for c in g.completions))


WITHOUT: dict[str, Callable[[Group], Group]] = {
    "weight": lambda g: _completions(g, weight=1.0),
    "mask": lambda g: _completions(g, mask=None),
    "scores": lambda g: replace(g, scores=None),
    "pairs": lambda g: replace(g, preferences=()),
    "p": lambda g: _votes(g, p=1.0),
    "margin": lambda g: _votes(g, margin=None),
}
"""What takes a column from a group."""
STRUCTURE = {"tokens", "group", "shared", "w", "l"}
"""No columns of a group: where tokens lie, who is compared, numbers of a whole step."""


def token_columns(g: Group) -> dict[str, list[FloatArray | None]]:
    """Return per-token numbers that hang on the completion alone."""
    found: dict[str, list[FloatArray | None]] = {name: [] for name in RAGGED}
    for c in g.completions:  # its place in a part of the group says nothing
        rng = np.random.default_rng(c.tokens.tolist())
        for name in RAGGED:
            centre = -2.0 if name.endswith("logp") else 0.0
            found[name].append(centre + rng.normal(size=len(c.tokens)))
    return found


def packed(pieces: Sequence[Piece]) -> Batch:
    """Pack pieces of a step; a completion's columns are looked up by its tokens."""
    columns = [token_columns(g) for _, g in pieces]
    rows = {name: [c[name] for c in columns] for name in RAGGED}
    return pack_groups([g for _, g in pieces], "rows", rows, [n for n, _ in pieces])


def step_gradient(loss: Loss, micro: Sequence[Batch], seed: int) -> Tensor:
    """Return the gradient of a step cut into micro-batches, as the loop adds it up."""
    model = Tables(seed)
    terms = [loss(model.read(batch), batch) for batch in micro]
    weight = torch.stack([t.weight.sum() for t in terms]).sum()
    total = torch.stack([t.loss.sum() for t in terms]).sum() / weight
    found = torch.autograd.grad(total, model.parameters, allow_unused=True)
    zeros = (torch.zeros_like(p) for p in model.parameters)
    return torch.cat([(z if g is None else g).flatten() for g, z in zip(found, zeros, strict=True)])


def cut_like(groups: Sequence[Group], whole: bool, budget: int, parts: int) -> list[Batch]:
    """Cut as the sources do: groups that are compared stay whole, others may be spread."""
    return [packed(m) for m in cut_step(groups, Cut(budget, parts), divisible=not whole)]


def losses_that_differ(groups: list[Group], cuts: dict[bool, list[Batch]], seed: int) -> list[str]:
    """Name the losses whose gradient is another when the step is cut.

    Args:
        groups: a step.
        cuts: the same step in micro-batches, for losses on whole groups and for others.
        seed: draws the tables.
    """
    one = [packed(list(enumerate(groups)))]
    wrong: list[str] = []
    for loss in LOSSES:
        wanted = step_gradient(loss, one, seed)
        found = step_gradient(loss, cuts[loss.whole], seed)
        if not (found - wanted).norm() <= BOUND * wanted.norm():  # nan differs
            wrong.append(loss.name)
    return wrong


LOSSES = list(losses())


# --- the tests ------------------------------------------------------------------------------------


def test_every_loss_is_here_and_finds_its_arguments():
    named = {loss.name.split("-")[0] for loss in LOSSES}
    assert set(functions()) <= named
    assert {f"PAIRWISE {name}" for name in PAIRWISE} <= named
    for name, function in functions().items():
        parameters = inspect.signature(function).parameters.items()
        needed = [n for n, p in parameters if p.default is p.empty]
        unknown = [n for n in needed if n not in ARGUMENTS and n not in NUMBERS]
        assert not unknown, f"say where the arguments {unknown} of `{name}` come from"


def test_every_column_is_here():
    columns = {f.name for kind in (Batch, Pairs) for f in fields(kind)} - STRUCTURE
    assert columns <= {*WITHOUT, *RAGGED}, "say how a group has no such column"


@pytest.mark.parametrize("column", WITHOUT)
def test_groups_without_a_column_change_nothing_for_their_neighbours(column: str):
    """Every other group lacks it; one micro-batch of all is the same as one a group."""
    groups = [WITHOUT[column](g) if i % 2 else g for i, g in enumerate(some_groups(3))]
    apart = [packed([piece]) for piece in enumerate(groups)]
    assert losses_that_differ(groups, {True: apart, False: apart}, 0) == []


@settings(max_examples=12, deadline=None)
@given(
    seed=st.integers(0, 10**6),
    lacking=st.lists(st.sets(st.sampled_from(list(WITHOUT))), min_size=GROUPS, max_size=GROUPS),
    budget=st.integers(1, 120),
    parts=st.integers(1, 3),
)
def test_any_cut_of_any_columns_is_the_same_step(
    seed: int, lacking: list[set[str]], budget: int, parts: int
):
    groups = some_groups(seed)
    for i, columns in enumerate(lacking[1:], 1):  # the first has all, so that a unit is left
        for column in sorted(columns):
            groups[i] = WITHOUT[column](groups[i])
    groups[0] = with_a_pair(groups[0])
    cuts = {whole: cut_like(groups, whole, budget, parts) for whole in (True, False)}
    assert losses_that_differ(groups, cuts, seed) == []


def with_a_pair(g: Group) -> Group:
    """Return a group in which two different answers are compared."""
    rng = np.random.default_rng(0)
    two = group(g.id, rng, 3, (3, 4))
    completions = tuple(_full(c, rng) for c in two.completions)
    votes = (Preference(0, 1, 0.8, 0.5),)
    return replace(two, completions=completions, scores=np.array([1.0, 0.0]), preferences=votes)


def test_every_loss_has_a_gradient_to_compare():
    """Not 0 for any of them, or the other tests would say nothing."""
    batch = [packed(list(enumerate(some_groups(3))))]
    assert [loss.name for loss in LOSSES if step_gradient(loss, batch, 0).norm() == 0] == []


@pytest.mark.parametrize("column", RAGGED)
@pytest.mark.parametrize("together", [True, False], ids=["together", "apart"])
def test_a_missing_column_of_tokens_is_refused_in_any_cut(column: str, together: bool):
    """It has no neutral value: the group is named, whoever else is in its micro-batch."""
    pieces = list(enumerate(some_groups(1, 3)))
    rows = [token_columns(g)[column] for _, g in pieces]
    rows[1] = [None] * len(rows[1])
    batch = pieces if together else pieces[1:2]
    own = {column: [rows[n] for n, _ in batch]}
    with pytest.raises(DataError, match=rf"column `{column}` of group `g1`"):
        pack_groups([g for _, g in batch], "shared", own)


def test_no_margin_is_a_margin_of_nothing():
    """A pair without one has the loss of a pair with margin 0, beside pairs that have one."""
    groups = some_groups(5)
    some = [_votes(g, margin=None) if i % 2 else g for i, g in enumerate(groups)]
    zero = [_votes(g, margin=0.0) if i % 2 else g for i, g in enumerate(groups)]
    pairs = [packed(list(enumerate(x))).pairs for x in (some, zero)]
    score = torch.randn(sum(map(len, groups)), dtype=torch.float64)
    a, b = (bradley_terry(score, p).loss for p in pairs)
    assert torch.equal(a, b)
    nobody = packed(list(enumerate(map(WITHOUT["margin"], groups)))).pairs
    assert nobody is not None
    assert nobody.margin is None
