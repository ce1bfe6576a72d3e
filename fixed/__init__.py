"""The half of the kit that stops the crash: the fixes, their clinic, and the orders of events."""
