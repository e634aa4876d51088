"""The one training loop, its sources of batches, and training on a policy's own samples."""
