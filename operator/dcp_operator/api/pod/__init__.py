"""The podTemplate: what it may hold, and how it is merged. Pure."""
