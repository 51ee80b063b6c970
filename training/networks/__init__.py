"""Networks (`nn.Module`) made of what ONNX Runtime fuses well: 3x3 convolutions, batch norm, ReLU, nearest x2."""
