"""Layers of a model of transformers: found, watched while they run, and run again by themselves.

The teacher's side takes from here what it stores, and the student's side what it compares.
"""
