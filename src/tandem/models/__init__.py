"""Hugging Face models: opened, read one packed batch at a time, saved."""
