"""The processes of a run: launching, model sharding, random states, signals and failures."""
