"""What the manager's loop is helped by: who owns the work folder, tasks that hang, tasks that failed."""
