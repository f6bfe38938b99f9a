"""`python -m whisper_ser` is the command `whisper-ser`; `torchrun -m whisper_ser` starts several."""

import sys

from whisper_ser.cli import main

if __name__ == "__main__":
    sys.exit(main())
