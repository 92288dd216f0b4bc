"""The calls as users see them, in both colours, with their documentation."""
