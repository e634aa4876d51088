"""Export: from a run to a folder to give away, in bf16, with a card; and the adapter alone.

    python examples/export_a_model.py
    python examples/export_a_model.py --model my-model --data preferences.jsonl

It runs these commands, one after another:

    tandem run dpo --model MODEL --data DATA --machine.lora.rank 8
    tandem export RUN --out FOLDER --dtype bf16
    tandem export RUN --out FOLDER --adapter

With a clone of llama.cpp (`export LLAMA_CPP=...`), `tandem export RUN --out FOLDER --gguf` writes
a GGUF file as well.
"""

from pathlib import Path

from example_data import arguments, example_model, write_pairs

from tandem.cli import main as tandem


def main() -> Path:
    """Train adapters, export them merged and alone; return the folder of the merged model."""
    options = arguments("Export a trained model.")
    out = Path(options.out)
    model = options.model or str(example_model())
    data = options.data or str(write_pairs(out / "pairs.jsonl", 120))
    small = [] if options.model else ["--sampling.max_tokens", "32", "--dpo.optim.lr", "1e-3"]
    run = str(out / "lora")
    given = ["--model", model, "--data", data, "--machine.lora.rank", "8", "--out", run]
    commands = [
        ["run", "dpo", *given, "--dpo.batch", "16", *small],
        ["export", run, "--out", str(out / "merged"), "--dtype", "bf16"],
        ["export", run, "--out", str(out / "adapter"), "--adapter"],
    ]
    for words in commands:
        print(f"\n$ tandem {' '.join(words)}", flush=True)
        if code := tandem(words):
            raise SystemExit(code)
    print(f"\n{(out / 'merged' / 'README.md').read_text()[:600]}...")
    return out / "merged"


if __name__ == "__main__":
    main()
