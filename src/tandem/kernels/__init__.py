"""What makes a model fast: each computes what the stock part computes, and is tried before it is trusted."""
