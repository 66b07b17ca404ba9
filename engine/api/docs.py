"""``/docs``: the API's description as one plain page, with no script and nothing from elsewhere."""

from __future__ import annotations

import json
from collections.abc import Iterator
from html import escape
from typing import Any, Final

_STYLE: Final = """
body { font: 15px/1.5 system-ui, sans-serif; max-width: 60rem; margin: 2rem auto; padding: 0 1rem;
  color-scheme: light dark; }
summary { cursor: pointer; padding: .3rem 0; }
code, pre { font: 13px/1.45 ui-monospace, monospace; }
pre { overflow-x: auto; padding: .6rem; border: 1px solid #8886; border-radius: 6px; }
.method { display: inline-block; min-width: 4rem; font-weight: 600; }
table { border-collapse: collapse; } td { padding: .1rem 1rem .1rem 0; vertical-align: top; }
"""


def page(schema: dict[str, Any]) -> str:
    """Return the page for an OpenAPI document."""
    info = schema["info"]
    title = escape(f"{info['title']} {info['version']}")
    return (
        f'<!doctype html><html lang="en"><meta charset="utf-8"><title>{title}</title>'
        f"<style>{_STYLE}</style><h1>{title}</h1><p>{escape(info['description'])}</p>"
        "<p>Calls with a lock need <code>Authorization: Bearer TOKEN</code>, the token of "
        "<code>HOME/token</code> or <code>VOLLEY_TOKEN</code>. Every error is "
        "<code>{&quot;code&quot;, &quot;message&quot;}</code>. For programs: "
        '<a href="/openapi.json">openapi.json</a>.</p>' + "".join(_calls(schema)) + "</html>"
    )


def _calls(schema: dict[str, Any]) -> Iterator[str]:
    for path, methods in schema["paths"].items():
        for method, call in methods.items():
            lock = " 🔒" if "security" in call else ""
            yield (
                f'<details><summary><span class="method">{method.upper()}</span>'
                f"<code>{escape(path)}</code>{lock}</summary>"
                f"<p>{escape(call.get('description') or call.get('summary', ''))}</p>"
            )
            yield from _parameters(call)
            yield from _body(call, schema)
            yield from _answers(call, schema)
            yield "</details>"


def _parameters(call: dict[str, Any]) -> Iterator[str]:
    rows = [
        f"<tr><td><code>{escape(one['name'])}</code><td>{escape(one['in'])}"
        f"<td><code>{escape(json.dumps(one.get('schema', {})))}</code>"
        for one in call.get("parameters", [])
    ]
    if rows:
        yield f"<h4>Parameters</h4><table>{''.join(rows)}</table>"


def _body(call: dict[str, Any], schema: dict[str, Any]) -> Iterator[str]:
    content = call.get("requestBody", {}).get("content", {}).get("application/json")
    if content:
        yield f"<h4>Body</h4>{_shown(content.get('example') or content['schema'], schema)}"


def _answers(call: dict[str, Any], schema: dict[str, Any]) -> Iterator[str]:
    yield "<h4>Answers</h4>"
    for status, answer in call["responses"].items():
        yield f"<p><b>{escape(status)}</b> {escape(answer['description'])}</p>"
        content = answer.get("content", {}).get("application/json", {})
        if content.get("schema") and status < "300":
            yield _shown(content["schema"], schema)


def _shown(value: Any, schema: dict[str, Any]) -> str:
    reference = value.get("$ref", "") if isinstance(value, dict) else ""
    if reference:
        value = schema["components"]["schemas"][reference.rpartition("/")[2]]
    return f"<pre>{escape(json.dumps(value, indent=2))}</pre>"
