"""What this machine and this environment have: tried before a run, and not guessed."""
