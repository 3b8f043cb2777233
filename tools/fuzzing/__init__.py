"""Hostile requests by the thousand: how they are made, what must hold, and who else is asked.

Each case is a function of a seed and its number, so any failure can be had again alone. The seeds
of the requests are the corpus that the tests use.
"""
