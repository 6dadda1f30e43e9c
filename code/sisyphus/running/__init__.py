"""A running task: its log, its usage file, the thread that measures it."""
