"""Every fixed word of the page in both languages, and the one way by which text becomes HTML. Knows no component.

Labels of Gradio's own components are translated in the browser by key; HTML of ours carries both languages and the
style sheet shows one.
"""

from __future__ import annotations

import functools
import html
from collections.abc import Iterable

import gradio as gr
from gradio.i18n import I18nData

from i2v_pipeline.specs import EngineSpec
from i2v_pipeline.types import Text
from studio.axes import WORDS as AXES
from studio.plans import duration as duration

KEY_PREFIX = "i2v_"
"""Gradio has words of its own under plain keys such as `image`."""

LABELS: dict[str, Text] = {
    "image": Text("Input picture", "输入图像"),
    "reference_1": Text("Reference 1", "参考图 1"),
    "reference_2": Text("Reference 2", "参考图 2"),
    "reference_3": Text("Reference 3", "参考图 3"),
    "subject_name": Text("Name of the subject", "主体名称"),
    "subject_placeholder": Text("e.g. the cat", "例如：小猫"),
    "subject_alone": Text("Remove the background", "去除背景"),
    "image_alt": Text("The picture that becomes a video", "将要变成视频的图像"),
    "prompt": Text("Prompt", "提示词 (Prompt)"),
    "prompt_info": Text("The engine gets exactly this text.", "引擎收到的就是这段文字。"),
    "prompt_placeholder": Text(
        "e.g. The camera slowly pushes in, waves break on the rocks", "例如：镜头慢慢推近，海浪拍打礁石"
    ),
    "refine": Text("Refine the prompt", "优化提示词"),
    "show_picture": Text("Let the LLM see the pictures", "让大模型看到图像"),
    "fidelity": Text("What the LLM may add", "大模型可添加的内容"),
    "fidelity_strict": Text("Nothing", "不添加"),
    "fidelity_balanced": Text("What the movement needs", "动作所需"),
    "fidelity_creative": Text("Ideas of its own", "自由发挥"),
    "test_llm": Text("Test the connection", "测试连接"),
    "use_refined": Text("Use the refined prompt", "使用优化后的提示词"),
    "keep_mine": Text("Keep mine", "保留原文"),
    "undo_refine": Text("Back to what I typed", "恢复我输入的文字"),
    "engine": Text("Engine", "引擎"),
    "preset": Text("Preset", "预设"),
    "preset_preview": Text("Preview", "预览"),
    "preset_standard": Text("Standard", "标准"),
    "preset_high_motion": Text("High motion", "高动态"),
    "preset_creative": Text("Creative", "创意"),
    "preset_fast": Text("Fast", "快速"),
    "resolution": Text("Resolution", "分辨率"),
    "resolution_info": Text("or a size: 1280x720", "也可填尺寸：1280x720"),
    "frames": Text("Frames", "生成帧数"),
    "fps": Text("Frame rate (FPS)", "帧率 (FPS)"),
    "steps": Text("Inference steps", "推理步数"),
    "guidance": Text("Guidance scale", "引导系数"),
    "seed": Text("Seed", "随机种子"),
    "seed_info": Text("empty or -1: a new one", "留空或 -1：每次随机"),
    "fit": Text("Fitting the picture to the size", "画面适配"),
    "fit_crop": Text("Crop", "裁剪"),
    "fit_pad": Text("Pad", "加边"),
    "fit_stretch": Text("Stretch", "拉伸"),
    "double_rate": Text("Twice the frame rate", "帧率翻倍"),
    "double_rate_info": Text(
        "A frame is put between any two: smoother, as long as before.", "每两帧之间插入一帧：更流畅，时长不变。"
    ),
    "ending": Text("Ending", "结尾方式"),
    "ending_plain": Text("As it is", "不处理"),
    "ending_loop": Text("Loop", "循环"),
    "ending_boomerang": Text("Boomerang", "往返"),
    "negative_prompt": Text("Negative prompt", "负向提示词"),
    "negative_prompt_info": Text("empty: the engine's own, shown in grey", "留空则使用引擎自带的（灰色文字）"),
    "guidance_schedule": Text("Guidance over the steps", "随步数变化的引导"),
    "guidance_schedule_info": Text("for the slider: 9..6 or 5@0-0.6", "代替滑块：9..6 或 5@0-0.6"),
    "as_preset": Text("as the preset", "按预设"),
    "scheduler": Text("Scheduler", "调度器"),
    "scheduler_info": Text("how each step is solved", "每一步的求解方法"),
    "flow_shift": Text("Flow shift", "时间步偏移 (Flow shift)"),
    "flow_shift_info": Text("empty: the preset's", "留空则按预设"),
    "loras": Text("LoRAs", "LoRA 模型"),
    "loras_info": Text(
        "files in models/loras; add :0.8 for a weight, @high or @low for one expert",
        "models/loras 中的文件；可加 :0.8 设权重，@high 或 @low 指定专家模型",
    ),
    "last_image": Text("Last picture", "结尾图像"),
    "attention": Text("Attention", "注意力内核"),
    "attention_info": Text("tried on the card before it is used", "使用前会先在显卡上试算"),
    "attention_auto": Text("Automatic, nothing lossy", "自动（不损失精度）"),
    "attention_sdpa": Text("PyTorch", "PyTorch 自带"),
    "attention_flash": Text("FlashAttention 2", "FlashAttention 2 内核"),
    "attention_flash3": Text("FlashAttention 3", "FlashAttention 3 内核"),
    "attention_sage": Text("SageAttention (8 bits)", "SageAttention（8 位）"),
    "cache": Text("Feature cache", "特征缓存"),
    "cache_info": Text("faster, with less fine motion and detail", "更快，但细微运动和细节会减少"),
    "cache_off": Text("Off", "关闭"),
    "cache_first_block": Text("First block", "首层比较 (First block)"),
    "cache_mag": Text("MagCache", "MagCache 缓存"),
    "compiled": Text("Compile the denoiser", "编译去噪模型"),
    "compiled_info": Text(
        "about half a minute once for each size; pays with several videos of one size",
        "每种尺寸首次约需半分钟；同一尺寸生成多个视频时划算",
    ),
    "embed_source": Text("Keep the input picture in the video file", "在视频文件中保留输入图像"),
    "generate": Text("Generate video", "生成视频"),
    "cancel": Text("Cancel", "取消"),
    "again": Text("Again with a new seed", "换个种子再来一次"),
    "reuse": Text("Use what is ticked", "使用勾选的部分"),
    "part_prompt": Text("prompt", "提示词"),
    "part_picture": Text("picture", "图像"),
    "part_parameters": Text("parameters", "参数"),
    "part_seed": Text("seed", "种子"),
    "longer": Text("Make it longer", "续写此视频"),
    "longer_frame": Text("Go on from frame", "从第几帧续写"),
    "longer_prompt": Text("What happens next", "接下来发生什么"),
    "longer_same_seed": Text("The same seed as before", "沿用原来的种子"),
    "longer_make": Text("Make the longer video", "生成续写视频"),
    "longer_close": Text("Not now", "暂不"),
    "last_frame": Text("Go on from the last frame", "用最后一帧继续"),
    "delete": Text("Delete", "删除"),
    "restore": Text("Settings from a video or report", "从视频或报告恢复参数"),
    "generate_all": Text("Generate all", "全部生成"),
    "save_changes": Text("Save changes", "保存修改"),
    "pictures": Text("More pictures", "更多图像"),
    "each_line": Text("Each line of the prompt is a prompt of its own", "提示词每行单独成为一条"),
    "compare_mode": Text("What is made", "生成内容"),
    "compare_grid": Text("A grid of videos", "对比网格"),
    "compare_steps": Text("Drafts: fewer steps", "草稿：减少步数"),
    "compare_preview": Text("Drafts: smaller", "草稿：缩小尺寸"),
    "axis_x": Text("Columns", "列"),
    "axis_y": Text("Rows", "行"),
    "axis_values": Text("Values, with commas; prompts line by line", "取值，用逗号隔开；提示词每行一条"),
    "axis_none": Text("nothing", "无"),
    **{f"axis_{field}": words for field, words in AXES.items()},
    "draft_count": Text("Drafts", "草稿数量"),
    "compare": Text("Start the comparison", "开始对比"),
    "make_drafts": Text("Make the drafts", "生成草稿"),
    "search": Text("Search in prompts", "搜索提示词"),
    "filter_engine": Text("Engine", "引擎"),
    "all_engines": Text("all engines", "全部引擎"),
    "favourites": Text("Favourites only", "只看收藏"),
    "clean_rule": Text("Clean up", "清理"),
    "older_7": Text("older than 7 days", "早于 7 天"),
    "older_30": Text("older than 30 days", "早于 30 天"),
    "older_90": Text("older than 90 days", "早于 90 天"),
    "size_1": Text("the oldest, down to 1 GB", "最旧的，直到剩 1 GB"),
    "size_5": Text("the oldest, down to 5 GB", "最旧的，直到剩 5 GB"),
    "size_20": Text("the oldest, down to 20 GB", "最旧的，直到剩 20 GB"),
    "look_at_clean_up": Text("See what would go", "查看可清理的内容"),
    "retry": Text("Try again", "重试"),
    "report": Text("Parameters and report (JSON)", "生成参数与报告 (JSON)"),
}


@functools.cache
def label(key: str) -> I18nData:
    """The word for a Gradio component, translated in the browser; the same object each time, since two of Gradio's are
    never equal. Raises `KeyError` for a word that is not here."""
    LABELS[key]
    return I18nData(KEY_PREFIX + key)


def engine_label(spec: EngineSpec) -> I18nData:
    """The engine's title for a Gradio component."""
    return I18nData(f"{KEY_PREFIX}engine_{spec.id}")


def translations(engines: Iterable[EngineSpec]) -> gr.I18n:
    """All labels, the engines' titles included. English also serves every language that is not Chinese."""
    texts = {**LABELS, **{f"engine_{spec.id}": spec.title for spec in engines}}
    return gr.I18n(
        **{
            "en": {KEY_PREFIX + key: text.en for key, text in texts.items()},
            "zh-CN": {KEY_PREFIX + key: text.zh for key, text in texts.items()},
        }
    )


def escape(value: object) -> str:
    """Text as HTML. Template characters too: gr.HTML puts its value through two template languages."""
    escaped = html.escape(str(value))
    for character in "$`{}\\":
        escaped = escaped.replace(character, f"&#{ord(character)};")
    return escaped


def both(text: Text) -> str:
    """The sentence in both languages as HTML; the style sheet shows the one that the page speaks."""
    return (
        f'<span class="l-en" lang="en">{escape(text.en)}</span><span class="l-zh" lang="zh-CN">{escape(text.zh)}</span>'
    )


def size(count: float) -> str:
    """Bytes as a person reads them: `640 KB`, `12.3 MB`, `4.56 GB`, in thousands as disks are sold."""
    if count < 1e6:
        return f"{count / 1e3:.0f} KB"
    return f"{count / 1e6:.1f} MB" if count < 1e9 else f"{count / 1e9:.2f} GB"
