"""What notebooks call: functions that show evidence, step through a run, check a prediction, and grade an attempt."""
