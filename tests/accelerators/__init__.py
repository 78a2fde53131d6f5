"""Tests of the accelerators."""
