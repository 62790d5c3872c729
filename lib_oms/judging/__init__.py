"""Judging pictures: how far their brightness is from the data's, and how well they obey the OMS prompt.

metrics.py has the measures, evaluate.py makes the pictures and takes them, plots.py draws what was found.
"""
