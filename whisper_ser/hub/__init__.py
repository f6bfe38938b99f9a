"""Publishing on the Hugging Face Hub: checked before, one commit, verified afterwards."""
