"""From groups to packed batches: ragged tensors, micro-batches, who attends to whom."""
