"""Importable while scripts are loaded, because the extension's folder is on sys.path then."""

WORD = "found"
