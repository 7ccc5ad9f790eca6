"""Models by their names: where bundles are kept, and how they get there."""
