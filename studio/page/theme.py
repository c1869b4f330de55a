"""Colours, type and radii of the page as a Gradio theme. The rest of the look is in assets/style.css."""

from __future__ import annotations

from gradio.themes import Base
from gradio.themes.utils import colors, sizes
from gradio.themes.utils.fonts import LocalFont

# The bundled SemiBold files lack the Latin letters, so bold text would fall back to another face.
_SANS = (
    LocalFont("IBM Plex Sans", weights=(400, 700)),
    "system-ui",
    "PingFang SC",
    "Microsoft YaHei",
    "Noto Sans CJK SC",
    "sans-serif",
)
_MONO = (LocalFont("IBM Plex Mono", weights=(400, 700)), "ui-monospace", "Consolas", "monospace")


def make_theme() -> Base:
    """Deep teal on warm greys; text at least 4.5:1 against its ground in both modes."""
    theme = Base(
        primary_hue=colors.teal,
        neutral_hue=colors.stone,
        radius_size=sizes.radius_lg,
        spacing_size=sizes.spacing_md,
        text_size=sizes.text_md,
        font=_SANS,
        font_mono=_MONO,
    )
    return theme.set(
        body_background_fill="#f6f4f1",
        body_background_fill_dark="#131211",
        background_fill_primary_dark="#1c1a19",
        background_fill_secondary_dark="#171615",
        block_background_fill="#ffffff",
        block_background_fill_dark="#1f1d1b",
        block_border_width="1px",
        block_border_color="#e3ded8",
        block_border_color_dark="#35312e",
        border_color_primary="#e3ded8",
        border_color_primary_dark="#35312e",
        block_shadow="none",
        block_shadow_dark="none",
        input_background_fill="#fbfaf8",
        input_background_fill_dark="#171615",
        input_border_width="1px",
        input_border_color="#d8d2cb",
        input_border_color_dark="#3d3935",
        input_border_color_focus="*primary_600",
        input_border_color_focus_dark="*primary_400",
        body_text_color_subdued="*neutral_600",
        body_text_color_subdued_dark="*neutral_400",
        block_info_text_color="*neutral_600",
        block_info_text_color_dark="*neutral_400",
        block_label_text_color="*neutral_600",
        block_label_text_color_dark="*neutral_300",
        block_title_text_color="*neutral_700",
        block_title_text_color_dark="*neutral_200",
        block_title_text_weight="600",
        block_label_background_fill="#ffffff",
        block_label_background_fill_dark="#1f1d1b",
        input_placeholder_color="*neutral_500",
        input_placeholder_color_dark="*neutral_400",
        checkbox_label_border_width="1px",
        checkbox_label_border_color="#d8d2cb",
        checkbox_label_border_color_dark="#45403b",
        checkbox_label_background_fill="#ffffff",
        checkbox_label_background_fill_dark="#2a2724",
        slider_color="*primary_700",
        slider_color_dark="*primary_400",
        button_primary_background_fill="*primary_700",
        button_primary_background_fill_hover="*primary_800",
        button_primary_background_fill_dark="*primary_700",
        button_primary_background_fill_hover_dark="*primary_800",
        button_primary_text_color="#ffffff",
        button_primary_text_color_dark="#ffffff",
        button_secondary_background_fill="#ffffff",
        button_secondary_background_fill_dark="#2a2724",
        button_secondary_background_fill_hover="#f0ece7",
        button_secondary_background_fill_hover_dark="#37332f",
        button_secondary_border_color="#d8d2cb",
        button_secondary_border_color_dark="#45403b",
        button_border_width="1px",
        button_large_text_weight="600",
        color_accent_soft="*primary_50",
        link_text_color="*primary_700",
        link_text_color_dark="*primary_300",
        link_text_color_hover="*primary_800",
        link_text_color_hover_dark="*primary_200",
        link_text_color_visited="*primary_700",
        link_text_color_visited_dark="*primary_300",
    )
