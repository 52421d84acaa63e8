"""Tools and tool calls, in the one shape that chat templates read, from the shapes that data sets have."""

from collections.abc import Mapping
from typing import Any, cast

from tunelab.data.formats.fields import MEND, Fields, shown

_ASIDE = {"name", "id", "type", "index"}  # keys of a call that say nothing about its arguments


def read_tools(fields: Fields) -> tuple[Mapping[str, Any], ...]:
    """Return the schemas of the column `tools`: a list of objects or JSON texts of such, or one JSON text of a list.

    A bare function schema (`name`, `description`, `parameters`) is put into `{"type": "function", "function": …}`.
    """
    value, where = fields.value("tools"), f"column {fields.column('tools')!r}"
    if value in (None, "", []):
        return ()
    if isinstance(value, str):
        value = fields.parsed(value, where)
    if not isinstance(value, list):
        raise fields.refusal("a list of tools or the JSON text of one", shown(value), where)
    tools = cast("list[Any]", value)
    return tuple(_tool(fields, tool, f"{fields.column('tools')}[{index}]") for index, tool in enumerate(tools))


def _tool(fields: Fields, tool: Any, where: str) -> Mapping[str, Any]:
    if isinstance(tool, str):
        tool = fields.parsed(tool, where)
    if not isinstance(tool, dict):
        raise fields.refusal("an object that describes a tool", shown(tool), where)
    tool = cast("dict[str, Any]", fields.plain_json(tool, where))
    function = tool.get("function", tool)
    if not (isinstance(function, dict) and isinstance(cast("dict[str, Any]", function).get("name"), str)):
        raise fields.refusal("a tool with a name", shown(tool), where)
    return tool if "function" in tool else {"type": "function", "function": tool}


def read_tool_calls(fields: Fields, value: Any, where: str) -> list[dict[str, Any]]:
    """Return calls as `{"type": "function", "function": {"name": …, "arguments": {…}}}`, with their `id` if any.

    A call may also be written `{"name": …, "arguments": …}`, alone or in a list; arguments may be JSON text.
    """
    calls = cast("list[Any]", value if isinstance(value, list) else [value])
    if not calls:
        raise fields.refusal("at least one tool call", "an empty list", where)
    return [_call(fields, call, f"{where}[{index}]") for index, call in enumerate(calls)]


def _call(fields: Fields, call: Any, where: str) -> dict[str, Any]:
    if not isinstance(call, dict):
        raise fields.refusal("a tool call with 'name' and 'arguments'", shown(call), where)
    call = cast("dict[str, Any]", call)
    function = call.get("function") or call
    if not isinstance(function, dict) or not isinstance(cast("dict[str, Any]", function).get("name"), str):
        raise fields.refusal("a tool call with 'name' and 'arguments'", shown(function), where)
    function = cast("dict[str, Any]", function)
    at = f"{where}.arguments"
    if "arguments" not in function and function.keys() - _ASIDE:
        raise fields.refusal("'arguments' beside the name of a tool call", shown(function), where)
    arguments = function.get("arguments")
    arguments = fields.parsed(arguments, at) if isinstance(arguments, str) and arguments else arguments
    arguments = {} if arguments in (None, "") else arguments
    if not isinstance(arguments, dict):
        remedy = f"write them as an object or as its JSON text, or {MEND}"
        raise fields.refusal("arguments by name", shown(arguments), at, remedy)
    read: dict[str, Any] = {"type": "function", "function": {"name": function["name"], "arguments": arguments}}
    if call.get("id") is not None:
        read["id"] = fields.checked(call["id"], f"{where}.id")
    return cast("dict[str, Any]", fields.plain_json(read, where))
