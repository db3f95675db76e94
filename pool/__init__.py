"""Containers, and nothing else: which container serves which activation, and in what state it is."""
