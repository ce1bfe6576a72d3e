"""A release's own code: its source is read, and its functions are lifted and made runnable. Stand-ins replace the rest
of sglang."""
