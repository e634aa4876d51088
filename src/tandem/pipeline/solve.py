"""Policies on questions with one checkable answer: decoded in several ways, marked, compared."""

from __future__ import annotations
