"""Why RLP-UML's reward is worse here than the one it replaces: its fit, taken apart on one seed.

    python experiments/uml.py [--out runs/uml] [--seed 100] [--fits 3] [--only NAME ...]
    python experiments/uml.py --only "no L_M" "lam .5 (the paper's)" --climb      # and PPO on these

Seed 100 is the tuning seed: no comparison reports it. World, SFT, reward, PPO and samples are those
of rlp.toml; then the reward is fitted again with one thing changed at a time, and each fit is
measured on fresh pairs of pi_sft and of pi_theta, labelled by the truth. Findings: docs/log/rlp.md.

Shapes: B pairs, d width of the features h, z dimensions of an encoding.
"""

from __future__ import annotations

import argparse
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor, nn

from tandem.batching.batch import Batch, Outputs, Terms
from tandem.cli.settings import with_table_values
from tandem.data.groups import Groups
from tandem.engines import Sampling
from tandem.judges.reward_model import RewardModel
from tandem.machine import Machine
from tandem.methods import ppo, reward, sft
from tandem.methods.reward import RewardConfig, preference_terms, with_preferences
from tandem.models.forward import forward_groups
from tandem.models.opening import open_scalar
from tandem.models.packed import PackedModel
from tandem.pipeline.inputs import Inputs
from tandem.rng import Seed
from tandem.runs.checkpoint import Checkpoint
from tandem.runs.context import StageContext
from tandem.runs.events import Silent
from tandem.runs.run import Run
from tandem.stages.judging import judge
from tandem.stages.reward_shift import label_by_truth
from tandem.stages.sampling import sample
from tandem.statistics import by_prompt, paired_difference
from tandem.tasks import Sizes, load
from tandem.tasks.micro import Truth
from tandem.training.loop import train
from tandem.training.multiview import MultiViewConfig, MultiViewHead, MultiViewSource
from tandem.training.optim import Optim
from tandem.training.sources import DatasetSource, ZippedSource

SIZES = Sizes(demonstrations=3000, pairs=1000, prompts=1000, evaluation=400, flips=0.25)
HOW = Sampling(max_tokens=32)
WARM = 300
"""Steps on frozen features, at rate 1e-3, in which encoder and critic are fitted first."""


@dataclass(frozen=True)
class Variant:
    """One way to fit the reward again.

    Attributes:
        lam: weight of L_M; 0 leaves the views out.
        uml: settings of the multi-view loss.
        reward: what differs from the micro world's settings of the reward.
        kind: `plain` is `reward.fit`. `watched` is the same, and both gradients are measured.
            `detached` gives L_M the features without gradient, so that it trains encoder and
            critic alone; `first` does that for `WARM` steps and then trains as `plain`. `mean`
            lets the reward read the encoder's mean, mu(h), in place of h. `none` fits nothing.
    """

    lam: float = 0.0
    uml: MultiViewConfig = MultiViewConfig(hidden=128)
    reward: Mapping[str, Any] = field(default_factory=dict)
    kind: Literal["plain", "watched", "detached", "first", "mean", "none"] = "plain"


INFOMAX = MultiViewConfig(hidden=128, objective="multiview-infomax")
LATE = MultiViewConfig(hidden=128, hold=0.5, warmup=0.5)
FAST, FASTER = ({"optim": {"lr": lr}} for lr in (5e-4, 1e-3))
UNIT = {"unit_variance": True}
VARIANTS: dict[str, Variant] = {
    "pi_sft's features, no fit": Variant(kind="none"),
    "no L_M": Variant(),
    "lam .5 (the paper's)": Variant(0.5, kind="watched"),
    "lam .05": Variant(0.05, kind="watched"),
    "lam .005": Variant(0.005, kind="watched"),
    "lam .0005": Variant(0.0005, kind="watched"),
    "lam .5, not into the body": Variant(0.5, kind="detached"),
    "lam .5, no SKL": Variant(0.5, INFOMAX, kind="watched"),
    "lam .5, SKL late": Variant(0.5, LATE),
    "lam .5, encoder first": Variant(0.5, kind="first"),
    "lam .5, no SKL, encoder first": Variant(0.5, INFOMAX, kind="first"),
    "no L_M, reads mu": Variant(0.0, kind="mean"),
    "lam .5, reads mu": Variant(0.5, kind="mean"),
    "no L_M, batches of 8": Variant(reward={"batch": 8}),
    "lam .5, batches of 8": Variant(0.5, reward={"batch": 8}),
    "no L_M, batches of 128": Variant(reward={"batch": 128}),
    "lam .5, batches of 128": Variant(0.5, reward={"batch": 128}),
    "no L_M, head drawn": Variant(reward={"head": "normal"}),
    "lam .5, head drawn": Variant(0.5, reward={"head": "normal"}),
    "lam .005, head drawn": Variant(0.005, reward={"head": "normal"}),
    "no L_M, rate 5e-4": Variant(reward=FAST),
    "lam .5, rate 5e-4": Variant(0.5, reward=FAST),
    "lam .005, rate 5e-4": Variant(0.005, reward=FAST),
    "no L_M, rate 1e-3": Variant(reward=FASTER),
    "lam .5, rate 1e-3": Variant(0.5, reward=FASTER),
    "no L_M, 4 epochs": Variant(reward={"epochs": 4}),
    "lam .5, 4 epochs": Variant(0.5, reward={"epochs": 4}),
    "no L_M, unit variance": Variant(reward=UNIT),
    "lam .5, unit variance": Variant(0.5, reward=UNIT),
}


def main() -> None:
    """Fit every variant a few times, and print a line for each."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--out", type=Path, default=Path("runs/uml"))
    parser.add_argument("--seed", type=int, default=100)
    parser.add_argument("--fits", type=int, default=3, help="of every variant, in other orders")
    parser.add_argument("--only", nargs="+", choices=VARIANTS, default=list(VARIANTS))
    parser.add_argument("--climb", action="store_true", help="PPO on each variant's first fit")
    asked = parser.parse_args()
    with Run(asked.out, asked.seed, machine=Machine(log_every=4)) as run:
        inputs = Inputs(run, load.load_task("micro", SIZES, Seed(asked.seed)), configs())
        r_phi = RewardModel(inputs.r_phi)
        pi_theta = run(
            "ppo", ppo.fit, inputs.pi_sft, inputs.prompts, r_phi, climbing(), sampling=HOW
        )
        P = run("samples", sample, pi_theta, inputs.prompts, n=10, sampling=HOW)
        policies = {"pi_sft": inputs.pi_sft, "pi_theta": pi_theta}
        fresh = {
            name: run(f"fresh-{k}", sample, policy, inputs.eval_prompts, n=4, sampling=HOW)
            for k, (name, policy) in enumerate(policies.items())
        }
        exams = {name: run(f"pairs-{name}", compare, g) for name, g in fresh.items()}
        print(HEAD)
        for name in asked.only:
            given = (inputs.pi_sft, inputs.D, P, exams, VARIANTS[name])
            found = [run(f"{slug(name)}-{k}", measured, *given, k) for k in range(asked.fits)]
            print(line(name, found, asked.out), flush=True)
            if asked.climb:
                print(climb(inputs, slug(name), asked.out), flush=True)


def compare(groups: Groups, *, seed: Seed, machine: Machine) -> Groups:
    """All pairs of a prompt's answers, labelled by the truth."""
    return label_by_truth(groups, Truth(), seed, machine)


def configs() -> dict[str, Any]:
    """The micro world's own settings."""
    table = load.task_settings("micro")
    plain = {"sft": sft.SFTConfig(), "reward": RewardConfig(), "sampling": Sampling()}
    return {name: with_table_values(cfg, table[name]) for name, cfg in plain.items()}


def climbing() -> ppo.PPOConfig:
    """PPO as in rlp.toml; the last policy is exported."""
    return with_table_values(ppo.PPOConfig(), load.task_settings("micro")["ppo"] | {"rounds": 6})


def slug(name: str) -> str:
    """A stage's name."""
    return re.sub(r"[^a-z0-9]+", "-", name.lower().replace(".", "0")).strip("-")


# --- fitting --------------------------------------------------------------------------------------


def measured(
    init: Checkpoint, D: Groups, P: Groups, exams: Mapping[str, Groups], v: Variant, k: int,
    *, ctx: StageContext,
) -> dict[str, Any]:  # fmt: skip
    """Fit the reward once, and measure it and its features; the model stays in the stage's folder.

    The k-th fits of all variants see the same comparisons and views in the same order.
    """
    ctx = replace(ctx, seed=Seed(k))
    cfg = with_table_values(configs()["reward"], v.reward)
    told: dict[str, Any] = {}
    if v.kind == "plain":
        fit = reward.fit(init, D, cfg, views=P if v.lam else None, lam=v.lam, uml=v.uml, ctx=ctx)
        model, score = open_scalar(fit.path, ctx.machine), None
    else:
        model, score = special(init, D, P, v, cfg, ctx, told)
    for name, groups in exams.items():
        told[name] = exam(model, groups, score, ctx.machine)
    return told


def special(
    init: Checkpoint, D: Groups, P: Groups, v: Variant, cfg: RewardConfig, ctx: StageContext,
    told: dict[str, Any],
) -> tuple[PackedModel, nn.Module | None]:  # fmt: skip
    """`reward.with_views` with one thing changed; what scores features if not h's own head."""
    machine, zero = ctx.machine, cfg.head == "zero"
    model = open_scalar(init.path, machine, fresh=ctx.seed.at("head"), zero=zero, train=True)
    if v.kind == "none":
        return model.eval(), None
    net = MultiViewHead(int(model.inner.config.hidden_size), v.uml, ctx.seed.at("bottleneck"))
    model.heads["views"] = net
    score = None
    if v.kind == "mean":
        score = nn.Sequential(net.mu, last := nn.Linear(v.uml.z, 1, bias=False))
        nn.init.zeros_(last.weight)
        model.heads["mean"] = last
    shape = {"layout": model.layout, "tokens": machine.tokens}
    views = {"size": cfg.batch, "cfg": v.uml, "seed": ctx.seed.at("views"), **shape}
    if v.kind == "first":
        first = replace(ctx, scratch=ctx.scratch / "first", events=Silent())
        first.scratch.mkdir(exist_ok=True)
        alone = partial(terms, net=net, cfg=None, lam=1.0, score=None, detach=True)
        rate = Optim(lr=1e-3, schedule="linear")
        train(
            model,
            MultiViewSource(P, total=WARM, **views),
            alone,
            rate,
            first,
            want={"features": True},
        )
    offline = DatasetSource(
        with_preferences(D), size=cfg.batch, epochs=cfg.epochs, seed=ctx.seed, **shape
    )
    source = ZippedSource(offline, MultiViewSource(P, total=offline.total, **views))
    detach = v.kind == "detached"
    loss = partial(terms, net=net, cfg=cfg, lam=v.lam, score=score, detach=detach)
    if v.kind == "watched":
        loss = Pulls(loss, model.body, offline, told.setdefault("pulls", []))
    train(model, source, loss, cfg.optim, ctx, want={"features": True})
    return model, score


def terms(
    out: Outputs, batch: Batch, *, net: MultiViewHead, cfg: RewardConfig | None, lam: float,
    score: nn.Module | None, detach: bool,
) -> dict[str, Terms]:  # fmt: skip
    """Bradley-Terry, unless cfg is None, and lam L_M."""
    h = out.features
    if score is not None and h is not None:
        out = replace(out, score=score(h)[:, 0])
    L_M = net.terms(replace(out, features=h.detach()) if detach and h is not None else out, batch)
    found = {"multiview": L_M._replace(loss=lam * L_M.loss)}
    return found if cfg is None else {"bradley_terry": preference_terms(out, batch, cfg), **found}


class Pulls:
    """A loss that also keeps, for every step, how hard each term pulls at the body, and where."""

    def __init__(self, loss: Any, body: nn.Module, source: DatasetSource, kept: list[Any]) -> None:
        self.loss, self.source, self.kept = loss, source, kept
        self.weights = [p for p in body.parameters() if p.requires_grad]
        self.step, self.sums = 0, {}

    def __call__(self, out: Outputs, batch: Batch) -> dict[str, Terms]:
        """The loss's own terms."""
        found = self.loss(out, batch)
        if out.features is None:
            return found
        if self.source.position != self.step:
            self._close()
        for name, term in found.items():
            if len(term.loss):
                pulled = torch.autograd.grad(
                    term.loss.mean(), self.weights, retain_graph=True, allow_unused=True
                )
                flat = torch.cat([x.flatten() for x in pulled if x is not None])
                self.sums[name] = self.sums.get(name, 0) + flat
        return found

    def _close(self) -> None:
        """Write the step that is over: both norms and the cosine between the two."""
        if len(self.sums) == 2:
            a, b = self.sums["bradley_terry"], self.sums["multiview"]
            cosine = float(torch.nn.functional.cosine_similarity(a, b, 0))
            self.kept.append([self.step, float(a.norm()), float(b.norm()), cosine])
        self.step, self.sums = self.source.position, {}


# --- measuring ------------------------------------------------------------------------------------


def exam(
    model: PackedModel, pairs: Groups, score: nn.Module | None, machine: Machine
) -> dict[str, Any]:
    """Accuracy of the scores, and of a linear probe of the features; where features differ."""
    gaps: list[float] = []
    prompts: list[str] = []
    rows, within, means = [], [], []
    for group, found in forward_groups(model, pairs, machine.tokens, logp=False, features=True):
        h, s = found.features, found.score
        assert h is not None
        assert s is not None
        if score is not None:
            with torch.inference_mode():
                s = score(torch.from_numpy(h))[:, 0].numpy()
        within.append(h.var(axis=0).sum())
        means.append(h.mean(axis=0))
        for pair in group.preferences:
            if pair.p != 0.5:
                gaps.append(float(s[pair.winner] - s[pair.loser]))
                rows.append(h[pair.winner] - h[pair.loser])
                prompts.append(group.id)
    right = by_prompt((np.sign(gaps) + 1) / 2, prompts)
    between = np.var(means, axis=0).sum()
    return {
        "accuracy": right.mean,
        "se": right.se,
        "spread": float(np.std(gaps)),
        "within": float(np.mean(within)),
        "share within": float(np.mean(within) / (np.mean(within) + between)),
        "probe": probe(np.array(rows), prompts),
    }


def probe(x: np.ndarray, prompts: list[str]) -> float:
    """Accuracy, on half of the prompts, of a logistic regression fitted to the other half."""
    names = {p: k for k, p in enumerate(dict.fromkeys(prompts))}
    half = np.array([names[p] % 2 == 0 for p in prompts])
    data = torch.from_numpy(x / x[half].std(axis=0).clip(1e-8)).double()
    w = torch.zeros(x.shape[1], dtype=torch.double, requires_grad=True)
    solver = torch.optim.LBFGS([w], max_iter=200, line_search_fn="strong_wolfe")

    def loss() -> Tensor:
        solver.zero_grad()
        value = nn.functional.softplus(-(data[half] @ w)).mean() + 1e-3 * (w @ w)
        value.backward()
        return value

    solver.step(loss)
    return float((data[~half] @ w > 0).double().mean())


# --- telling --------------------------------------------------------------------------------------

HEAD = (
    "variant | acc pi_sft | acc pi_theta (sd of fits) | spread | probe | h within, share | "
    "BT loss first, last | I_JS | SKL first, last | |grad| BT, L_M first third; last; cosine"
)


def line(name: str, found: list[dict[str, Any]], out: Path) -> str:
    """One variant in words and numbers: means over its fits."""
    at = {p: [f[p] for f in found] for p in ("pi_sft", "pi_theta")}
    mean = lambda p, k: float(np.mean([f[k] for f in at[p]]))  # noqa: E731
    sd = float(np.std([f["accuracy"] for f in at["pi_theta"]]))
    logs = [log(out / "events.jsonl", f"-{slug(name)}-{k}") for k in range(len(found))]
    cells = [
        f"{mean('pi_sft', 'accuracy'):.3f}",
        f"{mean('pi_theta', 'accuracy'):.3f} ({sd:.3f})",
        f"{mean('pi_theta', 'spread'):.3f}",
        f"{mean('pi_theta', 'probe'):.3f}",
        f"{mean('pi_theta', 'within'):.3f}, {mean('pi_theta', 'share within'):.3f}",
        ends(logs, "bradley_terry_loss", "{:.4f}"),
        ends(logs, "mi_js", "{:.4f}"),
        ends(logs, "skl", "{:.4f}"),
    ]
    pulls = [f["pulls"] for f in found if f.get("pulls")]
    if pulls:
        rows = np.mean(pulls, axis=0)
        third = len(rows) // 3
        told = [rows[:third].mean(axis=0), rows[-third:].mean(axis=0)]
        cells.append("; ".join(f"{b:.3f} {m:.3f} cos {c:+.2f}" for _, b, m, c in told))
    return " | ".join([name, *cells])


def ends(logs: list[list[dict[str, Any]]], key: str, form: str) -> str:
    """First and last logged value of a column, means over fits."""
    if not logs[0] or key not in logs[0][0]:
        return "-"
    return ", ".join(form.format(np.mean([rows[k][key] for rows in logs])) for k in (0, -1))


def log(events: Path, ending: str) -> list[dict[str, Any]]:
    """Training lines of a stage, of its last attempt."""
    lines = map(json.loads, events.read_text(encoding="utf-8").splitlines())
    rows = [e for e in lines if e["kind"] == "train" and e["stage"].endswith(ending)]
    return list({e["step"]: e for e in rows}.values())


def climb(inputs: Inputs, name: str, out: Path) -> str:
    """PPO on a variant's first fit, and what it gains in truth over pi_sft."""
    folder = next(r.folder for r in inputs.run.records() if r.name == f"{name}-0")
    judged = RewardModel(Checkpoint(folder / "artifact", name))
    pi = inputs.run(
        f"climb-{name}", ppo.fit, inputs.pi_sft, inputs.prompts, judged, climbing(), sampling=HOW
    )
    worth = []
    for stage, policy in ((f"climbed-{name}", pi), ("climbed-sft", inputs.pi_sft)):
        answers = inputs.run(stage, sample, policy, inputs.eval_prompts, n=4, sampling=HOW)
        worth.append([float(np.mean(g.scores)) for g in judge(answers, Truth(), machine=Machine())])
    gain = paired_difference(*worth)
    return f"    PPO: truth gain {gain}"


if __name__ == "__main__":
    main()
