"""A folder in which every stage is done once and remembered. No torch."""
