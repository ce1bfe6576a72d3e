"""What notebooks call: things to look at, to step through, and to be graded by."""
