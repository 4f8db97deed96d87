"""A model reads a schema's properties as lines."""

from __future__ import annotations

from tasks.schemas.described import described


def test_each_property_is_a_line_with_its_type_and_its_description() -> None:
    schema = {
        "type": "object",
        "properties": {
            "title": {"type": "string", "description": "the title,\n as it stands"},
            "kind": {"enum": ["book", "film"]},
            "year": {"anyOf": [{"type": "integer"}, {"type": "null"}], "title": "Year"},
            "day": {"type": "string", "format": "date"},
            "makers": {"type": "array", "items": {"$ref": "#/$defs/maker"}, "description": "all makers"},
        },
        "$defs": {
            "maker": {
                "type": "object",
                "properties": {
                    "name": {"type": "string"},
                    "friends": {"type": "array", "items": {"$ref": "#/$defs/maker"}},
                },
            },
        },
    }
    assert described(schema) == (
        "- title (string): the title, as it stands\n"
        '- kind ("book" or "film")\n'
        "- year (integer or null): Year\n"
        "- day (string, date)\n"
        "- makers (list of object): all makers\n"
        "  - name (string)\n"
        "  - friends (list of object)"
    )
