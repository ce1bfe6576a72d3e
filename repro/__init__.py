"""Makes the crash happen. Nothing in here imports `fixed`."""
