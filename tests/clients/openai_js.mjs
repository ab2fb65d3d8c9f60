// The openai package of npm: node openai_js.mjs BASE_URL KEY
import assert from "node:assert/strict";
import OpenAI, { AuthenticationError, BadRequestError, NotFoundError } from "openai";
import { zodResponseFormat } from "openai/helpers/zod";
import { z } from "zod";

const [baseURL, apiKey] = process.argv.slice(2);
const client = new OpenAI({ baseURL, apiKey, maxRetries: 0 });
const [{ id: model }] = (await client.models.list()).data;
assert.equal((await client.models.retrieve(model)).id, model);
console.log("models");

const asked = { model, messages: [{ role: "user", content: "Say hi." }], max_tokens: 8, temperature: 0 };
const answer = await client.chat.completions.create(asked);
assert.ok(answer.choices[0].message.content);
assert.equal(answer.usage.total_tokens, answer.usage.prompt_tokens + answer.usage.completion_tokens);
console.log("chat");

const stream = client.chat.completions.stream({ ...asked, stream_options: { include_usage: true } });
let text = "";
stream.on("content", (delta) => (text += delta));
assert.equal((await stream.finalMessage()).content, answer.choices[0].message.content);
assert.equal(text, answer.choices[0].message.content);
assert.deepEqual((await stream.totalUsage()).total_tokens, answer.usage.total_tokens);
console.log("stream");

const parameters = { type: "object", properties: { unit: { enum: ["C", "F"] } }, required: ["unit"], additionalProperties: false };
const tools = [{ type: "function", function: { name: "weather", description: "The weather", strict: true, parameters } }];
const forced = { ...asked, tools, tool_choice: "required", parallel_tool_calls: false, max_tokens: 64 };
for (const called of [
  (await client.chat.completions.create(forced)).choices[0],
  (await client.chat.completions.stream(forced).finalChatCompletion()).choices[0],
]) {
  assert.equal(called.finish_reason, "tool_calls");
  const call = called.message.tool_calls[0].function;
  assert.equal(call.name, "weather");
  assert.match(JSON.parse(call.arguments).unit, /^[CF]$/);
}
console.log("tools");

const format = zodResponseFormat(z.object({ sure: z.boolean(), of: z.enum(["red", "blue"]) }), "colour");
const parsed = await client.chat.completions.parse({ ...asked, response_format: format, max_tokens: 64 });
assert.match(parsed.choices[0].message.parsed.of, /^(red|blue)$/);
console.log("structured");

const response = await client.responses.create({ model, input: "Say hi.", max_output_tokens: 16, temperature: 0 });
assert.ok(response.output_text);
const further = client.responses.stream({ model, input: "And you?", previous_response_id: response.id, max_output_tokens: 16 });
assert.ok((await further.finalResponse()).output_text);
console.log("responses");

// The package asks for base64 and reads it; told otherwise it takes the numbers.
const [one, same] = await Promise.all(
  [{}, { encoding_format: "float" }].map((more) => client.embeddings.create({ model, input: ["red", "blue"], ...more })),
);
assert.equal(one.data.length, 2);
one.data[1].embedding.forEach((value, at) => assert.ok(Math.abs(value - same.data[1].embedding[at]) < 1e-3));
console.log("embeddings");

await assert.rejects(client.chat.completions.create({ ...asked, temperature: 7 }), (error) => {
  assert.ok(error instanceof BadRequestError);
  assert.equal(error.param, "temperature");
  return true;
});
await assert.rejects(client.chat.completions.create({ ...asked, model: "no-such-model" }), NotFoundError);
await assert.rejects(new OpenAI({ baseURL, apiKey: "wrong" }).models.list(), AuthenticationError);
console.log("errors");
