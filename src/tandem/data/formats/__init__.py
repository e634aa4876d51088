"""Readers and writers: what other tools write becomes groups, and groups become what they read.

`read_data` detects the format from the columns and says why; `write_data` gives the columns back;
`split_groups` divides by prompt. `tandem.data.check` examines data before anything is trained.
"""

from tandem.data.chat.transcripts import groups_as_chat, prompt_key
from tandem.data.formats.reader import DataRead, ReadingNotes, read_data
from tandem.data.formats.splits import split_groups
from tandem.data.formats.writer import DataWritten, write_data

__all__ = [
    "ReadingNotes",
    "DataRead",
    "DataWritten",
    "groups_as_chat",
    "prompt_key",
    "read_data",
    "split_groups",
    "write_data",
]
