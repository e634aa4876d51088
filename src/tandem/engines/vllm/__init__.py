"""vLLM draws the completions: a server of its own over loopback, kept at the policy's weights."""
