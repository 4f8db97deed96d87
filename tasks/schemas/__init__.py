"""JSON Schemas of records: their checks, the grammar that a model writes by, and the records themselves."""
