"""Training: one model on one data set, resumable, best epoch chosen on a validation set."""
