"""What is kept of every job that ran: code, packages, resources, hashes of outputs."""
