"""Messages and texts become tokens: chat templates, loss masks, verified prefixes, truncation.

    encode     groups of text -> groups with tokens, and counts of what was lost
    decode     tokens -> text
    render     one group token by token, with borders and loss mask

Torch-free: it takes a Hugging Face tokenizer object and imports nothing of the hub's.
"""

from tandem.data.chat.encode import Encoded, encode_groups
from tandem.data.chat.show import render_group
from tandem.data.chat.tokens import decode_tokens
from tandem.data.chat.truncate import Counts, Truncation

__all__ = ["Counts", "Encoded", "Truncation", "decode_tokens", "encode_groups", "render_group"]
