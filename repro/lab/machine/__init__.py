"""What this machine and this environment have. Each thing is tried before a run, not guessed."""
