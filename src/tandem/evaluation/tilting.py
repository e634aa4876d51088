"""What a rejection sample became: how hard it was to be accepted, how far it is tilted."""

from __future__ import annotations
