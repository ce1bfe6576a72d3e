"""A release's own code: read from its source, lifted, made runnable, and what stands in for the rest of sglang."""
