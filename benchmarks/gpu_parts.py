"""The parts of `gpu.py`: each takes a scale, real or dry, and returns what it found as JSON.

Weights are random: a step's time and memory depend on shapes. Attention and optimiser are counted
in the time and not in the operations, so a share of the matmul ceiling is that of 6 N a token.
"""

from __future__ import annotations

import hashlib
import importlib.util
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from tandem.batching.packing import pack_groups
from tandem.data.groups import Groups
from tandem.data.record import Completion, Group, Preference, Prompt
from tandem.engines import Sampling
from tandem.engines.open_engine import open_engine
from tandem.machine import GIB, Machine
from tandem.methods import dpo, grpo, reward, sft
from tandem.models.opening import open_policy
from tandem.models.tokenizers import load_tokenizer
from tandem.rng import Seed
from tandem.runs.checkpoint import Checkpoint
from tandem.runs.context import StageContext
from tandem.training.optim import Optim

ROOT = Path(__file__).parents[1]
OPTIM = Optim(lr=1e-5, schedule="constant", warmup=0.0)
STEPS = 6


@dataclass(frozen=True)
class Scale:
    """Sizes: those of a GPU, or tiny ones on the CPU."""

    dry: bool

    @property
    def machine(self) -> Machine:
        """Where it runs; every optimiser step is logged."""
        if self.dry:
            return Machine(device="cpu", precision="fp32", tokens=2048, log_every=1)
        return Machine(device="cuda", precision="bf16", tokens=16384, log_every=1)

    def shape(self, name: str) -> dict[str, int]:
        """Settings of a Llama of SmolLM2-135M's or Llama 3.2 1B's size."""
        if self.dry:
            return _shape(vocabulary=256, width=32, ffn=64, layers=2, heads=4, kv=2)
        return {
            "smol": _shape(vocabulary=49152, width=576, ffn=1536, layers=30, heads=9, kv=3),
            "billion": _shape(vocabulary=128256, width=2048, ffn=8192, layers=16, heads=32, kv=8),
        }[name]

    @property
    def rows(self) -> tuple[int, int, int]:
        """Groups a step, tokens of a prompt, tokens of an answer."""
        return (4, 24, 12) if self.dry else (32, 256, 128)


def doctor(scale: Scale) -> dict[str, Any]:
    """What is there, and the speed of a matrix product of the compute dtype."""
    command = [sys.executable, "-m", "tandem", "doctor"]
    said = subprocess.run(command, capture_output=True, text=True, env=_path(), check=False)
    name = "cpu" if scale.dry else torch.cuda.get_device_name()
    return {
        "device": name,
        "torch": torch.__version__,
        "cuda": torch.version.cuda,
        "doctor": said.stdout.splitlines(),
        "matmul_tflops": round(_ceiling(scale) / 1e12, 3),
    }


def gpu_tests(scale: Scale) -> dict[str, Any]:
    """The tests marked `gpu`; a dry run collects them and skips."""
    command = [sys.executable, "-m", "pytest", "-m", "gpu", "-p", "no:cacheprovider", "tests/gpu"]
    done = subprocess.run(
        command, cwd=ROOT, capture_output=True, text=True, env=_path(), check=False
    )
    last = (done.stdout.strip().splitlines() or [""])[-1]
    if done.returncode:
        raise SystemExit(f"pytest: {done.stdout[-1500:]}{done.stderr[-500:]}")
    return {"pytest": last}


def resume(scale: Scale) -> dict[str, Any]:
    """Stop a DPO fit after half of its steps, go on, and compare all bytes with an undisturbed."""
    with _model(scale, "smol") as folder:
        data = _pairs(scale, 4)
        machine = replace(scale.machine, save_seconds=0.0)
        calm = _fit_dpo(folder, data, machine, folder / "calm", None)
        try:
            _fit_dpo(folder, data, machine, folder / "torn", 2)
        except KeyboardInterrupt:
            pass
        else:
            raise SystemExit("the fit was not stopped")
        torn = _fit_dpo(folder, data, machine, folder / "torn", None)
    if calm != torn:
        raise SystemExit(f"the resumed fit ends elsewhere: {calm} and {torn}")
    return {"digest": calm, "bit_exact": True}


def attention(scale: Scale) -> dict[str, Any]:
    """Log-probabilities and milliseconds of a pass forward and back, for each way to attend."""
    found: dict[str, Any] = {}
    with _model(scale, "smol") as folder:
        groups = list(_pairs(scale, 1))
        wanted: torch.Tensor | None = None
        for name, settings, implementation in _ways():
            machine = replace(scale.machine, **settings)
            model = open_policy(folder, machine, train=True)
            if implementation is not None:
                model.inner.set_attn_implementation(implementation)
            packed = pack_groups(groups, model.layout).to(model.device).tokens
            out = model(packed).logp
            assert out is not None
            values = out.values.detach().float().cpu()
            wanted = values if wanted is None else wanted
            found[name] = {
                "layout": model.layout,
                "largest_difference_nats": float((values - wanted).abs().max()),
                "milliseconds": _milliseconds(lambda m=model, p=packed: _pass(m, p), scale),
            }
            del model
    return {"ways": found}


def smol(scale: Scale) -> dict[str, Any]:
    """Steps of every method at SmolLM2's size."""
    return _methods(scale, "smol", ("sft", "dpo", "reward", "grpo")) | {"trl": _trl()}


def billion(scale: Scale) -> dict[str, Any]:
    """The same of 1.2 B parameters."""
    return _methods(scale, "billion", ("sft", "dpo", "reward", "grpo"))


def sampling(scale: Scale) -> dict[str, Any]:
    """Tokens a second of our engine, of HF `generate`, and of vLLM where it is."""
    prompts, n, length = (2, 2, 8) if scale.dry else (32, 8, 256)
    how = Sampling(max_tokens=length)
    asked = [Group(g.prompt) for g in _pairs(scale, 8)][:prompts]
    found: dict[str, Any] = {}
    with _model(scale, "smol") as folder:
        policy = open_policy(folder, scale.machine)
        tokenizer = load_tokenizer(folder)
        engines = ("torch", "vllm") if os.environ.get("TANDEM_VLLM") else ("torch",)
        for name in engines:
            engine = open_engine(policy, tokenizer, replace(scale.machine, engine=name))
            list(engine.sample(asked[:1], 1, replace(how, max_tokens=2), Seed(0)))
            began = time.perf_counter()
            drawn = list(engine.sample(asked, n, how, Seed(0)))
            seconds = time.perf_counter() - began
            tokens = sum(len(c.tokens) for g in drawn for c in g.completions)
            found[name] = round(tokens / seconds, 1)
        found["generate"] = round(_generate(policy, asked, n, length), 1)
    return {"tokens_per_s": found, "vllm": "vllm" in found or "TANDEM_VLLM is not set"}


def compiled(scale: Scale) -> dict[str, Any]:
    """Decoding with `machine.compiled` beside without: tokens a second, and whether they agree."""
    prompts, n, length = (2, 2, 8) if scale.dry else (8, 8, 128)
    asked = [Group(g.prompt) for g in _pairs(scale, 2)][:prompts]
    speeds, texts = {}, {}
    with _model(scale, "smol") as folder:
        for name, on in (("eager", False), ("compiled", True)):
            machine = replace(scale.machine, compiled=on, precision="fp32")
            policy = open_policy(folder, machine)
            engine = open_engine(policy, load_tokenizer(folder), machine)
            how = Sampling(temperature=0, max_tokens=length)
            list(engine.sample(asked, n, how, Seed(0)))
            began = time.perf_counter()
            drawn = list(engine.sample(asked, n, how, Seed(0)))
            speeds[name] = round(prompts * n * length / (time.perf_counter() - began), 1)
            texts[name] = [c.tokens.tolist() for g in drawn for c in g.completions]
    return {"tokens_per_s": speeds, "same_tokens": texts["eager"] == texts["compiled"]}


PARTS: dict[str, Callable[[Scale], dict[str, Any]]] = {
    "doctor": doctor,
    "tests": gpu_tests,
    "resume": resume,
    "attention": attention,
    "smol": smol,
    "billion": billion,
    "sampling": sampling,
    "compile": compiled,
}


class StepClock:
    """Events of a fit: marks when each step is logged, and stops the fit after some."""

    def __init__(self, stop_after: int | None = None) -> None:
        self.ticks: list[float] = []
        self.lines: list[dict[str, Any]] = []
        self.stop_after = stop_after

    def log(self, kind: str, **numbers: Any) -> None:
        """Keep a line; a step's line is read after its numbers left the device."""
        self.lines.append({"kind": kind, **numbers})
        if kind == "train":
            self.ticks.append(time.perf_counter())
            if self.stop_after is not None and len(self.ticks) > self.stop_after:
                raise KeyboardInterrupt

    def progress(self, *args: Any, **kw: Any) -> None:
        """Show nothing."""

    def step_seconds(self) -> float:
        """The median step, the first left out."""
        gaps = [b - a for a, b in zip(self.ticks, self.ticks[1:], strict=False)]
        return statistics.median(gaps) if gaps else float("nan")


def _methods(scale: Scale, shape: str, names: tuple[str, ...]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    with _model(scale, shape) as folder:
        ceiling = _ceiling(scale)
        parameters = _parameters(folder)
        for name in names:
            if not scale.dry:
                torch.cuda.empty_cache()
                torch.cuda.reset_peak_memory_stats()
            clock = StepClock()
            tokens = _fit(name, scale, folder, clock)
            seconds = clock.step_seconds()
            peak = 0 if scale.dry else torch.cuda.max_memory_allocated()
            rooms = [line["text"] for line in clock.lines if line["kind"] == "room"]
            found[name] = {
                "step_s": round(seconds, 4),
                "tokens_per_s": round(tokens / seconds) if seconds == seconds else None,
                "share_of_matmul": round(6 * parameters * tokens / seconds / ceiling, 4),
                "peak_gib": round(peak / GIB, 2),
                "states_gib": round(16 * parameters / GIB, 2),
                "memory_notes": rooms,
            }
    return {"parameters": parameters, "methods": found}


def _fit(name: str, scale: Scale, folder: Path, clock: StepClock) -> float:
    """Fit a few steps; return the unique tokens of one."""
    size, prompt, answer = scale.rows
    out = Path(tempfile.mkdtemp(dir=folder))
    machine = replace(scale.machine, save_seconds=1e9)
    ctx = StageContext.at(out, events=clock, machine=machine)  # type: ignore[arg-type]
    init, data = Checkpoint(folder), _pairs(scale, STEPS)
    if name == "sft":
        first = Groups.of(g.keep([0]) for g in data)
        sft.fit(init, first, sft.SFTConfig(epochs=1, batch=size, optim=OPTIM), ctx=ctx)
        return size * (prompt + answer)
    if name == "dpo":
        dpo.fit(init, data, dpo.DPOConfig(epochs=1, batch=size, optim=OPTIM), ctx=ctx)
    elif name == "reward":
        reward.fit(init, data, reward.RewardConfig(epochs=1, batch=size, optim=OPTIM), ctx=ctx)
    else:
        few = max(2, size // 8)
        cfg = grpo.GRPOConfig(few, 8, 3, minibatch=few, optim=OPTIM)
        how = Sampling(max_tokens=answer)
        grpo.fit(init, data.prompts(), Longest(), cfg, sampling=how, ctx=ctx)
        return few * (prompt + 8 * answer)
    return size * (prompt + 2 * answer)


@dataclass(frozen=True)
class Longest:
    """A judge without a model: the share of even tokens."""

    name: str = "even"

    def __call__(self, groups: Any) -> Iterator[Group]:
        """Score every completion."""
        for g in groups:
            share = [float((c.tokens % 2 == 0).mean()) for c in g.completions]
            yield replace(g, scores=np.array(share))


def _fit_dpo(
    folder: Path, data: Groups, machine: Machine, place: Path, stop_after: int | None
) -> str:
    """Fit, or stop in the middle; return the digest of the weights."""
    clock = StepClock(stop_after)
    ctx = StageContext.at(place, events=clock, machine=machine)  # type: ignore[arg-type]
    size = max(1, len(data) // 4)
    dpo.fit(Checkpoint(folder), data, dpo.DPOConfig(epochs=1, batch=size, optim=OPTIM), ctx=ctx)
    files = sorted((place / "out").glob("*.safetensors"))
    return hashlib.blake2b(b"".join(f.read_bytes() for f in files), digest_size=16).hexdigest()


def _ways() -> Iterator[tuple[str, dict[str, Any], str | None]]:
    """(name, machine settings, transformers' implementation) of the ways to attend."""
    yield "rows, SDPA", {"layout": "rows"}, None
    yield "blocks", {}, None
    yield "FlexAttention", {"compiled": True}, None
    if importlib.util.find_spec("flash_attn") is not None:
        yield "rows, flash", {"layout": "rows"}, "flash_attention_2"


def _pass(model: Any, packed: Any) -> None:
    model(packed).logp.values.sum().backward()
    model.zero_grad(set_to_none=True)


def _milliseconds(work: Callable[[], None], scale: Scale) -> float:
    """The median of some runs after one that warms up."""
    times = []
    for _ in range(3 if scale.dry else 8):
        began = time.perf_counter()
        work()
        if not scale.dry:
            torch.cuda.synchronize()
        times.append(time.perf_counter() - began)
    return round(1000 * statistics.median(times[1:]), 2)


def _ceiling(scale: Scale) -> float:
    """Operations a second of a square matrix product."""
    size = 256 if scale.dry else 8192
    dtype = torch.float32 if scale.dry else torch.bfloat16
    device = "cpu" if scale.dry else "cuda"
    a, b = (torch.randn(size, size, dtype=dtype, device=device) for _ in range(2))
    return 2 * size**3 / (_milliseconds(lambda: torch.mm(a, b), scale) / 1000 + 1e-9)


def _generate(policy: Any, asked: list[Group], n: int, length: int) -> float:
    """Tokens a second of transformers' `generate` on the same prompts."""
    ids = [torch.from_numpy(g.prompt.tokens.astype(np.int64)) for g in asked]
    batch = torch.stack(ids).to(policy.device)
    began = time.perf_counter()
    with torch.inference_mode(), policy.precision():
        out = policy.lm.generate(
            batch, attention_mask=torch.ones_like(batch), do_sample=True, top_k=0,
            num_return_sequences=n, max_new_tokens=length, pad_token_id=0,
        )  # fmt: skip
    tokens = (out[:, batch.shape[1] :] != 0).sum().item()
    return tokens / (time.perf_counter() - began)


def _trl() -> str:
    """Say whether TRL is here; `vs_trl.py` compares with it."""
    there = importlib.util.find_spec("trl") is not None
    return "run benchmarks/vs_trl.py" if there else "not installed"


def _pairs(scale: Scale, steps: int) -> Groups:
    """Random prompts of one length with two random answers each, the first preferred."""
    size, prompt, answer = scale.rows
    rng = np.random.default_rng(0)
    words = scale.shape("smol")["vocab_size"]

    def one(i: int) -> Group:
        ids = [rng.integers(4, words, k).astype(np.int32) for k in (prompt, answer, answer)]
        first, second = (Completion("", x) for x in ids[1:])
        return Group(Prompt(f"p{i}", f"p{i}", tokens=ids[0]), (first, second),
                     preferences=(Preference(0, 1, 1.0),))  # fmt: skip

    return Groups.of(one(i) for i in range(size * steps))


@contextmanager
def _model(scale: Scale, name: str) -> Iterator[Path]:
    """Write a random Llama of this size, with a tokenizer of one word a token."""
    from transformers import LlamaConfig, LlamaForCausalLM
    from workloads import word_tokenizer

    shape = scale.shape(name)
    torch.manual_seed(0)
    with tempfile.TemporaryDirectory() as place:
        word_tokenizer(shape["vocab_size"]).save_pretrained(place)
        config = LlamaConfig(**shape, tie_word_embeddings=True, max_position_embeddings=2048,
                             pad_token_id=0, bos_token_id=1, eos_token_id=2)  # fmt: skip
        LlamaForCausalLM(config).save_pretrained(place)
        yield Path(place)


def _parameters(folder: Path) -> int:
    from safetensors import safe_open

    with safe_open(folder / "model.safetensors", "pt") as file:
        return sum(int(np.prod(file.get_slice(k).get_shape())) for k in file.keys())  # noqa: SIM118


def _shape(**sizes: int) -> dict[str, int]:
    return {
        "vocab_size": sizes["vocabulary"],
        "hidden_size": sizes["width"],
        "intermediate_size": sizes["ffn"],
        "num_hidden_layers": sizes["layers"],
        "num_attention_heads": sizes["heads"],
        "num_key_value_heads": sizes["kv"],
    }


def _path() -> dict[str, str]:
    """The environment in which `tandem` is this tree's."""
    return {**os.environ, "PYTHONPATH": str(ROOT / "src")}
