"""What a threshold keeps: ReST's first has to lie above the mean reward."""

from __future__ import annotations
