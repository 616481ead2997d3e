"""Properties are tried without a time limit for each example: a busy machine is not a bug."""

from hypothesis import settings

settings.register_profile("lenticular", deadline=None)
settings.load_profile("lenticular")
