"""Methods on a world: what comes before them, the methods, and one table at the end."""

from __future__ import annotations

import inspect
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any

from tandem import models
from tandem.answers import Wording
from tandem.climb import Watching
from tandem.engines import Sampling
from tandem.errors import ConfigError
from tandem.exams import examine_curve, examine_policies, examine_preferences, examine_reward
from tandem.groups import Groups
from tandem.judges import Judge
from tandem.judges.agreement import Same
from tandem.judges.ensemble import Ensemble
from tandem.judges.models import RewardModel
from tandem.judges.preference_model import PreferenceModel
from tandem.judges.templates import Formats
from tandem.methods import Method, reward, sft, whole
from tandem.operators import best
from tandem.runs import Checkpoint, Run
from tandem.solving import Solver, solve
from tandem.stages import Policy, encode, judge, mix, sample, select
from tandem.tasks import World

MEMBERS = 4
"""Reward models on the same data, for their disagreement and for `gold_rm`."""
SHARES = (8, 4, 2, 1)
"""The learning curve's points: the labels divided by these."""
WATCHED = 200
"""Prompts of the evaluations during training."""
OWN = 4
"""Answers of the base to each prompt, of which a rater keeps one as its demonstration."""
TO_SFT = ("own-answers", "own-rated", "own-best", "demonstrations", "sft")
"""Stages of which SFT may consist, where nothing else is asked for."""


@dataclass(frozen=True)
class Course:
    """What comes before a method, each stage done when something first asks for it.

    Attributes:
        run: where stages are remembered.
        world: the task, or your model and data.
        configs: settings by name: `sft`, `reward`, `sampling`, the method's own.
    """

    run: Run
    world: World
    configs: Mapping[str, Any] = field(repr=False)

    @property
    def base(self) -> Checkpoint:
        """The model before any training."""
        return self.world.base

    @cached_property
    def demonstrations(self) -> Groups:
        """Prompts with one good answer each, given, or the best of the base's own."""
        world = self.world
        if world.rater is None:
            return world.demonstrations
        drawn = self.run(
            "own-answers", sample, self.base, world.demonstrations, n=OWN, how=self.how
        )
        rated = self.run("own-rated", judge, drawn, world.rater)
        chosen = self.run("own-best", select, rated, best())
        return chosen.map(lambda group: replace(group, scores=None))

    @cached_property
    def pi_sft(self) -> Checkpoint:
        """The base after SFT on the demonstrations."""
        return sft.recipe(self.run, self.base, self.demonstrations, self.configs["sft"])

    @cached_property
    def early(self) -> Checkpoint:
        """A weaker policy: the base after SFT on a tenth of the demonstrations."""
        D = self.run("demonstrations", encode, self.demonstrations, self.base)
        few = D[: max(1, len(D) // 10)]
        return self.run("early-sft", sft.fit, self.base, few, self.configs["sft"], name="early")

    @cached_property
    def D(self) -> Groups:
        """Preferences to train on."""
        return self._judged("preferences", self.world.preferences, self.world.asked)

    @cached_property
    def held_out(self) -> Groups:
        """Preferences about other prompts, to evaluate on."""
        return self._judged("held-out", self.world.held_out, self.world.asked_held_out)

    @cached_property
    def x(self) -> Groups:
        """Prompts without labels, in tokens, with room for an answer."""
        room = self.how.max_tokens
        return self.run("unlabelled", encode, self.world.prompts, self.base, room=room)

    @cached_property
    def exam(self) -> Groups:
        """The evaluation prompts, with their reference answers where there are any."""
        given = self.world.evaluation if self.world.references is None else self.world.references
        return self.run("evaluation", encode, given, self.base, room=self.how.max_tokens)

    @property
    def formats(self) -> Formats:
        """How a language model is asked for feedback."""
        return self.world.formats

    @property
    def humans(self) -> Judge | None:
        """Who gives preferences."""
        return self.world.annotator

    @property
    def same(self) -> Mapping[str, Same]:
        """What makes two completions the same, by name."""
        return self.world.same

    @property
    def truth(self) -> Judge | None:
        """The programmatic truth."""
        return self.world.truth

    @property
    def wording(self) -> Wording:
        """How questions with one checkable answer are put and read."""
        if self.world.wording is None:
            raise ConfigError(
                f"{self.world.name} has no questions with one checkable answer",
                "this method learns from answers that can be read and compared",
                "give --task micro-arithmetic, or --data with question and answer (`#### 42`)",
            )
        return self.world.wording

    @cached_property
    def r_phi(self) -> Checkpoint:
        """The reward model fitted to D."""
        return reward.recipe(self.run, self.pi_sft, self.D, self.configs["reward"])

    @cached_property
    def members(self) -> tuple[Judge, ...]:
        """More reward models on the same D, with other seeds: how far does one depend on luck?"""
        cfg, names = self.configs["reward"], [f"member-{k}" for k in range(1, MEMBERS + 1)]
        fits = [self.run(n, reward.fit, self.pi_sft, self.D, cfg, name=n) for n in names]
        return tuple(RewardModel(fit) for fit in fits)

    @property
    def gold_rm(self) -> Judge:
        """A larger reward on the same human data, never optimised: the members together."""
        return Ensemble(self.members, centre="bias", name="gold_rm")

    def curve(self) -> str:
        """Fit the reward on growing shares of D, whole and cut to half of its layers."""
        cfg, rows = self.configs["reward"], []
        half = max(1, models.depth(self.pi_sft.path) // 2)
        labelled = reward.compared(self.D)
        for size, layers in (("whole", cfg.layers), (f"{half} layers", half)):
            for share in SHARES:
                n = max(2, len(labelled) // share)
                stage = f"reward-{size.replace(' ', '-')}-{n}"
                own = replace(cfg, layers=layers)
                fit = self.run(stage, reward.fit, self.pi_sft, labelled[:n], own, name=stage)
                rows.append((n, size, RewardModel(fit)))
        exam = self.run("curve-exam", examine_curve, tuple(rows), self.held_out)
        return exam["text"]

    @cached_property
    def r_held(self) -> Checkpoint:
        """A reward model fitted to the held-out preferences: a second opinion on the first."""
        cfg = self.configs["reward"]
        return self.run("reward-held", reward.fit, self.pi_sft, self.held_out, cfg, name="held-out")

    @cached_property
    def watching(self) -> Watching:
        """What is followed while a policy climbs: never the prompts of the final exam."""
        world = self.world
        asked = self.held_out.prompts() if world.asked_held_out is None else world.asked_held_out
        prompts = self.run("watched", encode, asked, self.base, room=self.how.max_tokens)
        judges: list[tuple[str, Judge]] = [("held_out", RewardModel(self.r_held))]
        if world.truth is not None:
            judges.append(("truth", world.truth))
        return Watching(prompts[:WATCHED], tuple(judges), choose="held_out")

    @property
    def labelled(self) -> bool:
        """True where preferences exist or can be asked for."""
        return self.world.preferences is not None or self.world.annotator is not None

    @property
    def how(self) -> Sampling:
        """How every policy is sampled."""
        return self.configs["sampling"]

    def _judged(self, name: str, given: Groups | None, asked: Groups | None) -> Groups:
        if given is not None:
            return self.run(name, encode, given, self.base)
        pairs = f"{name}-pairs"
        if self.world.weaker:
            shares = (1 - self.world.weaker, self.world.weaker / 2, self.world.weaker / 2)
            writers = {"sft": self.pi_sft, "base": self.base, "early": self.early}
            written = tuple(
                self.run(f"{name}-by-{by}", sample, writer, asked, n=2, how=self.how)
                for by, writer in writers.items()
            )
            drawn = self.run(pairs, mix, written, shares, n=2)
        else:
            drawn = self.run(pairs, sample, self.pi_sft, asked, n=2, how=self.how)
        return self.run(name, judge, drawn, self.humans)

    def do(self, method: Method) -> tuple[Any, float]:
        """Run a method's recipe on what it names; return the result and its stages' seconds."""
        wanted = [p for p in inspect.signature(method.recipe).parameters if p not in ("run", "cfg")]
        given = {name: getattr(self, name) for name in wanted}
        before = set(self.run.called)
        cfg = whole(self.configs[method.name], self.configs)
        result = method.recipe(self.run, **given, cfg=cfg)
        return result, seconds(self.run, set(self.run.called) - before)


def one(run: Run, method: Method, configs: Mapping[str, Any], world: World) -> str:
    """Do one method and everything before it, and return the tables that say how good it is."""
    course = Course(run, world, configs)
    result, spent = course.do(method)
    if method.row.fits == "preference":
        return preferences(course, result)
    parts: list[str] = []
    if method.row.fits == "solver":
        parts.append(solutions(course, method, result))
    elif course.labelled:
        r_phi = result if method.row.fits == "reward" else course.r_phi
        exam = run(
            "reward-exam",
            examine_reward,
            RewardModel(r_phi),
            course.held_out,
            members=course.members,
        )
        parts.append(f"reward model on {len(course.held_out)} held-out comparisons\n{exam['text']}")
    if method.row.fits == "reward":
        parts.append(course.curve())
    if method.row.fits == "policy":
        parts.append(policies(course, {"SFT": course.pi_sft, str(result): result}, spent))
    return "\n\n".join(parts)


def preferences(course: Course, fitted: Checkpoint) -> str:
    """Lay a preference model beside the reward model that was fitted to the same comparisons."""
    judges = {str(fitted): PreferenceModel(fitted), "Bradley-Terry": RewardModel(course.r_phi)}
    exam = course.run("preference-exam", examine_preferences, judges, course.held_out)
    return f"{exam['text']}\n\n{costs(course.run)}"


def solutions(course: Course, method: Method, result: Checkpoint) -> str:
    """Examine a solver beside the base, on questions with one checkable answer."""
    form, wording = course.wording.asking(method.row.asks), course.wording
    if course.truth is None:
        raise ConfigError(
            f"{course.world.name} has no answer key",
            "a solver is examined by how many questions it answers right",
            "use data with answers (GSM8K), or --task micro-arithmetic",
        )
    solvers = {"base": Solver(course.base, wording.forms[0])}
    if form != wording.forms[0]:
        solvers |= {f"base {form.name}": Solver(course.base, form)}
    solvers |= {str(result): Solver(result, form)}
    exam = solve(course.run, solvers, course.exam, wording, course.truth, course.how)
    return f"{len(course.exam)} evaluation questions\n{exam['text']}\n\n{costs(course.run)}"


def policies(course: Course, trained: Mapping[str, Policy], spent: float) -> str:
    """Sample every policy on the evaluation prompts and compare them with SFT."""
    run, world = course.run, course.world
    answers: dict[str, Groups] = {}
    trained = {"base": course.base, **trained}
    for name, policy in trained.items():
        stage = f"answers-{name.lower()}"
        answers[name] = run(stage, sample, policy, course.exam, n=1, how=course.how)
    opponents = ["SFT"]
    if world.references is not None:
        answers["reference"] = course.exam
        opponents.append("reference")
    judges: dict[str, Judge] = {}
    if world.truth is not None:
        judges["truth"] = world.truth
    if course.labelled:
        judges["gold_rm"] = course.gold_rm
        judges["proxy"] = RewardModel(course.r_phi)
    if not judges:
        return f"nobody judges: no preferences, no truth\n\n{costs(run)}"
    exam = run(
        "policy-exam",
        examine_policies,
        answers,
        trained,
        judges=judges,
        opponents=tuple(opponents),
        annotator=world.annotator,
    )
    taken = dict.fromkeys(trained, spent)
    taken |= {"base": 0.0, "SFT": seconds(run, TO_SFT)}
    parts = (
        f"policies on {len(course.exam)} evaluation prompts\n{exam['text']}",
        costs(run),
        summary(exam, taken),
    )
    return "\n\n".join(parts)


def summary(exam: Mapping[str, Any], spent: Mapping[str, float]) -> str:
    """The table to take away: one row a policy, win rates against SFT with their intervals."""
    rows = exam["numbers"]["policies"]
    shown = {
        "win vs SFT": f"{exam['numbers']['judge']} win vs SFT",
        "gold_rm_win": "gold_rm win vs SFT",
        "proxy_win": "proxy win vs SFT",
        "kl": "KL",
        "length": "length",
    }
    columns = {
        key: name for key, name in shown.items() if any(row.get(key) is not None for row in rows)
    }
    lines = [("method", *columns.values(), "seconds")]
    for row in rows:
        cells = [_cell(row.get(k), interval="win" in k) for k in columns]
        took = f"{spent[row['policy']]:.1f}" if row["policy"] in spent else "-"
        lines.append((row["policy"], *cells, took))
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    return "\n".join(
        "  ".join(c.ljust(w) for c, w in zip(line, widths, strict=True)).rstrip() for line in lines
    )


def _cell(value: Any, *, interval: bool) -> str:
    if not isinstance(value, Mapping):
        return "-"
    if not interval:
        return f"{value['mean']:.2f}"
    return f"{value['mean']:.1%} [{value['low']:.1%}, {value['high']:.1%}]"


def seconds(run: Run, stages: Collection[str]) -> float:
    """Return the wall time of some stages, as they took it when they were done."""
    return sum(r.seconds for r in run.records() if r.name in stages)


def costs(run: Run) -> str:
    """Say what every stage cost."""
    rows = run.records()
    lines = [
        f"  {r.folder.name:<24} {r.seconds:8.1f} s  {r.peak_bytes / 2**30:6.2f} GiB" for r in rows
    ]
    return "\n".join(["stages", *lines, f"  {'all':<24} {sum(r.seconds for r in rows):8.1f} s"])
