"""The teacher's signal: completions with their token distributions, as they are stored and aligned with a student."""
