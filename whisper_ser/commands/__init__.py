"""The commands of `whisper-ser`: a file for each, with a function `main(argv)`."""
