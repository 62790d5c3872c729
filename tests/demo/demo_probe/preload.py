"""Adds a command line argument, as extensions may."""


def preload(parser):
    parser.add_argument("--probe-flag", default="unset")
