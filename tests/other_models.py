"""Models as users of other tools bring them, by kind, and what is right: ends, or a refusal.

Each kind has ten inputs or more, and what is right was written down by hand. Templates are reduced
to how they open and close a turn, in the words of the families that they are named after.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from tokenizers import AddedToken

from vocabularies import byte_bpe

ASK = "{% if add_generation_prompt %}OPEN{% endif %}"


@dataclass(frozen=True)
class Family:
    """How a family of chat models ends its turns.

    Attributes:
        template: its turns.
        added: its special tokens.
        eos: the tokenizer's end.
        named: ends of generation_config.json; none if empty.
        ends: every token that ends an answer, besides `eos`.
        last: the last token that an answer is trained on.
        inner: how an earlier answer is closed; empty where no token closes it.
        special: whether its tokens are marked as special.
    """

    template: str
    added: tuple[str, ...]
    eos: str
    last: str
    named: tuple[str, ...] = ()
    ends: tuple[str, ...] = ()
    inner: str | None = None
    special: bool = True

    def tokenizer(self) -> Any:
        """Return the tests' byte vocabulary with this family's tokens and template."""
        tokenizer = byte_bpe(self.template, bos=False)
        new: list[Any] = [AddedToken(t, special=self.special, normalized=False) for t in self.added]
        tokenizer.add_tokens(new, special_tokens=self.special)
        tokenizer.eos_token = self.eos
        return tokenizer


def turns(user: str, assistant: str, ask: str, system: str = "") -> str:
    """Return a template: a user's turn, an assistant's, and how the latter is asked for."""
    other = system or user
    return (
        "{% for m in messages %}{% if m.role == 'user' %}" + user
        + "{% elif m.role == 'assistant' %}" + assistant + "{% else %}" + other
        + "{% endif %}{% endfor %}" + ASK.replace("OPEN", ask)
    )  # fmt: skip


HEADED = (
    "{% for m in messages %}<|start_header_id|>{{ m.role }}<|end_header_id|>\n\n"
    "{{ m.content | trim }}<|eot_id|>{% endfor %}{% if add_generation_prompt %}"
    "<|start_header_id|>assistant<|end_header_id|>\n\n{% endif %}"
)
LLAMA = ("<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>", "<|eom_id|>", "<|end_of_text|>")
CHATML = ("<|im_start|>", "<|im_end|>", "<|endoftext|>")
MARKED = (
    "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
CONTENT = "{{ m.content }}"

FAMILIES: dict[str, Family] = {
    "Llama 3": Family(HEADED, LLAMA, "<|end_of_text|>", "<|eot_id|>", ends=("<|eot_id|>",)),
    "Llama 3.1": Family(
        HEADED, LLAMA, "<|eot_id|>", "<|eot_id|>",
        named=("<|end_of_text|>", "<|eom_id|>", "<|eot_id|>"),
        ends=("<|end_of_text|>", "<|eom_id|>"),
    ),
    "Qwen 2.5": Family(
        MARKED, CHATML, "<|im_end|>", "<|im_end|>", named=("<|im_end|>", "<|endoftext|>"),
        ends=("<|endoftext|>",),
    ),
    "Qwen, base": Family(MARKED, CHATML, "<|endoftext|>", "<|im_end|>", ends=("<|im_end|>",)),
    "SmolLM2": Family(MARKED, CHATML, "<|im_end|>", "<|im_end|>"),
    "Qwen 3": Family(
        turns(f"<|im_start|>user\n{CONTENT}<|im_end|>\n",
              "<|im_start|>assistant\n{% if loop.last %}<think>\n\n</think>\n\n{% endif %}"
              f"{CONTENT}<|im_end|>\n", "<|im_start|>assistant\n"),
        CHATML, "<|im_end|>", "<|im_end|>", inner="refused",
    ),
    "Gemma": Family(
        turns(f"<start_of_turn>user\n{CONTENT}<end_of_turn>\n",
              f"<start_of_turn>model\n{CONTENT}<end_of_turn>\n", "<start_of_turn>model\n"),
        ("<start_of_turn>", "<end_of_turn>", "<eos>"), "<eos>", "<end_of_turn>",
        named=("<eos>", "<end_of_turn>"), ends=("<end_of_turn>",),
    ),
    "Gemma, not special": Family(
        turns(f"<start_of_turn>user\n{CONTENT}<end_of_turn>\n",
              f"<start_of_turn>model\n{CONTENT}<end_of_turn>\n", "<start_of_turn>model\n"),
        ("<start_of_turn>", "<end_of_turn>", "<eos>"), "<eos>", "<end_of_turn>",
        ends=("<end_of_turn>",), special=False,
    ),
    "Mistral": Family(
        turns(f"[INST] {CONTENT} [/INST]", f" {CONTENT}</s>", ""), ("[INST]", "[/INST]"), "</s>",
        "</s>",
    ),
    "Zephyr": Family(
        turns(f"<|user|>\n{CONTENT}</s>\n", f"<|assistant|>\n{CONTENT}</s>\n", "<|assistant|>\n"),
        (), "</s>", "</s>",
    ),
    "Llama 2": Family(
        turns(f"<s>[INST] {CONTENT} [/INST]", f" {CONTENT} </s>", ""), (), "</s>", "</s>",
    ),
    "Phi 3": Family(
        "{% for m in messages %}<|{{ m.role }}|>\n{{ m.content }}<|end|>\n{% endfor %}"
        "{% if add_generation_prompt %}<|assistant|>\n{% else %}{{ eos_token }}{% endif %}",
        ("<|user|>", "<|assistant|>", "<|end|>", "<|endoftext|>"), "<|endoftext|>", "<|end|>",
        ends=("<|end|>",),
    ),
    "Phi 4": Family(
        turns(f"<|im_start|>user<|im_sep|>{CONTENT}<|im_end|>",
              f"<|im_start|>assistant<|im_sep|>{CONTENT}<|im_end|>",
              "<|im_start|>assistant<|im_sep|>"),
        (*CHATML, "<|im_sep|>"), "<|endoftext|>", "<|im_end|>", ends=("<|im_end|>",),
    ),
    "DeepSeek": Family(
        turns(f"<|User|>{CONTENT}", f"<|Assistant|>{CONTENT}<|end_of_sentence|>",
              "<|Assistant|>"),
        ("<|User|>", "<|Assistant|>", "<|end_of_sentence|>"), "<|end_of_sentence|>",
        "<|end_of_sentence|>",
    ),
    "Command R": Family(
        turns(f"<|START_OF_TURN_TOKEN|><|USER_TOKEN|>{CONTENT}<|END_OF_TURN_TOKEN|>",
              f"<|START_OF_TURN_TOKEN|><|CHATBOT_TOKEN|>{CONTENT}<|END_OF_TURN_TOKEN|>",
              "<|START_OF_TURN_TOKEN|><|CHATBOT_TOKEN|>"),
        ("<|START_OF_TURN_TOKEN|>", "<|END_OF_TURN_TOKEN|>", "<|USER_TOKEN|>", "<|CHATBOT_TOKEN|>"),
        "<|END_OF_TURN_TOKEN|>", "<|END_OF_TURN_TOKEN|>",
    ),
    "Granite": Family(
        turns(f"<|start_of_role|>user<|end_of_role|>{CONTENT}<|end_of_text|>\n",
              f"<|start_of_role|>assistant<|end_of_role|>{CONTENT}<|end_of_text|>\n",
              "<|start_of_role|>assistant<|end_of_role|>"),
        ("<|start_of_role|>", "<|end_of_role|>", "<|end_of_text|>"), "<|end_of_text|>",
        "<|end_of_text|>",
    ),
    "GLM 4": Family(  # the next speaker ends a turn
        turns(f"<|user|>\n{CONTENT}", f"<|assistant|>\n{CONTENT}", "<|assistant|>\n"),
        ("<|user|>", "<|assistant|>", "<|observation|>", "<|endoftext|>"), "<|endoftext|>",
        "<|endoftext|>", named=("<|endoftext|>", "<|user|>", "<|observation|>"),
        ends=("<|user|>", "<|observation|>"), inner="",
    ),
    "gpt-oss": Family(  # the last turn ends in another token than the turns before it
        turns(f"<|start|>user<|message|>{CONTENT}<|end|>",
              f"<|start|>assistant<|channel|>final<|message|>{CONTENT}"
              "{% if loop.last %}<|return|>{% else %}<|end|>{% endif %}",
              "<|start|>assistant<|channel|>final<|message|>"),
        ("<|start|>", "<|message|>", "<|end|>", "<|return|>", "<|channel|>", "<|call|>"),
        "<|return|>", "<|return|>", named=("<|return|>", "<|call|>"), ends=("<|call|>",),
        inner="refused",
    ),
    "Vicuna": Family(
        turns(f"USER: {CONTENT} ", f"ASSISTANT: {CONTENT}</s>", "ASSISTANT:"), (), "</s>", "</s>",
    ),
    "plain text": Family(
        turns(f"User: {CONTENT}\n", f"Bot: {CONTENT}\n", "Bot:"), (), "</s>", "</s>", inner="",
    ),
    "StableLM": Family(
        turns(f"<|user|>\n{CONTENT}<|endoftext|>\n", f"<|assistant|>\n{CONTENT}<|endoftext|>\n",
              "<|assistant|>\n"),
        ("<|endoftext|>",), "<|endoftext|>", "<|endoftext|>",
    ),
    "padding is the end": Family(MARKED, CHATML, "<|im_end|>", "<|im_end|>", named=("<pad>",),
                                 ends=("<pad>",)),
}  # fmt: skip

CAUSAL = "no causal language"
PARTS = "text and more"
PACKED = "quantised by "
REFUSED: dict[str, tuple[dict[str, Any], str]] = {
    "17 the whole table short": ({"vocab_size": 3}, "no row for the tokens 3 `<|im_start|>`"),
    "17 ten short": ({"vocab_size": 366}, "7 more"),
    "17 an end beyond the table": ({"eos_token_id": 9999}, "eos_token_id = 9999"),
    "17 an end right behind it": ({"eos_token_id": 376}, "eos_token_id = 376"),
    "17 one end of several": ({"eos_token_id": [1, 128009]}, r"eos_token_id = \[1, 128009\]"),
    "17 padding beyond the table": ({"pad_token_id": 32000}, "pad_token_id = 32000"),
    "19 LLaVA": ({"architectures": ["LlavaForConditionalGeneration"], "model_type": "llava"},
                 PARTS),
    "19 Qwen2.5-VL": ({"architectures": ["Qwen2_5_VLForConditionalGeneration"],
                       "model_type": "qwen2_5_vl"}, PARTS),
    "19 Qwen2-Audio": ({"architectures": ["Qwen2AudioForConditionalGeneration"],
                        "model_type": "qwen2_audio"}, PARTS),
    "19 PaliGemma": ({"architectures": ["PaliGemmaForConditionalGeneration"],
                      "model_type": "paligemma"}, PARTS),
    "19 Idefics 3": ({"architectures": ["Idefics3ForConditionalGeneration"],
                      "model_type": "idefics3"}, PARTS),
    "19 Mistral 3": ({"architectures": ["Mistral3ForConditionalGeneration"],
                      "model_type": "mistral3"}, PARTS),
    "19 Mllama": ({"architectures": ["MllamaForConditionalGeneration"], "model_type": "mllama"},
                  PARTS),
    "19 Llama 4": ({"architectures": ["Llama4ForConditionalGeneration"], "model_type": "llama4"},
                   PARTS),
    "19 Gemma 3n": ({"architectures": ["Gemma3nForConditionalGeneration"],
                     "model_type": "gemma3n"}, PARTS),
    "19 InternVL": ({"architectures": ["InternVLForConditionalGeneration"],
                     "model_type": "internvl"}, PARTS),
    "19 T5": ({"architectures": ["T5ForConditionalGeneration"], "model_type": "t5"}, CAUSAL),
    "19 Whisper": ({"architectures": ["WhisperForConditionalGeneration"],
                    "model_type": "whisper"}, CAUSAL),
    "20 fp8 blocks": ({"quantization_config": {"quant_method": "fp8"}}, f"{PACKED}fp8"),
    "20 compressed-tensors": ({"quantization_config": {"quant_method": "compressed-tensors"}},
                              f"{PACKED}compressed-tensors"),
    "20 HQQ": ({"quantization_config": {"quant_method": "hqq"}}, f"{PACKED}hqq"),
    "20 torchao": ({"quantization_config": {"quant_method": "torchao"}}, f"{PACKED}torchao"),
    "20 Quanto": ({"quantization_config": {"quant_method": "quanto"}}, f"{PACKED}quanto"),
    "20 AQLM": ({"quantization_config": {"quant_method": "aqlm"}}, f"{PACKED}aqlm"),
    "20 EETQ": ({"quantization_config": {"quant_method": "eetq"}}, f"{PACKED}eetq"),
    "20 BitNet": ({"quantization_config": {"quant_method": "bitnet"}}, f"{PACKED}bitnet"),
    "20 SpQR": ({"quantization_config": {"quant_method": "spqr"}}, f"{PACKED}spqr"),
    "20 an unnamed method": ({"quantization_config": {"bits": 4}}, "does not name"),
    "20 an old bitsandbytes": ({"quantization_config": {"load_in_8bit": True}}, "does not name"),
    "22 a reward as policy": ({"architectures": ["Qwen2ForRewardModel"]}, CAUSAL),
    "22 a reward of steps": ({"architectures": ["Qwen2ForProcessRewardModel"]}, CAUSAL),
}  # fmt: skip
"""Changes to a whole folder's config.json, and the words of the refusal."""

LABELS = {"id2label": {"0": "a", "1": "b"}, "label2id": {"a": 0, "b": 1}}
ONE = {"id2label": {"0": "LABEL_0"}, "label2id": {"LABEL_0": 0}}
ENCODERS = {
    "bert": "Bert", "roberta": "Roberta", "deberta-v2": "DebertaV2", "electra": "Electra",
    "distilbert": "DistilBert", "xlm-roberta": "XLMRoberta", "camembert": "Camembert",
    "albert": "Albert", "longformer": "Longformer", "mpnet": "MPNet",
}  # fmt: skip
