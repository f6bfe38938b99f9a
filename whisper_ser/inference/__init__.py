"""What people do with a trained model: answers for files, timelines of long recordings, streams, and pictures of why."""
