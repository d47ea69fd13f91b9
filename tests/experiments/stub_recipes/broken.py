"""A recipe that must be listed but cannot be imported."""

raise RuntimeError("imported although it was not chosen")
