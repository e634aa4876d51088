"""KTO on thumbs: single answers marked good or bad, no pairs.

    python examples/kto_on_thumbs.py
    python examples/kto_on_thumbs.py --model my-model --data thumbs.jsonl

Rows are `prompt`, `completion`, `label` (true or false). The same from the command line:

    tandem run kto --model my-model --data thumbs.jsonl
"""

from pathlib import Path

from example_data import arguments, example_model, write_thumbs

from tandem import Run, encode, find_model, task_from_files
from tandem.methods import kto
from tandem.methods.kto import KTOConfig
from tandem.stages.evaluate_marks import evaluate_marks
from tandem.training.optim import Optim

RATE = {True: 3e-4, False: 5e-6}  # a million weights; the paper's, for billions


def main() -> str:
    """Train, and print how well the policy's own reward tells good from bad held-out answers."""
    options = arguments("KTO on thumbs.")
    model = find_model(options.model or example_model())
    data = options.data or write_thumbs(Path(options.out) / "thumbs.jsonl")
    task = task_from_files(model, data)
    print("\n".join(task.notes))
    with Run(Path(options.out) / "kto", seed=0) as run:
        thumbs = run("thumbs", encode, task.preferences, model)
        held_out = run("held-out", encode, task.held_out, model)
        config = KTOConfig(batch=16, epochs=2, optim=Optim(lr=RATE[not options.model]))
        policy = kto.recipe(run, model, thumbs, config)
        exam = run("exam", evaluate_marks, policy, model, held_out)
    print(f"\n{exam['text']}\n\nthe model is in {policy.path}")
    return exam["text"]


if __name__ == "__main__":
    main()
