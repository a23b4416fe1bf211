"""The commands of `autolink`, a module each; `autolink.train` is one too, where `accelerate launch` expects it."""
