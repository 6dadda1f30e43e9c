"""Many merges, little disk: merge in memory, evaluate, keep the metrics; search for coefficients."""
