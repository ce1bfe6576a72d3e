"""The bench that both sides, `repro` and `fixed`, stand on."""
