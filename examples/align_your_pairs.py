"""Align an instruct model on your pairs: DPO from the model as it is, and a look at what came out.

    python examples/align_your_pairs.py
    python examples/align_your_pairs.py --model my-model --data preferences.jsonl

The same from the command line, with every setting a flag:

    tandem run dpo --model my-model --data preferences.jsonl
    tandem chat runs/dpo-preferences-0 my-model
"""

from pathlib import Path

from example_data import arguments, example_model, write_pairs

from tandem import Run, Sampling, encode, find_model, sample, task_from_files
from tandem.evaluation.samples import lay_out_samples
from tandem.methods import dpo
from tandem.methods.dpo import DPOConfig
from tandem.stages.evaluate_held_out import evaluate_held_out
from tandem.training.optim import Optim

# A model of billions of weights wants the papers' rate, 1e-6; one of a million learns with 3e-4.
RATE = {True: 3e-4, False: 1e-6}


def main() -> str:
    """Train, print the held-out table and answers side by side; return the table."""
    options = arguments("Align an instruct model on your pairs.")
    own = bool(options.model)
    model = find_model(options.model or example_model())
    data = options.data or write_pairs(Path(options.out) / "pairs.jsonl")
    task = task_from_files(model, data)  # a tenth of the prompts is held out
    print("\n".join(task.notes))
    with Run(Path(options.out) / "align", seed=0) as run:
        pairs = run("preferences", encode, task.preferences, model)
        held_out = run("held-out", encode, task.held_out, model)
        config = DPOConfig(beta=0.1, epochs=2, batch=16, optim=Optim(lr=RATE[not own]))
        policy = dpo.recipe(run, model, pairs, config)
        policies = {"before": model, "DPO": policy}
        exam = run("exam", evaluate_held_out, policies, held_out, start="before")
        short = Sampling(max_tokens=32 if not own else 256)
        prompts = run("prompts", encode, task.evaluation[:4], model, room=short.max_tokens)
        answers = {
            name: run(f"answers-{name.lower()}", sample, each, prompts, n=1, sampling=short)
            for name, each in policies.items()
        }
    print(f"\n{exam['text']}\n\n{lay_out_samples(answers)}\n\nthe model is in {policy.path}")
    return exam["text"]


if __name__ == "__main__":
    main()
