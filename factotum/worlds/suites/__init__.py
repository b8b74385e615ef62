"""Suites of tasks: each declares its spaces, instruction, measure, expert and reference scores.

`registry` finds tasks by name; one file a family makes them.
"""
