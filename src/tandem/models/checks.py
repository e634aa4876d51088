"""What a model's folder must be, seen before its weights are read.

Quantised weights that cannot be opened, adapters, models of pictures and text, and tokens without
a row in the table are refused by name, by every command that is given a model.
"""

from __future__ import annotations

import json
from contextlib import suppress
from pathlib import Path
from typing import Any, cast

from tandem.errors import ModelError
from tandem.models.folders import Source, check_exists, read_config
from tandem.models.loading import check_weights, stored_dimensions
from tandem.models.packed_folder import Stored, check_note, check_stored, read_headers
from tandem.models.tokenizers import load_tokenizer
from tandem.runs.weight_files import read_model_json

TABLES = ("embed_tokens.weight", "wte.weight", "embed_in.weight", "word_embeddings.weight")
LARGEST = {
    "num_hidden_layers": 10_000, "hidden_size": 10**6, "intermediate_size": 10**7,
    "num_attention_heads": 10**5, "num_key_value_heads": 10**5, "head_dim": 10**5,
    "vocab_size": 10**8, "max_position_embeddings": 10**9, "n_layer": 10_000, "n_embd": 10**6,
}  # fmt: skip
"""Sizes in a configuration, each far above any model that there is."""


def check_policy(source: Source) -> None:
    """Refuse a folder that cannot be trained as a language model.

    Raises:
        ModelError: it is an adapter, is quantised in a way that is not opened here, reads more
            than text, is no causal language model, has sizes that no model has, its weights
            cannot be read, its tokenizer has tokens that the model has no row for, or its settings
            name an end that is no token.
    """
    _check_adapter(source)
    check_exists(source)
    config = read_config(source)
    check_note(source, config)
    _check_text_alone(source, config)
    _check_causal(source, config)
    _check_sizes(source, config)
    check_weights(source)
    stored = read_headers(source)
    check_stored(source, config, stored)
    check_rows(source)
    _check_table(source, config, stored)
    _check_ends(source, config)


def check_rows(source: Source) -> None:
    """Refuse a tokenizer that is longer than the model's table of embeddings.

    Raises:
        ModelError: a token has no row.
    """
    rows = int(getattr(read_config(source).get_text_config(), "vocab_size", 0) or 0)
    tokenizer = load_tokenizer(source, ends=False)
    beyond = {i: t for t, i in tokenizer.get_vocab().items() if i >= rows}
    if rows and beyond:
        names = [f"{i} `{beyond[i]}`" for i in sorted(beyond)]
        more = f" and {len(names) - 3} more" if len(names) > 3 else ""
        raise ModelError(
            f"{source}: no row for the tokens {', '.join(names[:3])}{more}; the table has {rows}",
            "a token without an embedding cannot be read or written by the model",
            "resize the model and save it: model.resize_token_embeddings(len(tokenizer)); or take "
            "the tokenizer that the model came with",
        )


def check_reward(source: Source) -> None:
    """Refuse a folder that is no reward model of one score.

    Raises:
        ModelError: it has several labels, it is an encoder, or it has no weights in safetensors or
            no head among them.
    """
    _check_adapter(source)
    check_exists(source)
    config = read_config(source)
    check_note(source, config)
    names = [str(n) for n in getattr(config, "architectures", None) or ()]
    several = config.num_labels != 1 + stored_dimensions(source)
    if any("SequenceClassification" in n for n in names) and several:
        raise ModelError(
            f"{source} is a classifier with {config.num_labels} labels; a reward has one",
            "a reward is one number an answer, from a head with one output",
            "give a reward model: `tandem run reward` fits one",
        )
    if any("SequenceClassification" in n for n in names) and not _reads_causally(config):
        raise ModelError(
            f"{source} is an encoder ({names[0]}): an encoder is not read as a reward",
            "a reward reads the answer's last token, which has seen all before it; in an encoder "
            "the score comes from another place",
            "give a reward model over a causal language model: `tandem run reward` fits one",
        )
    check_weights(source)
    _, head = read_headers(source).get("score.weight", ("", []))
    if head[:1] != [1 + stored_dimensions(source)]:
        raise ModelError(
            f"{source} lacks `score.weight`, a head of one score",
            "what gives the score would be random numbers",
            "give a sequence classifier of one label: `tandem run reward` fits one",
        )
    check_rows(source)


def _check_adapter(source: Source) -> None:
    settings = Path(source) / "adapter_config.json"
    if not settings.exists():
        return
    if (Path(source) / "config.json").exists():
        raise ModelError(
            f"{source} holds a model (config.json) and an adapter (adapter_config.json)",
            "transformers would open the adapter's base and not the weights that are here",
            "move one of the two into a folder of its own, for example: mkdir "
            f"{source}/adapter && mv {source}/adapter_* {source}/adapter/",
        )
    try:
        base = json.loads(settings.read_text(encoding="utf-8")).get("base_model_name_or_path")
    except (OSError, ValueError, AttributeError):
        base = None
    raise ModelError(
        f"{source} is a LoRA adapter of `{base}`, not a model",
        "training starts from whole weights; the reference is then the base with the adapter",
        'merge it: python -c "from peft import AutoPeftModelForCausalLM as M; from transformers '
        f"import AutoTokenizer as T; M.from_pretrained('{source}').merge_and_unload()"
        f".save_pretrained('merged'); T.from_pretrained('{source}').save_pretrained('merged')\"",
    )


def _check_text_alone(source: Source, config: Any) -> None:
    if config.get_text_config() is config:
        return
    parts = [name for name in ("vision_config", "audio_config") if hasattr(config, name)]
    name = next(iter(getattr(config, "architectures", None) or ()), config.model_type)
    raise ModelError(
        f"{source} is {name}, a model of text and more ({', '.join(parts) or 'several parts'})",
        "its language part would have to be cut out and saved so that it loads again",
        "give the folder of a language model alone, such as its text-only release",
    )


def _check_sizes(source: Source, config: Any) -> None:
    """Refuse sizes that no model has, before a module of such a size is built."""
    for name, largest in LARGEST.items():
        size = getattr(config, name, None)
        if isinstance(size, int) and not isinstance(size, bool) and not 1 <= size <= largest:
            raise ModelError(
                f"{source}: config.json says {name} = {size}",
                f"{name} of a language model is from 1 to {largest:,}",
                "fetch config.json again from where the model came from",
            )


def _check_table(source: Source, config: Any, stored: Stored) -> None:
    """Refuse a table of embeddings that is not as long as config.json says."""
    rows = int(getattr(config.get_text_config(), "vocab_size", 0) or 0)
    for name, (_, shape) in stored.items():
        if rows and name.endswith(TABLES) and len(shape) == 2 and shape[0] != rows:
            raise ModelError(
                f"{source}: config.json says vocab_size = {rows}, and `{name}` has {shape[0]} rows",
                "the table would not fit into the model",
                "mend vocab_size in config.json, or fetch config.json again from where the model "
                "came from",
            )


def _check_ends(source: Source, config: Any) -> None:
    """Refuse an end or a padding token without a row: no answer could end by it."""
    rows = int(getattr(config.get_text_config(), "vocab_size", 0) or 0)
    for file in ("generation_config.json", "config.json"):
        settings = _settings_in(Path(source) / file)
        for name in ("eos_token_id", "pad_token_id"):
            value: Any = settings.get(name)
            for token in cast("list[Any]", value) if isinstance(value, list) else [value]:
                known = isinstance(token, int) and not isinstance(token, bool)
                if token is None or (known and token < max(rows, 1)):
                    continue  # below 0 stands for none
                raise ModelError(
                    f"{source}: {file} says {name} = {str(value)[:60]}, and the table has {rows} "
                    "rows",
                    "a token without a row is never drawn, so no answer would end by it",
                    f"mend {name} in {file}, or fetch the file again from where the model came "
                    "from",
                )


def _settings_in(path: Path) -> dict[str, Any]:
    """Return what a file of settings holds; nothing where there is none that can be read."""
    with suppress(ModelError):
        found = read_model_json(path)
        inner: Any = found.get("text_config")
        return {**(cast("dict[str, Any]", inner) if isinstance(inner, dict) else {}), **found}
    return {}


def _check_causal(source: Source, config: Any) -> None:
    names = [str(n) for n in getattr(config, "architectures", None) or ()]
    if names and not any("CausalLM" in n or "LMHead" in n for n in names):
        raise ModelError(
            f"{source} is {names[0]}, no causal language model",
            "a policy writes one token after another",
            "give a folder whose architecture ends in ForCausalLM",
        )


def _reads_causally(config: Any) -> bool:
    """True for architectures whose causal form is not an afterthought of an encoder."""
    from transformers.models.auto.modeling_auto import MODEL_FOR_MASKED_LM_MAPPING_NAMES

    return config.model_type not in MODEL_FOR_MASKED_LM_MAPPING_NAMES
