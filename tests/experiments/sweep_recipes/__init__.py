"""A recipe for the tests of the sweep."""
