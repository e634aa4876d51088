"""The record, and how it is written down: groups, chat templates, file formats. No torch."""
