"""Judging pictures: how far their brightness is from the data's, and how well they obey the OMS prompt.

metrics.py has the measures of pixels, by_library.py those of networks that a person has, radius.py those of latents.
The embedded model is measured by evaluate.py and steering.py, of whose pictures plots.py draws two. Pictures of other
models are made by through_webui.py, as asked.py says, and judged by folders.py. chapters.py and report.py make the page.
"""
