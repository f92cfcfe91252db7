"""Pictures of a run, and the report of an evaluation."""
