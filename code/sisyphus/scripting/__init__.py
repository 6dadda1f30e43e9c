"""For recipe files used as programs, and for the console: running without a manager, objects on disk."""
