"""Stops the crash."""
