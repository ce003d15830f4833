"""The version of rloop, shown at the foot of every page; pyproject.toml reads it from here.

Image tags and progress fingerprints leave this file out (see imports.py), so a new version invalidates no cached
result. A page therefore shows the version that its stage's image was built from.
"""

VERSION = "0.2.0"
