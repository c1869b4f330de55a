"""Puts the page together: header, form, result, history, and the events between them. Makes nothing at import."""

from __future__ import annotations

from typing import Any

import gradio as gr

from i2v_pipeline.types import Text
from studio.page import status
from studio.page.endpoints import add_endpoints
from studio.page.events import Handlers
from studio.page.form import Form, make_engine, make_picture, make_preset, make_settings
from studio.page.plan import empty_plan, engine_html, lacks_html
from studio.page.refine_events import make_refine, wire_refine
from studio.page.services import Services
from studio.page.text import both, escape, label
from studio.page.uploads import UploadsOnly

TITLE = "Image-to-Video Studio · 图像转视频"
CACHE_CHECK_S, CACHE_AGE_S = 3600, 86400
MAX_PAGES = 400

# Gradio's storage is encrypted with this; it stands in the page's own source and hides nothing from anybody. Fixed,
# or a restart of the server would lose what the browser kept.
BROWSER_SECRET = "image-to-video-studio"

# No event is part of the public API, which has endpoints of its own. Values come as they are: Gradio's own reading of a
# picture forgets its rotation and depth and tells a reader's error with the path of the file, and a number out of range
# is refused in English.
PRIVATE: dict[str, Any] = {"show_progress": "hidden", "api_visibility": "private", "preprocess": False}
EVENT: dict[str, Any] = {"concurrency_limit": None, **PRIVATE}

_OPEN_JOB = """
element.addEventListener('click', (event) => {
  const link = event.target.closest('[data-job]');
  if (!link || event.ctrlKey || event.metaKey || event.shiftKey || event.button) return;
  event.preventDefault();
  trigger('open_job', {job: link.dataset.job});
});
"""
_PICK_EXAMPLE = """
element.addEventListener('click', (event) => {
  const button = event.target.closest('[data-example]');
  if (button) trigger('pick_example', {file: button.dataset.example, lang: document.documentElement.lang});
});
"""
_TAKE_OFFER = """
element.addEventListener('click', (event) => {
  const button = event.target.closest('[data-size]');
  if (button) trigger('take_offer', {...button.dataset});
});
"""
_ANNOUNCE = "element.setAttribute('aria-live', 'polite');"
# Two changes at once are two requests, and the later one may arrive first.
_COUNT = "(...values) => [...values.slice(0, -1), window.studio.count()]"
# The address names the job, so a reload and a second tab each find their own.
_SHOW_JOB = "(job) => window.studio.showJob(job)"


def build(services: Services) -> gr.Blocks:
    """The whole page on `services`."""
    form: Form = {}
    view: dict[str, Any] = {}
    with UploadsOnly(title=TITLE, analytics_enabled=False, delete_cache=(CACHE_CHECK_S, CACHE_AGE_S)) as page:
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
        gr.HTML(f"<h2>{both(Text('History', '历史记录'))}</h2>", elem_id="history-title", js_on_load="")
        view["history"] = gr.HTML("", elem_id="history", js_on_load=_OPEN_JOB)
        # Last of all inputs, where the event's script fills it in.
        view["count"] = gr.Number(visible=False)
        # Before the page's own events, which would take their names.
        add_endpoints(services)
        _wire(page, Handlers(services, form, view))
        # Every open page holds one of Gradio's places for events under way.
        page.max_threads = MAX_PAGES
        page.queue()
    return page


def _make_form(services: Services, form: Form, view: dict[str, Any]) -> None:
    spec = next(iter(services.engines.values()))
    view["examples"] = gr.HTML(_examples(services), elem_id="examples", js_on_load=_PICK_EXAMPLE)
    make_picture(form)
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
        gr.HTML(_fold(), js_on_load="")
        with gr.Column(elem_id="advanced-body"):
            make_settings(spec, form)
            view["lacks"] = gr.HTML(lacks_html(spec), elem_id="lacks", js_on_load="")
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
    view["details"] = gr.HTML("", elem_id="details", js_on_load="")
    with gr.Row(elem_id="result-row"):
        view["again"] = gr.Button(label("again"), size="sm", min_width=120, visible=False, elem_id="again")
        view["retry"] = gr.Button(label("retry"), size="sm", min_width=100, visible=False, elem_id="retry")
        view["reuse"] = gr.Button(label("reuse"), size="sm", min_width=120, visible=False, elem_id="reuse")
    with gr.Accordion(label("report"), open=False, visible=False, elem_id="report-box") as view["report_box"]:
        view["report"] = gr.JSON(show_label=False, max_height=420, open=True, elem_id="report")


def _wire(page: gr.Blocks, handlers: Handlers) -> None:
    form, view = handlers.form, handlers.view
    fields = set(form.values())
    refined = [view[name] for name in ("proposal", "refine_panel", "use_refined", "keep_mine", "undo_refine")]
    everything = [*form.values(), view["engine_note"], view["lacks"], *refined]
    followed = [
        view[name]
        for name in ("status", "announcer", "screen", "details", "report", "report_box", "history",
                     "cancel", "again", "reuse", "retry")
    ]  # fmt: skip

    def then_show(event: Any) -> None:  # noqa: ANN401 - Gradio's Dependency has no public type
        event.success(None, view["shown"], None, js=_SHOW_JOB, **PRIVATE)

    opened = [view["client"], view["shown"], view["show_picture"], *everything, *followed]
    page.load(handlers.live, {view["client"], view["draft"]}, opened, **EVENT)

    # What is typed: the plan, the draft, the settings behind engine and preset
    plan: dict[str, Any] = {
        "fn": handlers.plan,
        "inputs": {*fields, view["proposal"], view["planned"], view["count"]},
        "outputs": [view[name] for name in ("plan", "draft", "planned", "advice", "edited")],
        "js": _COUNT,
        # One at a time and in the queue: otherwise answers overtake each other, and an old plan would stay.
        "concurrency_limit": 1,
        **PRIVATE,
    }
    changes = [*(component.change for component in form.values()), view["proposal"].change]
    gr.on(changes, **plan, trigger_mode="always_last")
    form["image"].upload(handlers.check_picture, fields, None, **EVENT).failure(
        None, None, form["image"], js="() => null", **PRIVATE
    )
    form["preset"].input(handlers.choose_preset, fields, list(form.values()), **EVENT)
    form["engine"].input(handlers.choose_engine, fields, [*form.values(), view["engine_note"], view["lacks"]], **EVENT)
    view["examples"].pick_example(handlers.pick_example, None, everything, **EVENT)

    view["plan"].take_offer(handlers.take_offer, fields, [*form.values(), view["engine_note"], view["lacks"]], **EVENT)

    wire_refine(handlers.refining, everything, EVENT)

    # Jobs
    then_show(view["generate"].click(handlers.generate, {*fields, view["proposal"]}, [view["shown"]], **EVENT))
    then_show(view["again"].click(handlers.again, {view["shown"]}, [view["shown"]], **EVENT))
    then_show(view["retry"].click(handlers.retry, {view["shown"]}, [view["shown"]], **EVENT))
    then_show(view["history"].open_job(handlers.open_job, None, [view["shown"]], **EVENT))
    view["cancel"].click(handlers.cancel, {view["shown"]}, None, **EVENT)
    view["reuse"].click(handlers.reuse, {view["shown"]}, everything, **EVENT)


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


def _fold() -> str:
    title = both(Text("Advanced settings", "高级参数"))
    attributes = 'data-fold="advanced" aria-expanded="false" aria-controls="advanced-body"'
    return f'<button type="button" {attributes}>{title}</button>'


def _examples(services: Services) -> str:
    buttons = "".join(
        f'<button type="button" data-example="{escape(example.path.name)}">'
        f'<img src="studio/examples/{escape(example.path.name)}" alt="" loading="lazy">'
        f"<span>{both(example.title)}</span></button>"
        for example in services.examples
    )
    return f'<p class="quiet">{both(Text("Try an example", "试试示例"))}</p><div class="strip">{buttons}</div>'
