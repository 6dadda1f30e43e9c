"""What cleaning is made of: packing finished jobs, finding unused ones, removing them after a question."""
