"""Finding the subject in pictures and following it through videos, for detectors that know it large and in the middle.

`windows` are squares of frames, `confidence` says what a detector's answers are worth, `search` looks for the window
that shows the subject, and `follow` moves it along through a video. All of it takes an `AutoLink`, and learns nothing.
"""
