"""Pages without a kernel: what they need of a widget, and the templates that make them.

Templates and scripts lie in `static/`. The pages of the whole course (site/build.py) are made of what notebooks show:
where `SWITCH` is set in the environment, every widget gives with its output, as `MIME`, what a page needs of it.
"""

import json
import os
from base64 import b64encode
from html import escape
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

STATIC = Path(__file__).with_name("static")
MIME = "application/vnd.efisher-teach+json"
SWITCH = "EFISHER_TEACH_FOR_PAGE"


def static(name: str) -> Markup:
    """The text of a file in `static/`, for a style or a script of a page."""
    return Markup((STATIC / name).read_text(encoding="utf-8"))


def sentence(text: Any) -> Markup:
    """Text as HTML; what stands between backticks is code.

    Examples:
        >>> print(sentence("`G` < 1"))
        <code>G</code> &lt; 1
    """
    parts = escape(str(text)).split("`")
    return Markup("".join(f"<code>{part}</code>" if place % 2 else part for place, part in enumerate(parts)))


TEMPLATES = Environment(loader=FileSystemLoader(STATIC), autoescape=True, undefined=StrictUndefined)
TEMPLATES.filters["sentence"] = sentence
TEMPLATES.globals["static"] = static
TEMPLATES.policies["json.dumps_kwargs"] = {"ensure_ascii": False}


def without_bytes(data: Any) -> Any:
    """Turn data into plain JSON, bytes into base64."""
    return json.loads(json.dumps(data, default=lambda raw: b64encode(raw).decode()))


def bundle(widget: Any, view: Any, stored: dict[str, Any], about: dict[str, Any] | None = None) -> Any:
    """Join what a cell shows of a widget: its live view, what stands for it without a kernel, what a page needs.

    `stored` is by MIME type, `about` its metadata. `widget.for_page()` is called where `SWITCH` is set.
    """
    data, metadata = view if isinstance(view, tuple) else (view, {})
    for_page = {MIME: widget.for_page()} if os.environ.get(SWITCH) and MIME not in stored else {}
    return data | stored | for_page, metadata | (about or {})
