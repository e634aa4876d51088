"""Messages and texts become tokens: chat templates, loss masks, verified prefixes, truncation.

    encode     groups of text -> groups with tokens, and counts of what was lost
    decode     tokens -> text
    render     one group token by token, with borders and loss mask

Torch-free: it takes a Hugging Face tokenizer object and imports nothing of the hub's.
"""

from tandem.chat.encode import Encoded, encode
from tandem.chat.lengths import Counts, Truncation
from tandem.chat.tokens import decode
from tandem.chat.view import render

__all__ = ["Counts", "Encoded", "Truncation", "decode", "encode", "render"]
