"""Faster parts of a model: each equals the stock part, and is compared with it before use."""
