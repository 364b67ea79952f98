"""The processes of a run: how they start, share a model, stay in step, take signals and end."""
