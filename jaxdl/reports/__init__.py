"""Reports: pages with figures and tables that a person looks at after a run."""
