"""Bytes and pixels: decoding, fitting and drawing pictures. The one home of Pillow."""
