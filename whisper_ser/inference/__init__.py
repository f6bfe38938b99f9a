"""What people do with a trained model: answers for files, timelines, streams, and pictures of why."""
