"""What the command `whisper-ser` can do: one file a command, each with `add_parser` and `run`."""
