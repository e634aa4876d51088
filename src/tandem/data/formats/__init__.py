"""Readers and writers: what other tools write becomes groups, and groups become what they read.

`read` detects the format from the columns and says why; `write` gives the columns back;
`split` divides by prompt. `tandem.data.check.check.check` examines data before anything is trained.
"""

from tandem.data.chat.transcripts import as_chat, prompt_key
from tandem.data.formats.reader import Notes, Read, read
from tandem.data.formats.splits import split
from tandem.data.formats.writer import Written, write

__all__ = ["Notes", "Read", "Written", "as_chat", "prompt_key", "read", "split", "write"]
