"""Rendering: conversations become text in segments, supervised or not, by a template that was decided on."""

from tunelab.data.rendering.choosing import ChosenTemplate, Renderer, decide_template, make_renderer, rejected_of

__all__ = ["ChosenTemplate", "Renderer", "decide_template", "make_renderer", "rejected_of"]
