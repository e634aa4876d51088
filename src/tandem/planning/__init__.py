"""What a run would need, before it is started: pure functions, no torch."""
