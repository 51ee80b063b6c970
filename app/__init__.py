"""imago's service: everything between a folder of ONNX models and an HTTP answer."""

__version__ = "0.1.0"
