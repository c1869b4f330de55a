"""Names for what the core calls by code: camera moves, speeds, states, stages. Knows no component."""

from __future__ import annotations

from i2v_pipeline.camera_moves import MOVE_NAMES
from i2v_pipeline.types import Motion, Text

CAMERA = MOVE_NAMES
SPEED = {
    "slow_motion": Text("slow motion", "慢动作"),
    "normal": Text("normal speed", "正常速度"),
    "fast": Text("fast", "快速"),
    "timelapse": Text("time-lapse", "延时"),
}
INTENSITY = {
    "low": Text("gentle", "幅度小"),
    "medium": Text("medium", "幅度适中"),
    "high": Text("strong", "幅度大"),
}
NO_CAMERA = Text("no camera move named: the engine chooses", "未指定运镜：由引擎决定")

STATES = {
    "queued": Text("Waiting", "排队中"),
    "running": Text("Generating", "生成中"),
    "done": Text("Done", "已完成"),
    "failed": Text("Failed", "失败"),
    "cancelled": Text("Cancelled", "已取消"),
    "interrupted": Text("Interrupted", "已中断"),
}
STAGES = {
    "load": Text("Loading the engine", "加载引擎"),
    "encode": Text("Studying the picture", "分析图像"),
    "denoise": Text("Denoising", "去噪计算"),
    "decode": Text("Making the frames", "生成画面"),
    "write": Text("Writing and checking the video", "写入并检查视频"),
}
MATCH = {
    "match": Text("Picture and prompt fit together.", "图文相符。"),
    "partial": Text("Picture and prompt fit only in part.", "图文部分相符。"),
    "mismatch": Text("Picture and prompt do not fit together.", "图文不符。"),
    "unknown": Text(
        "Whether picture and prompt fit together is unknown: nobody compared them.", "图文是否相符未知：未作比较。"
    ),
}
WARNINGS = {
    "multiple_subjects": Text("There are several subjects in the picture.", "图中有多个主体。"),
    "tiny_subject": Text("The subject is very small in the picture.", "图中主体很小。"),
    "text_poster": Text(
        "The picture is mostly text, which will not stay readable.", "图像以文字为主，生成后难以辨认。"
    ),
    "blurry": Text("The picture is blurry.", "图像模糊。"),
    "action_not_possible": Text("The subject cannot do that in this picture.", "图中主体无法做出该动作。"),
    "abstract_prompt": Text("The prompt names no movement that can be seen.", "提示词没有可见的动作。"),
    "camera_subject_conflict": Text("Camera and subject pull in different directions.", "镜头运动与主体动作相互冲突。"),
}
DEFECTS = {
    "static": Text("nothing moves", "画面静止"),
    "black": Text("black or one colour", "黑帧或单色帧"),
    "strobe": Text("strobe", "频闪"),
    "flash": Text("flash", "闪光"),
    "flicker": Text("flicker", "亮度抖动"),
    "snap_back": Text("jump back to the start", "跳回开头"),
    "blur": Text("growing blur", "逐渐模糊"),
    "color_drift": Text("colour drift", "颜色偏移"),
    "duplicate_frames": Text("repeated frames", "重复帧"),
}
"""What the inspection of a video calls its flags."""


def motion_words(motion: Motion) -> list[Text]:
    """The movement word by word: camera moves, then speed, then intensity."""
    camera = [CAMERA[tag] for tag in motion.camera] or [NO_CAMERA]
    return [*camera, SPEED[motion.speed], INTENSITY[motion.intensity]]
