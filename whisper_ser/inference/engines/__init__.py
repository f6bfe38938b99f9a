"""What runs a model: ONNX Runtime, and the graphs it runs."""
