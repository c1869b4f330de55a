"""Puts the page together: header, form, result, history, and the events between them. Makes nothing at import."""

from __future__ import annotations

from typing import Any

import gradio as gr

from i2v_pipeline.types import Text
from studio.page import history, queue, reuse, status, subjects
from studio.page.comparing import make_compare, make_comparison
from studio.page.desk import Desk
from studio.page.endpoints import add_endpoints
from studio.page.form import Form, make_engine, make_preset, make_settings
from studio.page.longer import make_longer
from studio.page.plan import empty_plan, engine_html, lacks_html
from studio.page.refine_events import make_refine
from studio.page.services import Services
from studio.page.text import both, engine_label, escape, label
from studio.page.uploads import UploadsOnly
from studio.page.whole import WholeAnswers
from studio.page.wire import wire

TITLE = "Image-to-Video Studio · 图像转视频"
CACHE_CHECK_S, CACHE_AGE_S = 3600, 86400
MAX_PAGES = 400

# Gradio's storage is encrypted with this; it stands in the page's own source and hides nothing from anybody. Fixed,
# or a restart of the server would lose what the browser kept.
BROWSER_SECRET = "image-to-video-studio"

_PICK_EXAMPLE = """
element.addEventListener('click', (event) => {
  const button = event.target.closest('[data-example]');
  if (button) trigger('pick_example', {file: button.dataset.example, lang: document.documentElement.lang});
});
"""
_TAKE_OFFER = """
element.addEventListener('click', (event) => {
  const button = event.target.closest('[data-size], [data-remedy]');
  if (button?.dataset.remedy) trigger('take_remedy', {what: button.dataset.remedy});
  else if (button) trigger('take_offer', {...button.dataset});
});
"""
_TAKE_ADVICE = """
element.addEventListener('click', (event) => {
  if (event.target.closest('[data-advice]')) trigger('take_advice', {});
});
"""
_ANNOUNCE = "element.setAttribute('aria-live', 'polite');"


class _Page(UploadsOnly, WholeAnswers):
    """The page's frame."""


def build(services: Services) -> gr.Blocks:
    """The whole page on `services`."""
    form: Form = {}
    view: dict[str, Any] = {}
    with _Page(title=TITLE, analytics_enabled=False, delete_cache=(CACHE_CHECK_S, CACHE_AGE_S)) as page:
        # A gr.State would stay on the server, and the address could not name the job.
        view["shown"] = gr.Textbox(visible=False)
        view["proposal"] = gr.State(None)
        view["planned"] = gr.State(0)
        # Where earlier versions kept the owner's name: a browser that still has one keeps its history.
        view["client"] = gr.BrowserState(None, storage_key="i2v_client", secret=BROWSER_SECRET)
        view["draft"] = gr.BrowserState(None, storage_key="i2v_draft", secret=BROWSER_SECRET)
        gr.HTML(_header(), elem_id="header", js_on_load="")
        with gr.Row(elem_id="columns"):
            with gr.Column(elem_id="left", scale=5, min_width=320):
                _make_form(services, form, view)
            with gr.Column(elem_id="right", scale=6, min_width=320):
                _make_result(view)
        make_comparison(view)
        _make_history(services, view)
        # Last of all inputs, where the event's script fills it in.
        view["count"] = gr.Number(visible=False)
        # Before the page's own events, which would take their names.
        add_endpoints(services)
        wire(page, Desk(services, form, view))
        # Every open page holds one of Gradio's places for events under way.
        page.max_threads = MAX_PAGES
        page.queue()
    return page


def _make_form(services: Services, form: Form, view: dict[str, Any]) -> None:
    spec = next(iter(services.engines.values()))
    view["examples"] = gr.HTML(_examples(services), elem_id="examples", js_on_load=_PICK_EXAMPLE)
    view["note"] = gr.HTML("", elem_id="note", js_on_load=reuse.ON_NOTE)
    subjects.make_pictures(spec, form)
    view["seen"] = gr.HTML("", elem_id="seen", js_on_load=subjects.ON_MOVE)
    view["subject"] = gr.HTML("", elem_id="subject", js_on_load="")
    view["restore"] = gr.UploadButton(
        label("restore"),  # pyright: ignore[reportArgumentType] - translated as every label is
        file_types=[".mp4", ".json"],
        size="sm",
        elem_id="restore",
    )
    with gr.Column(elem_id="prompt-group", elem_classes="card"):
        form["prompt"] = gr.Textbox(
            label=label("prompt"),
            info=label("prompt_info"),
            placeholder=label("prompt_placeholder"),
            lines=2,
            max_lines=10,
            elem_id="prompt",
        )
        make_refine(services, view)
    with gr.Column(elem_id="engine-group", elem_classes="card"):
        with gr.Row(elem_id="engine-row"):
            make_engine(services, form)
            view["engine_note"] = gr.HTML(engine_html(spec), elem_id="engine-note", js_on_load="")
        make_preset(spec, form)
    with gr.Column(elem_id="advanced", elem_classes="card"):
        # An accordion of Gradio's would only make its components when it is opened, and change their values then.
        gr.HTML(_fold("advanced", Text("Advanced settings", "高级参数")), js_on_load="")
        with gr.Column(elem_id="advanced-body"):
            make_settings(spec, form)
            view["lacks"] = gr.HTML(lacks_html(spec), elem_id="lacks", js_on_load="")
    with gr.Column(elem_id="several", elem_classes="card"):
        gr.HTML(_fold("several", Text("Several at once", "一次生成多个")), js_on_load="")
        with gr.Column(elem_id="several-body"):
            view["pictures"] = gr.File(
                label=label("pictures"), file_count="multiple", file_types=["image"], height=140, elem_id="pictures"
            )
            view["each_line"] = gr.Checkbox(False, label=label("each_line"), container=False, elem_id="each-line")
    with gr.Column(elem_id="compare-card", elem_classes="card"):
        gr.HTML(_fold("compare", Text("Compare, or drafts first", "对比，或先出草稿")), js_on_load="")
        with gr.Column(elem_id="compare-body"):
            make_compare(view)
    with gr.Column(elem_id="action", elem_classes="card"):
        view["plan"] = gr.HTML(empty_plan(), elem_id="plan", js_on_load=_TAKE_OFFER)
        with gr.Row(elem_id="action-row"):
            view["generate"] = gr.Button(label("generate"), variant="primary", size="lg", scale=3, elem_id="generate")
            view["cancel"] = gr.Button(
                label("cancel"), variant="stop", size="lg", scale=1, min_width=100, visible=False, elem_id="cancel"
            )


def _make_result(view: dict[str, Any]) -> None:
    view["announcer"] = gr.HTML("", elem_id="announcer", js_on_load=_ANNOUNCE)
    view["status"] = gr.HTML("", elem_id="status", js_on_load="")
    view["screen"] = gr.HTML(status.empty_html(), elem_id="screen", js_on_load="")
    view["details"] = gr.HTML("", elem_id="details", js_on_load=_TAKE_ADVICE)
    with gr.Row(elem_id="result-row"):
        view["again"] = gr.Button(label("again"), size="sm", min_width=120, visible=False, elem_id="again")
        view["retry"] = gr.Button(label("retry"), size="sm", min_width=100, visible=False, elem_id="retry")
        view["longer"] = gr.Button(label("longer"), size="sm", min_width=120, visible=False, elem_id="longer")
        view["last_frame"] = gr.Button(
            label("last_frame"), size="sm", min_width=120, visible=False, elem_id="last-frame"
        )
        view["delete"] = gr.Button(label("delete"), size="sm", min_width=80, visible=False, elem_id="delete")
    make_longer(view)
    with gr.Row(elem_id="reuse-row"):
        view["reuse"] = gr.Button(label("reuse"), size="sm", min_width=120, visible=False, elem_id="reuse")
        view["parts"] = gr.CheckboxGroup(
            [(label(f"part_{part}"), part) for part in reuse.PARTS],
            value=list(reuse.PARTS),
            show_label=False,
            container=False,
            visible=False,
            elem_id="parts",
        )
    with gr.Accordion(label("report"), open=False, visible=False, elem_id="report-box") as view["report_box"]:
        view["report"] = gr.JSON(show_label=False, max_height=420, open=True, elem_id="report")
    view["queue"] = gr.HTML("", elem_id="queue", js_on_load=queue.ON_LOAD)


def _make_history(services: Services, view: dict[str, Any]) -> None:
    with gr.Row(elem_id="history-head"):
        gr.HTML(f"<h2>{both(Text('History', '历史记录'))}</h2>", elem_id="history-title", js_on_load="")
        view["search"] = gr.Textbox(
            placeholder=label("search"), label=label("search"), show_label=False, container=False, max_lines=1,
            min_width=180, elem_id="search",
        )  # fmt: skip
        view["filter_engine"] = gr.Dropdown(
            [(label("all_engines"), history.ALL_ENGINES)]
            + [(engine_label(spec), spec.id) for spec in services.engines.values()],
            value=history.ALL_ENGINES,
            label=label("filter_engine"),
            show_label=False,
            container=False,
            filterable=False,
            min_width=180,
            elem_id="filter-engine",
        )
        view["favourites"] = gr.Checkbox(
            False, label=label("favourites"), container=False, min_width=120, elem_id="favourites"
        )
    view["history"] = gr.HTML("", elem_id="history", js_on_load=history.ON_LOAD)
    with gr.Row(elem_id="disk-row"):
        view["disk"] = gr.HTML("", elem_id="disk", js_on_load=history.ON_DISK)
        view["clean_rule"] = gr.Dropdown(
            [(label(name), name) for name in (*history.AGES_DAYS, *history.SIZES_BYTES)],
            value="older_30",
            label=label("clean_rule"),
            show_label=False,
            container=False,
            filterable=False,
            min_width=180,
            elem_id="clean-rule",
        )
        view["look_at_clean_up"] = gr.Button(
            label("look_at_clean_up"), size="sm", min_width=140, elem_id="look-at-clean-up"
        )


def _header() -> str:
    name = both(Text("Image-to-Video Studio", "图像转视频"))
    line = both(Text("One picture and one sentence become a video.", "一张图像，一句话，变成一段视频。"))
    theme = both(Text("Switch between light and dark", "切换浅色/深色"))
    return (
        '<header><span class="logo" aria-hidden="true"></span>'
        f'<div class="names"><h1>{name}</h1><p>{line}</p></div>'
        '<div class="switches"><button type="button" data-switch="lang">'
        '<span class="l-en" lang="zh-CN">中文</span><span class="l-zh" lang="en">English</span></button>'
        f'<button type="button" data-switch="theme"><span class="icon" aria-hidden="true"></span>'
        f'<span class="sr-only">{theme}</span></button></div></header>'
    )


def _fold(name: str, title: Text) -> str:
    """A heading that shows and hides the element called `name`-body."""
    attributes = f'data-fold="{name}" aria-expanded="false" aria-controls="{name}-body"'
    return f'<button type="button" {attributes}>{both(title)}</button>'


def _examples(services: Services) -> str:
    buttons = "".join(
        f'<button type="button" data-example="{escape(example.path.name)}">'
        f'<img src="studio/examples/{escape(example.path.name)}" alt="" loading="lazy">'
        f"<span>{both(example.title)}</span></button>"
        for example in services.examples
    )
    return f'<p class="quiet">{both(Text("Try an example", "试试示例"))}</p><div class="strip">{buttons}</div>'
