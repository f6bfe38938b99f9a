"""Train, fine-tune and test a speech emotion recognition model: the same as `whisper-ser train`.

Example: python run_train.py recipes/emodb4.json --data_dir path/to/emodb4 --encoder openai/whisper-base
"""

import sys

from whisper_ser.cli import run
from whisper_ser.commands.train import main

if __name__ == "__main__":
    sys.exit(run(main, sys.argv[1:], "run_train.py"))
