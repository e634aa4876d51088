"""What is served: entering, labelling, the lead's pages, and what browsers ask beside them."""
