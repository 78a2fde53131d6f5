"""Tests of what trains the pocket models."""
