"""Recipes for the tests of the command line."""
