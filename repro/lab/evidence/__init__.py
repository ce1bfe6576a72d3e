"""The evidence that a run leaves behind: verdict, record of names, the kernel's own account, last words. Both ways
write it."""
