"""The public methods, one class per subject."""
