"""RLP-UML's part of a reward's training step: two views of a prompt, an encoder and a critic.

Two of a policy's samples for one prompt are its two views. `MultiViewSource` gives batches of
them, to be joined by `ZippedSource` with the comparisons; `MultiViewHead` is the module that
encodes the reward model's own features (last layer, last token) and scores pairs of encodings;
its loss is `objectives.multiview`. Lang et al. 2024, arXiv:2403.19279, section 3.2.

Negatives come from the prompt before in the step's order, in a circle. Each micro-batch therefore
starts with one more answer, the first view of the prompt before its own, so that a step is the
same however it is cut. The draws of z are fixed by epoch and prompt for the same reason.

Shapes: B prompts of a micro-batch, N = 2 B + 1 completions, d width, z dimensions of an encoding.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.functional import cosine_similarity, softplus

from tandem.batching.batch import Batch, Outputs, Terms
from tandem.batching.microbatches import Cut, unique_tokens
from tandem.batching.packing import Layout, pack_groups
from tandem.data.groups import Groups
from tandem.data.record import Group, IntArray
from tandem.errors import ConfigError, DataError
from tandem.errors.ranges import Count, Positive, Share, check_ranges
from tandem.objectives.multiview import (
    contrastive,
    multiview,
    skl_closed,
    skl_sample,
    skl_schedule,
)
from tandem.rng import Seed

SIGMA_FLOOR = 1e-7
FROM = 1e-3
"""Weight of the SKL at the start of a warm-up; the original's."""


@dataclass(frozen=True)
class MultiViewConfig:
    """Settings of unsupervised multi-view learning.

    Attributes:
        objective: `mib` is the paper's: mutual information of the views less their SKL;
            `multiview-infomax` leaves the SKL out; `infomax` is about one view, its features and
            their encoding; `contrastive` tells the other view from another prompt's by cosine.
        z: dimensions of an encoding.
        hidden: width of the three-layer networks; smaller for small models.
        skl: in closed form, or from one draw as the original code has it.
        hold: share of the steps that the SKL's weight stays at 1e-3.
        warmup: share of the steps over which it then rises to 1, exponentially; with both at 0 it
            is 1 throughout.
        temperature: of the cosine, in `contrastive`.
    """

    objective: Literal["mib", "infomax", "multiview-infomax", "contrastive"] = "mib"
    z: Count = 64
    hidden: Count = 1024
    skl: Literal["closed", "sample"] = "closed"
    hold: Share = 0.0
    warmup: Share = 0.0
    temperature: Positive = 0.1

    def __post_init__(self) -> None:
        check_ranges(self, "uml")
        if self.hold + self.warmup > 1:
            raise ConfigError(
                f"uml.hold = {self.hold} with uml.warmup = {self.warmup}",
                "both are shares of the same steps, one after the other",
                "give two shares that are at most 1 together",
            )

    def skl_weight(self, step: int, total: int) -> float:
        """Weight of the SKL at a step."""
        if self.objective != "mib":
            return 0.0
        if not self.hold + self.warmup:
            return 1.0
        begin, steps = round(self.hold * total), max(1, round(self.warmup * total))
        return skl_schedule(step, start=FROM, end=1.0, begin=begin, steps=steps)


class MultiViewHead(nn.Module):
    """The stochastic encoder and the critic: a named part of the reward model while it trains.

    p(z | v) = N(mu(v), diag sigma(v)^2), mu and sigma two networks of three layers, sigma =
    softplus + 1e-7. Only the scalar head is kept afterwards.

    Args:
        width: d, of the features.
        cfg: sizes and objective.
        seed: draws the initial weights.
    """

    def __init__(self, width: int, cfg: MultiViewConfig, seed: Seed) -> None:
        super().__init__()
        self.cfg = cfg
        sees = {"infomax": width + cfg.z}.get(cfg.objective, 2 * cfg.z)
        with torch.random.fork_rng():
            torch.manual_seed(int(seed))
            self.mu = make_mlp(width, cfg.hidden, cfg.z)
            if cfg.objective != "contrastive":  # which has means only: no weight without gradient
                self.sigma = make_mlp(width, cfg.hidden, cfg.z)
                self.critic = make_mlp(sees, cfg.hidden, 1)

    def terms(self, out: Outputs, batch: Batch) -> Terms:
        """L_M a prompt of this micro-batch; none for a batch without views.

        Before the forward pass, when only weights are asked for, there are no features.
        """
        shared = batch.shared or {}
        count = (batch.tokens.n - 1) // 2 if shared else 0
        if out.features is None:
            nothing = torch.zeros(count)
            return multiview(nothing, nothing, nothing)
        noise = shared.get("noise", out.features.new_zeros(0, self.cfg.z))
        weight = float(shared["skl_weight"]) if shared else 0.0
        return self(out.features[: len(noise)], noise, weight)

    def forward(self, features: Tensor, noise: Tensor, skl_weight: float) -> Terms:
        """L_M a prompt.

        Args:
            features: [2 B + 1, d] the first view of the prompt before, then both views of each.
            noise: [2 B + 1, z] standard normal draws.
            skl_weight: of the SKL.
        """
        mu = self.mu(features)
        first, second = _views(len(features), features.device)
        before, own = first[:-1], first[1:]
        if self.cfg.objective == "contrastive":
            near, far = (cosine_similarity(mu[i], mu[second]) for i in (own, before))
            return contrastive(near / self.cfg.temperature, far / self.cfg.temperature)
        sigma = softplus(self.sigma(features)) + SIGMA_FLOOR
        z = mu + sigma * noise
        seen, coded = (features, own) if self.cfg.objective == "infomax" else (z, second)
        joint, marginal = (self._score(seen[i], z[coded]) for i in (own, before))
        skl = self._skl(z, mu, sigma, own, second)
        return multiview(joint, marginal, skl, skl_weight=skl_weight)

    def _score(self, a: Tensor, b: Tensor) -> Tensor:
        return self.critic(torch.cat([a, b], -1))[:, 0]

    def _skl(self, z: Tensor, mu: Tensor, sigma: Tensor, i: Tensor, j: Tensor) -> Tensor:
        laws = (mu[i], sigma[i], mu[j], sigma[j])
        return skl_closed(*laws) if self.cfg.skl == "closed" else skl_sample(z[i], z[j], *laws)


class MultiViewSource:
    """A `BatchSource` of views: two samples of each of some prompts a step, for `total` steps.

    An epoch is a pass over the prompts in a new order, each with two of its samples drawn anew
    without replacement; what does not fill a last step is left for the next epoch's order.

    Args:
        groups: P, prompts with two samples or more, tokenised; of a prompt that is there again
            the first group counts, since a prompt is no negative of itself.
        size: prompts a step; all of them where there are fewer.
        total: number of steps.
        cfg: the schedule of the SKL and the width of the noise.
        seed: orders, views and draws.
        layout: the layout that the probe chose.
        tokens: unique tokens per micro-batch.

    Raises:
        DataError: fewer than two prompts, or one with a single sample.
    """

    def __init__(
        self,
        groups: Groups,
        *,
        size: int,
        total: int,
        cfg: MultiViewConfig,
        seed: Seed,
        layout: Layout,
        tokens: int,
    ) -> None:
        self.groups, self.cfg, self.seed = _different(groups), cfg, seed
        self.size = max(2, min(size, len(self.groups)))
        self.layout: Layout = layout
        self.cut, self.total, self.position = Cut(tokens), total, 0

    def steps(self, policy: nn.Module) -> Iterator[list[Batch]]:
        """Yield the steps that are left, each as its micro-batches."""
        for step in range(self.position, self.total):
            self.position = step + 1
            yield self.batches(step)

    def batches(self, step: int) -> list[Batch]:
        """Pack the views of one step."""
        epoch, inside = divmod(step, len(self.groups) // self.size)
        order = self.seed.at("views", epoch).rng().permutation(len(self.groups))
        drawn = order[inside * self.size : (inside + 1) * self.size].tolist()
        chosen = [self._two(self.groups[i], epoch) for i in drawn]
        noise = [self._noise(g, epoch) for g in chosen]
        weight = torch.tensor(self.cfg.skl_weight(step, self.total))
        blocks = _blocks(chosen, self.cut.tokens)
        return [self._pack([block[0] - 1, *block], chosen, noise, weight) for block in blocks]

    def reads(self) -> IntArray:
        """The different tokens of all samples."""
        return self.groups.vocabulary()

    def sizes(self) -> None:
        """Views are drawn anew in every step."""

    def state_dict(self) -> dict[str, Any]:
        """The position: steps already given out."""
        return {"position": self.position}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue after these steps."""
        self.position = int(state["position"])

    def _two(self, group: Group, epoch: int) -> Group:
        rng = self.seed.at("pair", epoch, group.id).rng()
        two = group.keep(rng.permutation(len(group))[:2].tolist())
        return replace(two, preferences=(), scores=None, clusters=None)

    def _noise(self, group: Group, epoch: int) -> np.ndarray:
        return self.seed.at("noise", epoch, group.id).rng().standard_normal((2, self.cfg.z))

    def _pack(
        self, places: list[int], chosen: list[Group], noise: list[np.ndarray], weight: Tensor
    ) -> Batch:
        """Pack the first view of the first place, then both views of the others."""
        lead, *own = places
        groups = [chosen[lead].keep([0]), *(chosen[k] for k in own)]
        # comparisons of the same step are numbered from 0, fewer of them than `size`
        numbers = [self.size + k % len(chosen) for k in places]
        rows = np.concatenate([noise[lead][:1], *(noise[k] for k in own)])
        shared = {"noise": torch.from_numpy(rows).float(), "skl_weight": weight}
        return replace(pack_groups(groups, self.layout, numbers=numbers), shared=shared)


def make_mlp(width: int, hidden: int, out: int) -> nn.Sequential:
    """Return a network of three layers."""
    return nn.Sequential(
        nn.Linear(width, hidden), nn.ReLU(),
        nn.Linear(hidden, hidden), nn.ReLU(),
        nn.Linear(hidden, out),
    )  # fmt: skip


def _views(n: int, device: torch.device) -> tuple[Tensor, Tensor]:
    """[B + 1] places of the first views, the one of the prompt before in front; [B] of the second.

    Of n = 2 B + 1 rows; of none, none.
    """
    places = torch.arange(n, device=device)
    return torch.cat([places[:1], places[1::2]]), places[2::2]


def _blocks(groups: Sequence[Group], tokens: int) -> Iterator[list[int]]:
    """Cut 0.. into runs of at most so many tokens, the first view of the one before included."""
    block: list[int] = []
    size = 0
    for k, group in enumerate(groups):
        more = unique_tokens(group)
        if block and size + more > tokens:
            yield block
            block = []
        if not block:
            size = unique_tokens(groups[k - 1].keep([0]))
        block.append(k)
        size += more
    if block:
        yield block


def _different(groups: Groups) -> Groups:
    first: dict[str, Group] = {}
    for group in groups:
        first.setdefault(group.prompt.text, group)
    kept = list(first.values())
    single = next((g for g in kept if len(g) < 2), None)
    if len(kept) < 2 or single is not None:
        what = f"`{single.id}` has {len(single)}" if single else f"{len(kept)} different prompts"
        raise DataError(
            f"multi-view learning on {len(groups)} groups: {what}",
            "two samples of a prompt are compared with each other, and with another prompt's",
            "give two or more different prompts, with two or more samples each",
        )
    return Groups.of(kept)
