"""The word-level tokenizer of the micro task, a stock `PreTrainedTokenizerFast`.

Words are separated by spaces, so text and tokens are the same thing seen twice. Every assistant
turn ends with `</s>`; padding is a token of its own.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from tandem.tasks.micro.words import all_words

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast

CONTEXT = 256
TEMPLATE = (
    "{%- for message in messages -%}"
    "{%- if message['role'] == 'assistant' -%}"
    "{{- '<assistant> ' -}}"
    "{%- generation -%}{{- message['content'] + ' </s> ' -}}{%- endgeneration -%}"
    "{%- else -%}"
    "{{- '<' + message['role'] + '> ' + message['content'] + ' ' -}}"
    "{%- endif -%}"
    "{%- endfor -%}"
    "{%- if add_generation_prompt -%}{{- '<assistant> ' -}}{%- endif -%}"
)


def micro_tokenizer() -> PreTrainedTokenizerFast:
    """The tokenizer, made from the word lists."""
    from tokenizers import Tokenizer
    from tokenizers.models import WordLevel
    from tokenizers.pre_tokenizers import WhitespaceSplit
    from transformers import PreTrainedTokenizerFast

    ids = {word: i for i, word in enumerate(all_words())}
    model = Tokenizer(WordLevel(ids, unk_token="<unk>"))
    model.pre_tokenizer = WhitespaceSplit()
    made = PreTrainedTokenizerFast(
        tokenizer_object=model,
        eos_token="</s>",
        pad_token="<pad>",
        unk_token="<unk>",
        additional_special_tokens=["<system>", "<user>", "<assistant>"],
        model_max_length=CONTEXT,
        model_input_names=["input_ids", "attention_mask"],
        padding_side="left",
        clean_up_tokenization_spaces=False,
    )
    made.chat_template = TEMPLATE
    return made
