"""Video as a stream of frames, in and out, with PyAV: a clip is never in memory as a whole.

Read with `open_frames` (a video, an animation, a picture, a folder of pictures); write with `open_output`
(an mp4, a webm, an animation, a folder of pictures) or `VideoWriter`:

    with (
        open_frames("in.mov") as frames,
        open_output("out.mp4", frames.width, frames.height, frames.frame_rate, audio_from="in.mov") as video,
    ):
        for image, time in frames:
            video.write(image, time)
"""

from autolink.video.outputs import FolderWriter, FrameOutput, check_begun, is_complete, require_made_with
from autolink.video.read import (
    DEFAULT_FRAME_RATE,
    Animation,
    FrameSource,
    ImageFrames,
    VideoFrame,
    VideoReader,
    open_frames,
)
from autolink.video.write import VideoWriter, check_output, open_output, write_video

__all__ = [
    "DEFAULT_FRAME_RATE",
    "Animation",
    "FolderWriter",
    "FrameOutput",
    "FrameSource",
    "ImageFrames",
    "VideoFrame",
    "VideoReader",
    "VideoWriter",
    "check_begun",
    "check_output",
    "is_complete",
    "open_frames",
    "open_output",
    "require_made_with",
    "write_video",
]
