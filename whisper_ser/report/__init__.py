"""What a run leaves behind for people: metrics, predictions, figures, model card."""
