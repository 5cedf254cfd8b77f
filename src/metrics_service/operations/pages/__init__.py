"""Operators' pages: what is wrong with the service, and everything that helps to find out why."""
