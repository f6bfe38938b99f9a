"""Open a web page for trying models: the same as `whisper-ser app`.

Example: python app.py outputs/emodb4/model user/whisper-base-ser-ravdess
"""

import sys

from whisper_ser.cli import run
from whisper_ser.commands.app import main

if __name__ == "__main__":
    sys.exit(run(main, sys.argv[1:], "app.py"))
