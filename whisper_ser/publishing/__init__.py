"""A trained run on the Hub: checked before, uploaded at once, checked again as a stranger finds it."""
