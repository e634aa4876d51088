"""Causal language models of many families of transformers, each a few thousand weights."""

from __future__ import annotations

from typing import Any

import torch
import transformers as hf

VOCABULARY, WINDOW = 41, 6
_ENDS: dict[str, Any] = {"bos_token_id": 1, "eos_token_id": 2}
_USUAL: dict[str, Any] = {
    "vocab_size": VOCABULARY, "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2,
    "num_attention_heads": 4, "num_key_value_heads": 2, "max_position_embeddings": 256,
    "initializer_range": 0.2, "pad_token_id": 0, **_ENDS,
}  # fmt: skip
_GPT: dict[str, Any] = {
    "vocab_size": VOCABULARY, "n_embd": 32, "n_layer": 2, "n_head": 4, "n_positions": 256,
    "initializer_range": 0.2, **_ENDS,
}  # fmt: skip
_HEADS = {**_USUAL, "head_dim": 8}
_SLIDING = {**_USUAL, "sliding_window": WINDOW}
_EXPERTS = {"num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 16}
_LOCAL = {"num_local_experts": 4, "num_experts_per_tok": 2}
_LATENT = {
    **_USUAL, "num_key_value_heads": 4, "n_routed_experts": 4, "num_experts_per_tok": 2,
    "moe_intermediate_size": 16, "n_group": 1, "topk_group": 1, "first_k_dense_replace": 1,
    "kv_lora_rank": 8, "q_lora_rank": 8, "qk_rope_head_dim": 4, "qk_nope_head_dim": 4,
    "v_head_dim": 8,
}  # fmt: skip
_STATES = {"vocab_size": VOCABULARY, "hidden_size": 32, "state_size": 8, "num_hidden_layers": 2,
           "pad_token_id": 0}  # fmt: skip
_SCANS = {"mamba_n_heads": 8, "mamba_d_head": 8, "mamba_d_state": 8, "mamba_n_groups": 1,
          "mamba_expand": 2, "mamba_chunk_size": 8}  # fmt: skip
_FALCON = {"vocab_size": VOCABULARY, "hidden_size": 32, "num_hidden_layers": 2,
           "num_attention_heads": 4, "initializer_range": 0.2, **_ENDS}  # fmt: skip
_FAIRSEQ = {"vocab_size": VOCABULARY, "num_layers": 2, "attention_heads": 4, "ffn_dim": 48,
            "max_position_embeddings": 256, "init_std": 0.2, "pad_token_id": 0,
            **_ENDS}  # fmt: skip

ARCHITECTURES: dict[str, dict[str, Any]] = {
    "opt": {**_FAIRSEQ, "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4,
            "word_embed_proj_dim": 32, "layerdrop": 0.3},
    "xglm": {**_FAIRSEQ, "d_model": 32}, "biogpt": _USUAL, "ctrl": {**_GPT, "dff": 48},
    "bloom": {"vocab_size": VOCABULARY, "hidden_size": 32, "n_layer": 2, "n_head": 4,
              "initializer_range": 0.2, "hidden_dropout": 0.2, "pad_token_id": 0, **_ENDS},
    "mpt": {"vocab_size": VOCABULARY, "d_model": 32, "n_heads": 4, "n_layers": 2,
            "max_seq_len": 256, "initializer_range": 0.2},
    "gptj": {**_GPT, "rotary_dim": 4}, "codegen": {**_GPT, "rotary_dim": 4}, "gpt_bigcode": _GPT,
    "openai-gpt": _GPT,
    "gpt_neo": {"vocab_size": VOCABULARY, "hidden_size": 32, "num_layers": 2, "num_heads": 4,
                "attention_types": [[["global", "local"], 1]], "window_size": WINDOW,
                "max_position_embeddings": 256, "intermediate_size": 48, "initializer_range": 0.2,
                **_ENDS},
    "falcon": {**_FALCON, "hidden_dropout": 0.2, "attention_dropout": 0.2},
    "stablelm": _USUAL, "starcoder2": {**_SLIDING, "residual_dropout": 0.2}, "olmo": _USUAL,
    "olmo2": _USUAL, "olmo3": _SLIDING, "phi": {**_USUAL, "partial_rotary_factor": 0.5},
    "phi3": {**_SLIDING, "resid_pdrop": 0.2}, "cohere": _USUAL, "cohere2": _SLIDING,
    "gemma": _HEADS, "persimmon": {**_USUAL, "num_key_value_heads": 4}, "nemotron": _USUAL,
    "glm": _HEADS, "glm4": _HEADS, "helium": _HEADS, "seed_oss": _HEADS, "ernie4_5": _HEADS,
    "hunyuan_v1_dense": _HEADS, "apertus": _USUAL, "arcee": _USUAL, "diffllama": _USUAL,
    "smollm3": {**_USUAL, "no_rope_layers": [1, 0]},
    "exaone4": {**_SLIDING, "layer_types": ["sliding_attention", "full_attention"]},
    "mixtral": {**_USUAL, **_LOCAL, "router_jitter_noise": 0.1},
    "granitemoe": {**_USUAL, **_LOCAL}, "olmoe": {**_USUAL, **_EXPERTS},
    "qwen2_moe": {**_USUAL, **_EXPERTS, "shared_expert_intermediate_size": 16},
    "qwen3_moe": {**_HEADS, **_EXPERTS}, "deepseek_v2": _LATENT, "deepseek_v3": _LATENT,
    "gpt_oss": {**_HEADS, **_LOCAL, "sliding_window": WINDOW,
                "layer_types": ["sliding_attention", "full_attention"]},
    "llama4_text": {**_HEADS, "num_local_experts": 2, "num_experts_per_tok": 1,
                    "intermediate_size_mlp": 48, "attention_chunk_size": 8,
                    "no_rope_layers": [1, 0], "interleave_moe_layer_step": 1,
                    "layer_types": ["chunked_attention", "full_attention"]},
    "minimax": {**_HEADS, "num_local_experts": 2, "num_experts_per_tok": 1, "block_size": 16,
                "layer_types": ["linear_attention", "full_attention"]},
    "mamba2": {**_STATES, "num_heads": 8, "head_dim": 8, "n_groups": 2, "chunk_size": 8,
               "expand": 2},
    "falcon_mamba": _STATES,
    "rwkv": {"vocab_size": VOCABULARY, "hidden_size": 32, "attention_hidden_size": 32,
             "num_hidden_layers": 2, "context_length": 256, "intermediate_size": 48, **_ENDS},
    "recurrent_gemma": {"vocab_size": VOCABULARY, "hidden_size": 32, "intermediate_size": 96,
                        "num_hidden_layers": 3, "num_attention_heads": 4, "lru_width": 32,
                        "attention_window_size": WINDOW, "pad_token_id": 0},
    "lfm2": {**_USUAL, "layer_types": ["conv", "full_attention"]},
    "jamba": {**_USUAL, "num_experts": 2, "num_experts_per_tok": 1, "attn_layer_period": 2,
              "attn_layer_offset": 1, "expert_layer_period": 2, "expert_layer_offset": 1,
              "mamba_d_state": 8, "use_mamba_kernels": False},
    "bamba": {**_USUAL, **_SCANS, "attn_layer_indices": [1]},
    "falcon_h1": {**_HEADS, **_SCANS, "mamba_d_ssm": 64, "lm_head_multiplier": 0.7},
    "granitemoehybrid": {**_USUAL, **_SCANS, "num_local_experts": 0,
                         "shared_intermediate_size": 48, "layer_types": ["mamba", "attention"]},
    "qwen3_next": {**_HEADS, **_EXPERTS, "shared_expert_intermediate_size": 16,
                   "linear_num_value_heads": 4, "linear_num_key_heads": 2,
                   "linear_key_head_dim": 8, "linear_value_head_dim": 8,
                   "layer_types": ["linear_attention", "full_attention"]},
}  # fmt: skip
"""Model type -> configuration; those with dropout or noise have it on."""


def random_model(kind: str, seed: int = 0) -> Any:
    """Return a random model of a family, with biases and norms away from 0 and 1."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        config = hf.AutoConfig.for_model(kind, **ARCHITECTURES[kind])
        lm = hf.AutoModelForCausalLM.from_config(config).float().eval()
        for weight in lm.parameters():
            if weight.ndim < 2:
                weight.data.add_(0.1 * torch.randn_like(weight))
    return lm
