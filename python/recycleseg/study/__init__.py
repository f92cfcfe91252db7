"""The paper's comparison on any data set: every strategy trained, sampled and compared."""
