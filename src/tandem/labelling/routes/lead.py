"""Lead pages."""

HANDLERS = []
