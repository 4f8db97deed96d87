# docmill run, as its page about embedding says: docs/embedding.md
exec docmill run embed "$1/*.jsonl" --model "$2" --out out.jsonl
