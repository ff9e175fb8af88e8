"""The fault matrix: real runs that are killed, starved or damaged at a defined moment, and then started again."""
