"""Completions drawn on the machines of a Ray cluster, from copies kept at the policy's weights."""
