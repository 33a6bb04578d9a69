"""Profiles without hosts: their files, what one results in, a new one, and one from an older configuration."""
