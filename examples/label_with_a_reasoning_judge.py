"""Label pairs with a judge that reasons first, behind any OpenAI-compatible server; then DPO.

    python examples/label_with_a_reasoning_judge.py
    python examples/label_with_a_reasoning_judge.py --server http://localhost:8000/v1 \\
        --judge qwen --model my-model --data prompts.jsonl

Without --server a small judge is started on this machine. Both orders are asked; a verdict is read
behind the reasoning by a stated rule (`tandem.judges.verdicts`); what cannot be read is counted,
and is no label. The same from the command line:

    tandem run rlaif --model my-model --data prompts.jsonl --rlaif.learn dpo \\
        --rlaif.asking.reads verdict --rlaif.asking.server http://localhost:8000/v1 \\
        --rlaif.asking.model qwen
"""

from contextlib import nullcontext
from pathlib import Path

from example_data import arguments, example_model, write_pairs
from loopback import reason_and_decide, serving

from tandem import (
    Groups,
    ReasoningJudge,
    Run,
    Sampling,
    Server,
    encode,
    find_model,
    sample,
    task_from_files,
)
from tandem.judges.position_bias import measure_position_bias
from tandem.methods import dpo
from tandem.methods.dpo import DPOConfig
from tandem.stages.evaluate_policy import win_credit
from tandem.statistics import bounded_win_rate
from tandem.training.optim import Optim

RATE = {True: 3e-4, False: 1e-6}
PRINCIPLE = ("State only what the request says, and all of it.",)


def main() -> float:
    """Label, train, compare; print and return the win rate of the trained policy."""
    options = arguments(
        "Label with a reasoning judge.", server="address up to /v1", judge="model on the server"
    )
    model = find_model(options.model or example_model())
    data = options.data or write_pairs(Path(options.out) / "pairs.jsonl")
    task = task_from_files(model, data)
    short = Sampling(max_tokens=256 if options.model else 32)
    there = nullcontext(options.server) if options.server else serving(reason_and_decide)
    with there as url, Run(Path(options.out) / "labelled", seed=0) as run:
        address = url if options.server else f"{url}/v1"
        kept = Path(options.out) / "verdicts.sqlite"
        server = Server(options.judge or "reasons", address, key=None, kept=kept)
        asked = ReasoningJudge(server, principles=PRINCIPLE)
        prompts = run("prompts", encode, task.prompts[:200], model, room=short.max_tokens)
        pairs = run("pairs", sample, model, prompts, n=2, sampling=short)
        opened = asked.open()
        # a stage is remembered by its arguments, and a loopback address changes: so no stage
        labelled = Groups.of(opened(pairs))
        print(opened.describe_cost()["text"])
        print(measure_position_bias(labelled))
        config = DPOConfig(beta=0.1, epochs=4, batch=16, optim=Optim(lr=RATE[not options.model]))
        policy = dpo.recipe(run, model, labelled, config)
        held_out = run("held-out", encode, task.evaluation[:40], model, room=short.max_tokens)
        mine = run("answers-dpo", sample, policy, held_out, n=1, sampling=short)
        theirs = run("answers-before", sample, model, held_out, n=1, sampling=short)
        won = bounded_win_rate(win_credit(mine, theirs, asked, run.machine))
    print(f"win rate over the model before: {won}\nthe model is in {policy.path}")
    return won.mean


if __name__ == "__main__":
    main()
