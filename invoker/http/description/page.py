"""The description as one page for people, without scripts: every operation, under what it is about."""

from __future__ import annotations

from html import escape

from invoker.http.description.operations import OPERATIONS, PARAMETERS, Operation, parameters_of

#: What OpenWhisk's tests look for in the page.
TITLE = "Swagger UI"

_STYLE = """
body { font: 16px/1.5 system-ui, sans-serif; margin: 2rem auto; max-width: 60rem; padding: 0 1rem; color: #222; }
code { background: #f3f3f3; padding: .1em .3em; } summary { cursor: pointer; } summary b { display: inline-block; width: 5rem; }
details { border-top: 1px solid #ddd; padding: .4rem 0; } dd { margin-bottom: .3rem; }
"""


def build_page(version: str) -> str:
    """Build the page.

    Args:
        version: of this server.
    """
    tags = dict.fromkeys(operation.tag for operation in OPERATIONS)
    sections = "".join(
        f"<h2>{escape(tag)}</h2>{''.join(_operation(each) for each in OPERATIONS if each.tag == tag)}" for tag in tags
    )
    return (
        f'<!DOCTYPE html><html lang="en"><head><meta charset="utf-8"><title>{TITLE}</title><style>{_STYLE}</style></head><body>'
        f"<h1>OpenWhisk's REST API</h1><p>invokerd {escape(version)}. For programs: "
        f'<a href="../api-docs">Swagger 2.0</a>, <a href="../openapi.json">OpenAPI 3.1</a>.</p>{sections}</body></html>'
    )


def _operation(operation: Operation) -> str:
    parameters = "".join(
        f"<dt><code>{name}</code></dt><dd>{escape(PARAMETERS[name]['description'])}</dd>" for name, _ in parameters_of(operation)
    )
    answers = [f"{status}: {answer.description}" for status, answer in operation.answers.items()]
    refused = ", ".join(map(str, operation.errors))
    return (
        f"<details><summary><b>{operation.method.upper()}</b> <code>{escape(operation.path)}</code> {escape(operation.summary)}"
        f"</summary><dl>{parameters}</dl><p>{escape(' '.join(answers))}</p>"
        + (f"<p>Refused: {refused}.</p>" if refused else "")
        + "</details>"
    )
