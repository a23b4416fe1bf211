"""What the training of an AutoLink is made of beside its loop, which is `autolink/train.py`."""
