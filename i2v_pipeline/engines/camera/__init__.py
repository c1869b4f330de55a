"""The built-in engine: a virtual camera moves through one picture. It needs no download, no GPU and no torch.

Knows no file format and no queue, and reads no prompt: camera tags, speed and intensity are all that it takes.
"""

from i2v_pipeline.engines.camera.engine import CameraEngine

__all__ = ["CameraEngine"]
