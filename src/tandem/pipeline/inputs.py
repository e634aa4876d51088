"""Methods on a world: what comes before them, the methods, and one table at the end."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any, Literal

from tandem.data.groups import Groups
from tandem.data.verifiable import QuestionFormat
from tandem.engines import Sampling
from tandem.errors import ConfigError
from tandem.judges import Judge
from tandem.judges.agreement import Equivalence
from tandem.judges.ai_feedback import AIFeedback
from tandem.judges.answer_key import has_truth
from tandem.judges.preference_model import PreferenceModel
from tandem.judges.reward_model import RewardModel, reward_judge
from tandem.judges.templates import FeedbackFormats
from tandem.methods import Method, cyclic_preference, preference, reward, sft
from tandem.methods.configs import PreferenceKind, with_shared_parts
from tandem.models.folders import layer_count
from tandem.operators import best
from tandem.pipeline.costs import stage_seconds
from tandem.runs.checkpoint import Checkpoint
from tandem.runs.records import read_exam_text, read_value
from tandem.runs.run import Run
from tandem.stages.combining import mix
from tandem.stages.encoding import encode
from tandem.stages.evaluate_reward import evaluate_learning_curve, evaluate_reward
from tandem.stages.judging import judge
from tandem.stages.sampling import sample
from tandem.stages.selection import select
from tandem.tasks import LEAST_GOLD, Task
from tandem.training.validation import Validation

Start = Literal["sft", "model"]
ENSEMBLE_SIZE = 4
"""Reward models on the same data with other seeds, for their disagreement."""
CURVE_SHARES = (8, 4, 2, 1)
"""The learning curve's points: the labels divided by these."""
VALIDATION_PROMPTS = 200
"""Prompts of the evaluations during training."""
EXAM_GROUPS = 300
"""Groups of training comparisons on which a held-out reward proves itself."""
OWN_ANSWERS = 4
"""Answers of the base to each prompt, of which a rater keeps one as its demonstration."""
SFT_STAGES = ("own-answers", "own-rated", "own-best", "demonstrations", "sft")
"""Stages of which SFT may consist, where nothing else is asked for."""


@dataclass(frozen=True)
class Inputs:
    """What comes before a method, each stage done when something first asks for it.

    Attributes:
        run: where stages are remembered.
        task: the task, or your model and data.
        configs: settings by name: `sft`, `reward`, `sampling`, the method's own.
        start: what pi_sft is: the base after SFT, or the model as it came.
        given_reward: what methods learn from in place of a reward fitted to D, or None. No
            comparison is then read while they train.
    """

    run: Run
    task: Task
    configs: Mapping[str, Any] = field(repr=False)
    start: Start = "sft"
    given_reward: Judge | None = None

    @property
    def start_name(self) -> str:
        """What the policy that methods start from is called in tables."""
        return "SFT" if self.start == "sft" else "base"

    @property
    def base(self) -> Checkpoint:
        """The model before any training."""
        return self.task.base

    @cached_property
    def demonstrations(self) -> Groups:
        """Prompts with one good answer each, given, or the best of the base's own."""
        prompts, rater = self.task.demonstrations, self.task.rater
        if rater is None:
            return prompts
        n, sampling = OWN_ANSWERS, self.sampling
        drawn = self.run("own-answers", sample, self.base, prompts, n=n, sampling=sampling)
        rated = self.run("own-rated", judge, drawn, rater)
        chosen = self.run("own-best", select, rated, best())
        return chosen.map(lambda group: replace(group, scores=None))

    @cached_property
    def pi_sft(self) -> Checkpoint:
        """The base after SFT on the demonstrations; or, where asked, the base itself."""
        if self.start == "model":
            return self.base
        return sft.recipe(self.run, self.base, self.demonstrations, self.configs["sft"])

    @cached_property
    def early_sft(self) -> Checkpoint:
        """A weaker policy: the base after SFT on a tenth of the demonstrations."""
        D = self.run("demonstrations", encode, self.demonstrations, self.base)
        few = D[: max(1, len(D) // 10)]
        return self.run("early-sft", sft.fit, self.base, few, self.configs["sft"], name="early")

    @cached_property
    def D(self) -> Groups:
        """Preferences to train on."""
        return self._judged("preferences", self.task.preferences, self.task.asked)

    @cached_property
    def given_pairs(self) -> Groups | None:
        """Preferences that came with the data; None where somebody is to be asked."""
        given = self.task.preferences
        return None if given is None else self._judged("preferences", given, None)

    @cached_property
    def held_out(self) -> Groups:
        """Preferences about other prompts, to evaluate on."""
        return self._judged("held-out", self.task.held_out, self.task.asked_held_out)

    @cached_property
    def prompts(self) -> Groups:
        """Prompts without labels, in tokens, with room for an answer."""
        room = self.sampling.max_tokens
        return self.run("unlabelled", encode, self.task.prompts, self.base, room=room)

    @cached_property
    def eval_prompts(self) -> Groups:
        """The evaluation prompts, with their reference answers where there are any."""
        given = self.task.evaluation if self.task.references is None else self.task.references
        return self.run("evaluation", encode, given, self.base, room=self.sampling.max_tokens)

    @property
    def formats(self) -> FeedbackFormats:
        """How a language model is asked for feedback."""
        return self.task.formats

    @property
    def humans(self) -> Judge | None:
        """Who gives preferences."""
        return self.task.annotator

    @property
    def same(self) -> Mapping[str, Equivalence]:
        """What makes two completions the same, by name."""
        return self.task.same

    @property
    def truth(self) -> Judge | None:
        """The programmatic truth."""
        return self.task.truth

    @property
    def wording(self) -> QuestionFormat:
        """How questions with one checkable answer are put and read."""
        if self.task.wording is None:
            raise ConfigError(
                f"{self.task.name} has no questions with one checkable answer",
                "this method learns from answers that can be read and compared",
                "give --task micro-arithmetic, or --data with question and answer (`#### 42`)",
            )
        return self.task.wording

    @cached_property
    def r_phi(self) -> Checkpoint | Judge:
        """The reward that was given; else a reward model fitted to D."""
        if self.given_reward is not None:
            return self.given_reward
        return reward.recipe(self.run, self.pi_sft, self.D, self.configs["reward"])

    @property
    def proxy(self) -> Judge:
        """The reward as a judge."""
        return reward_judge(self.r_phi)

    def preference_judge(self, kind: PreferenceKind, asking: AIFeedback) -> Judge:
        """Return who says which of two answers is better; a model of it is fitted to D first.

        Args:
            kind: `cyclic`, `pairs`, `reward`, `people` or `llm`.
            asking: which language model, where the kind is `llm`.

        Raises:
            ConfigError: nobody here can be asked.
        """
        if kind == "reward":
            return self.proxy
        if kind == "llm":
            return asking.labeller(self.base, self.formats.compare, self.formats.principles)
        if kind == "people":
            if self.humans is None:
                raise ConfigError(
                    f"{self.task.name} has nobody to ask while a policy learns",
                    "its preferences came with the data, and fresh answers have none",
                    "set judge to cyclic, pairs, reward or llm",
                )
            return self.humans
        fitted = cyclic_preference if kind == "cyclic" else preference
        name = "cyclic_preference" if kind == "cyclic" else "preference"
        return PreferenceModel(fitted.recipe(self.run, self.pi_sft, self.D, self.configs[name]))

    @cached_property
    def reward_ensemble(self) -> tuple[Judge, ...]:
        """The proxy again with other seeds, on the same D: how far does it depend on luck?

        They share its data, size and start, so they share its errors: their spread points at
        luck, and their agreement is no second opinion. Empty where the reward was given.
        """
        if self.given_reward is not None:
            return ()
        cfg, names = self.configs["reward"], [f"member-{k}" for k in range(1, ENSEMBLE_SIZE + 1)]
        fits = [self.run(n, reward.fit, self.pi_sft, self.D, cfg, name=n) for n in names]
        return tuple(RewardModel(fit) for fit in fits)

    @cached_property
    def gold_rm(self) -> Judge | None:
        """A reward on human data that the proxy never saw, never optimised.

        The task's own where it brings one. Else it is fitted to the comparisons that were held
        back for it, from the base and not from pi_sft. None where there are none, or where it is
        not better than a coin on held-out comparisons; too few of these say nothing against a
        task's own.
        """
        judged, exam = self.task.gold or self._fitted_gold, self.gold_exam
        if judged is None or exam is None:
            return None
        if self.task.gold is not None and read_value(exam, "numbers", "judgments") < LEAST_GOLD:
            return judged
        low = read_value(exam, "numbers", "measures", "accuracy", "low")
        return judged if low is not None and low > 0.5 else None

    @cached_property
    def gold_exam(self) -> dict[str, Any] | None:
        """The gold reward on held-out comparisons, with its accuracy; None where there is none."""
        judged = self.task.gold or self._fitted_gold
        if judged is None or not self.labelled:
            return None
        return self.run("gold-exam", evaluate_reward, judged, self.held_out)

    @cached_property
    def _fitted_gold(self) -> Judge | None:
        if self.task.gold_labels is None and self.task.asked_gold is None:
            return None
        labels = self._judged("gold-labels", self.task.gold_labels, self.task.asked_gold)
        cfg = self.configs["reward"]
        return RewardModel(self.run("gold-rm", reward.fit, self.base, labels, cfg, name="gold_rm"))

    def judges(self) -> dict[str, Judge]:
        """Return who evaluates a policy, by column; the first decides who wins.

        The programmatic `truth` where there is one; where there are preferences, `gold_rm` (not
        everywhere), that was never optimised; and `proxy`, the reward that was, unless it is the
        truth. Empty where nobody judges.
        """
        found: dict[str, Judge] = {}
        if self.truth is not None and has_truth(self.truth, self.task.evaluation):
            found["truth"] = self.truth
        if self.labelled and self.gold_rm is not None:
            found["gold_rm"] = self.gold_rm
        given = self.given_reward
        if self.labelled if given is None else given not in found.values():
            found["proxy"] = self.proxy
        return found

    def curve(self) -> str:
        """Fit the reward on growing shares of D, whole and cut to half of its layers."""
        cfg, rows = self.configs["reward"], []
        half = max(1, layer_count(self.pi_sft.path) // 2)
        labelled = reward.with_preferences(self.D)
        for size, layers in (("whole", cfg.layers), (f"{half} layers", half)):
            for share in CURVE_SHARES:
                n = max(2, len(labelled) // share)
                stage = f"reward-{size.replace(' ', '-')}-{n}"
                own = replace(cfg, layers=layers)
                fit = self.run(stage, reward.fit, self.pi_sft, labelled[:n], own, name=stage)
                rows.append((n, size, RewardModel(fit)))
        exam = self.run("curve-exam", evaluate_learning_curve, tuple(rows), self.held_out)
        return read_exam_text(exam)

    @cached_property
    def r_held(self) -> Checkpoint:
        """A reward model fitted to the held-out preferences: a second opinion on the first."""
        cfg = self.configs["reward"]
        return self.run("reward-held", reward.fit, self.pi_sft, self.held_out, cfg, name="held-out")

    @cached_property
    def validation(self) -> Validation:
        """What a policy is validated with while it trains, and who chooses the one that is kept."""
        if self.given_reward is not None or not self.is_held_out_proven:
            return self.watch
        return replace(self.watch, choose="held_out")

    @cached_property
    def watch(self) -> Validation:
        """Validation that chooses no policy: never on the evaluation prompts.

        Of data of your own all held-out prompts are for the evaluation. So a policy is watched on
        prompts that it trains on, by judges that have not seen its answers to them. Beside a reward
        that was given, the truth alone is asked.
        """
        task, asked = self.task, self.task.asked_held_out
        if asked is None and any(r.name == "watched" for r in self.run.records()):
            asked = self.held_out.prompts()  # a folder of an earlier version goes on as it began
        room = self.sampling.max_tokens
        prompts = (
            self.prompts if asked is None
            else self.run("watched", encode, asked, self.base, room=room)
        )  # fmt: skip
        given = self.given_reward is not None
        judges: list[tuple[str, Judge]] = []
        if not given:
            judges.append(("held_out", RewardModel(self.r_held)))
        if task.truth is not None and has_truth(task.truth, prompts):
            judges.append(("truth", task.truth))
        elif not given and self.gold_rm is not None:
            judges.append(("gold_rm", self.gold_rm))
        return Validation(prompts[:VALIDATION_PROMPTS], tuple(judges))

    @cached_property
    def is_held_out_proven(self) -> bool:
        """True where `r_held` is better than a coin on comparisons that it was not fitted to.

        Only then may it choose which policy is kept. Never where it was fitted to a test set of
        the user's, whose labels must not choose what is tested on them.
        """
        if self.task.has_test_set:
            return False
        shown = reward.with_preferences(self.D)[:EXAM_GROUPS]
        exam = self.run("reward-held-exam", evaluate_reward, RewardModel(self.r_held), shown)
        low = read_value(exam, "numbers", "measures", "accuracy", "low")
        proven = low is not None and low > 0.5
        if not proven:
            text = (
                "the last policy is kept: the reward fitted to held-out comparisons is not seen to "
                "be better than a coin on others, so it chooses none"
            )
            self.run.events.log("note", text=text)
        return proven

    @property
    def labelled(self) -> bool:
        """True where comparisons exist or can be asked for."""
        return self.task.compared

    @property
    def sampling(self) -> Sampling:
        """How every policy is sampled."""
        return self.configs["sampling"]

    def _judged(self, name: str, given: Groups | None, asked: Groups | None) -> Groups:
        if given is not None:
            return self.run(name, encode, given, self.base)
        pairs = f"{name}-pairs"
        if self.task.weaker:
            shares = (1 - self.task.weaker, self.task.weaker / 2, self.task.weaker / 2)
            writers = {"sft": self.pi_sft, "base": self.base, "early": self.early_sft}
            written = tuple(
                self.run(f"{name}-by-{by}", sample, writer, asked, n=2, sampling=self.sampling)
                for by, writer in writers.items()
            )
            drawn = self.run(pairs, mix, written, shares, n=2)
        else:
            drawn = self.run(pairs, sample, self.pi_sft, asked, n=2, sampling=self.sampling)
        return self.run(name, judge, drawn, self.humans)

    def run_recipe(self, method: Method) -> tuple[Any, float]:
        """Run a method's recipe on what it names; return the result and its stages' seconds."""
        cfg = with_shared_parts(self.configs[method.name], self.configs)
        given_reward = self.given_reward is not None
        missing = {"D": given_reward, "validation": not (self.labelled or given_reward)}
        read = {name for name in method.read_inputs(cfg) if not missing.get(name)}
        instead = {} if getattr(cfg, "chooses_policy", True) else {"validation": "watch"}
        given = {
            name: getattr(self, instead.get(name, name)) if name in read else None
            for name in method.inputs
        }
        before = set(self.run.called)
        result = method.recipe(self.run, **given, cfg=cfg)
        return result, stage_seconds(self.run, set(self.run.called) - before)
