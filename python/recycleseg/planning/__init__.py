"""From the facts of a data set to a plan: grid, patch, network, batch, and the reason of each."""
