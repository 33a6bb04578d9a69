"""Profiles without hosts: their files, the instances of one, a new one, and one from an older configuration."""
