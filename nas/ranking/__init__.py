"""Statistics: rank the variants of a study, test differences, estimate the effect of each swap."""
