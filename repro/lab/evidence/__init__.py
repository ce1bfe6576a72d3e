"""What a run leaves behind. Both ways write it: verdict, record of names, the kernel's own account, last words."""
