"""Weights that ship with the project; `manifest.json` says what each file is."""
