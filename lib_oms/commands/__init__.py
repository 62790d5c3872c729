"""The commands of `python -m lib_oms`, a file each: what it asks for, and what it prints of what the packages do.

places.py finds the WebUI's folders for them.
"""
