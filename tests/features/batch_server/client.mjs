// OpenAI's client for Node against a Batch API: node client.mjs URL KEY. It prints what it found as JSON.
import OpenAI, { toFile, NotFoundError, AuthenticationError } from "openai";

const [url, key] = process.argv.slice(2);
const client = new OpenAI({ baseURL: url, apiKey: key, maxRetries: 0 });
const ended = new Set(["completed", "failed", "expired", "cancelled"]);
const body = { model: "hosted", messages: [{ role: "user", content: "Hello" }], temperature: 0, max_tokens: 9 };
const line = { custom_id: "a", method: "POST", url: "/v1/chat/completions", body };
const file = await client.files.create({
  file: await toFile(Buffer.from(JSON.stringify(line) + "\nnot json\n"), "in.jsonl"),
  purpose: "batch",
});
let batch = await client.batches.create({
  input_file_id: file.id,
  endpoint: "/v1/chat/completions",
  completion_window: "24h",
  metadata: { from: "node" },
});
const statuses = [batch.status];
while (!ended.has(batch.status)) {
  await new Promise((done) => setTimeout(done, 50));
  batch = await client.batches.retrieve(batch.id);
  if (!statuses.includes(batch.status)) statuses.push(batch.status);
}
const read = async (id) => (await (await client.files.content(id)).text()).trim().split("\n").map(JSON.parse);
const listed = [];
for await (const one of client.batches.list({ limit: 1 })) listed.push(one.id);
const refused = [];
await client.batches.retrieve("nothing").catch((error) => refused.push(error instanceof NotFoundError));
await new OpenAI({ baseURL: url, apiKey: "wrong", maxRetries: 0 }).models
  .list()
  .catch((error) => refused.push(error instanceof AuthenticationError));
const found = {
  statuses,
  counts: batch.request_counts,
  metadata: batch.metadata,
  answers: await read(batch.output_file_id),
  errors: await read(batch.error_file_id),
  listed: listed.includes(batch.id),
  refused,
  deleted: (await client.files.delete(file.id)).deleted,
};
console.log(JSON.stringify(found));
