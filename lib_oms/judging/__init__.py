"""Judging pictures: how far their brightness is from the data's, and how well they obey the OMS prompt.

metrics.py has the measures of pixels, by_library.py those of networks that a person has, radius.py those of latents.
The embedded model is measured by evaluate.py, steering.py and solvers.py; plots.py draws two pictures of that. Pictures
of other models are made by through_webui.py, over webui_api.py and as asked.py says, and judged by folders.py.
chapters.py says what a report has, and report.py writes it.
"""
