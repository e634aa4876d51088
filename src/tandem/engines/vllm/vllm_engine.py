"""Completions from vLLM: token ids in and out, and the log-probabilities of the law drawn from."""

from __future__ import annotations

import shutil
import tempfile
import weakref
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from tandem.data.chat.ends import end_tokens, named_ends
from tandem.data.record import Completion, Group
from tandem.engines import Sampling
from tandem.engines.running_batch import StopCondition
from tandem.engines.vllm.vllm_server import VllmServer
from tandem.errors import ConfigError, EngineError
from tandem.models.lora import merged_weights, unwrap_adapters
from tandem.models.quantised import is_quantised
from tandem.models.unpacking import write_unpacked
from tandem.rng import Seed

CONCURRENCY = 64
"""Prompts on their way at once; vLLM itself decides how many it decodes together."""
DEFAULT_POSITIONS = 4096
COLDEST = 0.01
"""vLLM samples at this temperature where a lower one above 0 is asked for."""


class VllmEngine:
    """Draws completions from a policy through a vLLM server that keeps its weights.

    Draws depend on (seed, prompt id, i), as with every engine, and on vLLM's own generator; so
    they are other draws than ours. Its numbers differ from the trainer's in the last places, which
    `training.rollouts` measures and corrects.

    Args:
        lm: the policy, a model of transformers with adapters or without.
        tokenizer: its tokenizer; prompts bring their tokens, this one writes the text.
        dtype: what vLLM computes in.
        name: written as the completions' author.
        arguments: more arguments of vLLM's server.

    Raises:
        EngineError: vLLM is not installed where `TANDEM_VLLM` says, or it does not start.
    """

    is_exact = False

    def __init__(
        self,
        lm: nn.Module,
        tokenizer: Any,
        *,
        dtype: torch.dtype = torch.float32,
        name: str = "policy",
        arguments: Iterable[str] = (),
    ) -> None:
        self.tokenizer, self.name = tokenizer, name
        config = unwrap_adapters(lm).config.get_text_config()
        found = getattr(config, "max_position_embeddings", None)
        self.positions = int(found or DEFAULT_POSITIONS)
        named = named_ends(getattr(unwrap_adapters(lm), "generation_config", None))
        self.ends = sorted(end_tokens(tokenizer, named))
        folder = Path(tempfile.mkdtemp(prefix="tandem-policy-"))
        try:
            _write_model(lm, tokenizer, folder)
            self.server = VllmServer(folder, dtype, self.positions, arguments)
        finally:
            shutil.rmtree(folder, ignore_errors=True)
        self._closing = weakref.finalize(self, self.server.close)

    def load(self, weights: nn.Module) -> None:
        """Send a live module's weights to the server; adapters are added to their layers."""
        self.server.take_weights(merged_weights(weights))

    def close(self) -> None:
        """Stop the server."""
        self._closing()

    def sample(
        self, prompts: Iterable[Group], n: int, sampling: Sampling, seed: Seed
    ) -> Iterator[Group]:
        """Yield each prompt with n new completions, in the order of the prompts.

        Raises:
            ConfigError: vLLM would draw from another law than ours with these settings.
            EngineError: a prompt has no tokens, or does not fit with `max_tokens` after it, or
                the server is gone.
        """
        check_sampling(sampling)
        ends = StopCondition(self.tokenizer, self.ends, sampling.stop)
        asked = list(prompts)
        for group in asked:
            self._check(group, sampling)
        with ThreadPoolExecutor(CONCURRENCY, "tandem-vllm") as pool:
            yield from pool.map(lambda g: self._one(g, n, sampling, seed, ends), asked)

    def _one(
        self, group: Group, n: int, sampling: Sampling, seed: Seed, ends: StopCondition
    ) -> Group:
        greedy = sampling.temperature == 0
        body = {
            "prompt": group.prompt.tokens.tolist(),
            "n": 1 if greedy else n,
            "seed": seed.at(group.id).value,
            "max_tokens": sampling.max_tokens,
            "temperature": sampling.temperature,
            "top_p": sampling.top_p,
            "top_k": sampling.top_k or -1,
            "min_p": sampling.min_p,
            "stop": list(sampling.stop),
            "stop_token_ids": self.ends,
            "ignore_eos": True,  # the tokens above are all that end an answer
            "include_stop_str_in_output": True,
            "add_special_tokens": False,
            "logprobs": 0,
            "return_token_ids": True,
        }
        drawn = [self._completion(c, ends, greedy) for c in self.server.complete(body)]
        return Group(group.prompt, tuple(drawn * n if greedy else drawn))

    def _completion(self, choice: dict[str, Any], ends: StopCondition, greedy: bool) -> Completion:
        tokens = np.array(choice["token_ids"], np.int32)
        logp = np.array(choice["logprobs"]["token_logprobs"], np.float32)
        if len(tokens) != len(logp) or not len(tokens) or not np.isfinite(logp).all():
            raise EngineError(
                f"vLLM returned {len(tokens)} tokens with {len(logp)} log-probabilities",
                "each token has one, which is a number",
                "take a version of vLLM that docs/scaling.md names, or leave machine.engine out",
            )
        logp = np.zeros_like(logp) if greedy else logp
        stopped = choice["finish_reason"] == "stop"
        return Completion(ends.text(tokens), tokens, self.name, logp, stopped)

    def _check(self, group: Group, sampling: Sampling) -> None:
        length = len(group.prompt.tokens)
        if length == 0 or length + sampling.max_tokens > self.positions:
            raise EngineError(
                f"prompt `{group.id}` has {length} tokens, and max_tokens is {sampling.max_tokens}",
                f"an engine reads token ids, and the model has {self.positions} positions",
                "tokenise the prompts first, shorten them, or lower sampling.max_tokens",
            )


def check_sampling(sampling: Sampling) -> None:
    """Refuse settings with which vLLM draws from another law than our engine.

    Raises:
        ConfigError: top-p and min-p together, which vLLM applies in the other order; or a
            temperature that it raises.
    """
    if sampling.top_p < 1 and sampling.min_p > 0:
        raise ConfigError(
            f"sampling.top_p = {sampling.top_p} with sampling.min_p = {sampling.min_p} for vLLM",
            "vLLM takes the share of top_p from what min_p has left, and our engine of the whole "
            "law: the same settings would be two laws",
            "give one of the two, or leave machine.engine out",
        )
    if 0 < sampling.temperature < COLDEST:
        raise ConfigError(
            f"sampling.temperature = {sampling.temperature} for vLLM",
            f"vLLM samples at {COLDEST} where less is asked for",
            f"give 0 for greedy answers or {COLDEST} and more, or leave machine.engine out",
        )


def _write_model(lm: Any, tokenizer: Any, folder: Path) -> None:
    """Write what vLLM starts from; `load` brings the weights up to date later."""
    if is_quantised(lm):
        write_unpacked(lm, folder, torch.float32)
    else:
        unwrap_adapters(lm).save_pretrained(folder, state_dict=dict(merged_weights(lm)))
    tokenizer.save_pretrained(folder)
