# docmill run, as in docmill's page about embedding: docs/embedding.md
exec docmill run embed "$1/*.jsonl" --model "$2" --out out.jsonl
