"""Publish a trained model on the Hugging Face Hub: the same as `whisper-ser push`.

Example: python push_to_hub.py outputs/emodb4/model --repo_id user/whisper-base-ser-emodb4 --dry_run
"""

import sys

from whisper_ser.cli import run
from whisper_ser.commands.push import main

if __name__ == "__main__":
    sys.exit(run(main, sys.argv[1:], "push_to_hub.py"))
