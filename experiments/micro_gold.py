"""Make the micro task's gold reward model, which ships with the package.

    python experiments/micro_gold.py --out src/tandem/tasks/micro/assets/gold

It is larger than any proxy (eight layers, where the base and every proxy have four), and was fitted
to comparisons of its own: other prompts, other answers and other people than any run's. Its people
err where two answers are nearly as good (Bradley-Terry, temperature 1); the proxy's people err on
a share of all pairs. On posts they compare what policies answer at every stage: the base, an early
and a whole SFT policy, hotter samples, the best of 8 by a small reward, and PPO on that reward. On
the task's other skills they compare demonstrations and the base. Every draw comes from seed `SEED`,
which no table uses. A killed run goes on where it stopped.
"""

from __future__ import annotations

import argparse
import copy
import json
import shutil
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from tandem.cli.run import default_configs
from tandem.data.groups import Groups
from tandem.data.record import Group
from tandem.judges.reward_model import RewardModel
from tandem.machine import Machine
from tandem.methods import load_method, reward
from tandem.methods.reward import RewardConfig
from tandem.models.loading import load_policy, load_scalar
from tandem.models.saving import save_model
from tandem.models.tokenizers import load_tokenizer
from tandem.pipeline.inputs import Inputs
from tandem.rng import Seed
from tandem.runs.checkpoint import Checkpoint
from tandem.runs.context import StageContext
from tandem.runs.run import Run
from tandem.stages.combining import merge
from tandem.stages.encoding import encode
from tandem.stages.judging import judge
from tandem.stages.sampling import BestOf, sample
from tandem.tasks import Sizes
from tandem.tasks.load import MICRO, load_task
from tandem.tasks.micro.annotators import Annotator, known_facts
from tandem.tasks.micro.truth import true_worth
from tandem.training.optim import Optim

SEED = 7919
PROMPTS = {"micro": 3000, "micro-shared": 600, "micro-dialogue": 800, "micro-arithmetic": 600}
"""Prompts of each task on which answers are compared, two pairs a prompt."""
TEMPERATURE = 1.0
BEST = 8
WRITERS = {"base": 1, "early": 1, "hot": 1, "sft": 1, "best": 2, "ppo": 2}
"""Whose answers to posts stand beside those of the SFT policy, and how often."""
FIT = RewardConfig(
    epochs=2,
    batch=32,
    head="zero",
    optim=Optim(lr=7e-4, schedule="linear", warmup=0.1, weight_decay=0.01),
)


def deepened(base: Checkpoint, *, ctx: StageContext) -> Checkpoint:
    """Double the layers of a model, each followed by a copy that at first changes nothing.

    The copy's outputs are zero, so the deeper model starts as the same function (block expansion,
    Wu et al. 2024, arXiv:2401.02415), and learns with twice the layers.
    """
    model: Any = load_policy(base.path, Machine(device="cpu"))
    layers: list[Any] = []
    for layer in model.model.layers:
        twin = copy.deepcopy(layer)
        for silent in (twin.self_attn.o_proj, twin.mlp.down_proj):
            torch.nn.init.zeros_(silent.weight)
            if silent.bias is not None:
                torch.nn.init.zeros_(silent.bias)
        layers += [layer, twin]
    for k, layer in enumerate(layers):
        layer.self_attn.layer_idx = k
    model.model.layers = torch.nn.ModuleList(layers)
    model.config.num_hidden_layers = len(layers)
    if getattr(model.config, "layer_types", None):
        model.config.layer_types = [model.config.layer_types[0]] * len(layers)
    save_model(model, load_tokenizer(base.path), ctx.out)
    return Checkpoint(ctx.out, "deep")


def compared(run: Run, name: str, configs: dict[str, Any]) -> Groups:
    """Let people compare answers to prompts of one task."""
    at, scope = Seed(SEED).at("gold", name), run.scope(name)
    inputs = Inputs(scope, load_task(name, Sizes(prompts=1000), Seed(SEED)), configs)
    answered = answers_to_posts if name == "micro" else answers_beside_demonstrations
    people = Annotator(name="gold people", flips=0.0, temperature=TEMPERATURE, seed=at.at("people"))
    return scope("labels", judge, answered(inputs, name, at), people)


def answers_beside_demonstrations(inputs: Inputs, name: str, at: Seed) -> Groups:
    """Lay an answer of the base beside a demonstration, and a hotter one beside another."""
    given = MICRO[name].demonstrations(PROMPTS[name], at)
    shown = inputs.run("shown", encode, given, inputs.base)
    hot = replace(inputs.sampling, temperature=1.3)
    drawn = [
        inputs.run(f"base-beside-{k}", sample, inputs.base, shown.prompts(), n=n, sampling=how)
        for k, (n, how) in enumerate(((2, inputs.sampling), (1, hot)))
    ]
    return Groups.of(merge(shown, Groups.of(merge(*drawn))))


def answers_to_posts(inputs: Inputs, name: str, at: Seed) -> Groups:
    """Sample answers of every writer to posts, two beside two of the SFT policy."""
    prompts = MICRO[name].prompts("preference", PROMPTS[name], at)
    scope, sampling, sft = inputs.run, inputs.sampling, inputs.pi_sft
    writers: dict[str, Any] = {
        "base": (inputs.base, sampling),
        "early": (inputs.early_sft, sampling),
        "sft": (sft, sampling),
        "hot": (sft, replace(sampling, temperature=1.5)),
        "best": (BestOf(sft, RewardModel(inputs.r_phi), BEST), sampling),
        "ppo": (inputs.run_recipe(load_method("ppo"))[0], sampling),
    }
    slices = [answers_beside(scope, who, part, writers) for who, part in parts_of(prompts)]
    return sum(slices[1:], slices[0])


def parts_of(prompts: Groups) -> Iterator[tuple[str, Groups]]:
    """Cut the prompts by whose answers stand beside those of the SFT policy."""
    start, total = 0, sum(WRITERS.values())
    for who, share in WRITERS.items():
        end = start + len(prompts) * share // total
        yield who, prompts[start:end]
        start = end


def answers_beside(run: Run, who: str, prompts: Groups, writers: dict[str, Any]) -> Groups:
    """Sample two answers of the SFT policy to each prompt, and lay another's beside each."""
    drawn = [
        run(f"{name}-for-{who}", sample, writers[by][0], prompts, n=2, sampling=writers[by][1])
        for name, by in (("sft", "sft"), ("own", who))
    ]
    return Groups.of(group.keep([0, 2, 1, 3]) for group in merge(*drawn))


def error_rate(groups: Groups) -> float:
    """Return how often the people preferred the answer that is truly worse; ties left out."""
    wrong = [_is_wrong(g, p.i, p.j, p.p) for g in groups for p in g.preferences]
    known = [w for w in wrong if w is not None]
    return sum(known) / len(known)


def _is_wrong(group: Group, i: int, j: int, p: float) -> bool | None:
    a, b = (true_worth(known_facts(group), group.completions[k].text) for k in (i, j))
    return None if abs(a - b) < 1e-9 or p == 0.5 else (a > b) != (p > 0.5)


def ship(fitted: Checkpoint, out: Path) -> None:
    """Write the model with weights of half the size; it is loaded in fp32 like any other."""
    model = load_scalar(fitted.path, Machine(device="cpu")).to(torch.bfloat16)  # type: ignore[arg-type]
    save_model(model, load_tokenizer(fitted.path), out)


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--runs", type=Path, default=Path("runs/micro-gold"))
    asked = parser.parse_args()
    configs = default_configs(load_method("ppo"), "micro")
    configs["ppo"] = replace(configs["ppo"], beta=0.005)
    base = Checkpoint(MICRO["micro"].model(), "base")
    with Run(asked.runs, SEED) as run:
        parts = [compared(run, name, configs) for name in PROMPTS]
        deep = run("deep", deepened, base)
        labels = sum(parts[1:], parts[0])
        fitted = run("gold", reward.fit, deep, labels, FIT, name="gold_rm")
        made = {
            "seed": SEED,
            "layers": 2 * len(load_policy(base.path, Machine(device="cpu")).model.layers),
            "comparisons": sum(len(g.preferences) for g in labels),
            "prompts": PROMPTS,
            "temperature": TEMPERATURE,
            "people err": round(error_rate(labels), 4),
            "base": base.hash,
        }
    shutil.rmtree(asked.out, ignore_errors=True)
    ship(fitted, asked.out)
    (asked.out / "made.json").write_text(json.dumps(made, indent=2) + "\n", encoding="utf-8")
    print(json.dumps(made, indent=2))


if __name__ == "__main__":
    main()
