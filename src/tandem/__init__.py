"""Tandem: turn preferences into better language models.

Five verbs over one record: sample completions, judge them, select among them, fit a model on
what is left, and repeat. `tandem.methods` holds one short file per method.
"""

__version__ = "0.1.0"
