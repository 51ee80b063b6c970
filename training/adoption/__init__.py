"""Adoption: from a network that came as an ONNX file to a version of a model, whatever its task."""
