// Vercel's AI SDK with its provider for OpenAI-compatible servers: node vercel_ai.mjs BASE_URL KEY
import assert from "node:assert/strict";
import { createOpenAICompatible } from "@ai-sdk/openai-compatible";
import { APICallError, embedMany, generateText, Output, stepCountIs, streamText, tool } from "ai";
import { z } from "zod";

const [baseURL, apiKey] = process.argv.slice(2);
const settings = { name: "portable", baseURL, supportsStructuredOutputs: true, includeUsage: true };
const provider = createOpenAICompatible({ ...settings, apiKey });
const name = "SmolLM2-135M-Instruct";
const asked = { model: provider(name), prompt: "Say hi.", maxOutputTokens: 8, temperature: 0, maxRetries: 0 };

const answer = await generateText(asked);
assert.ok(answer.text);
assert.ok(answer.usage.inputTokens > 0 && answer.usage.outputTokens > 0);
console.log("chat");

const stream = streamText(asked);
let text = "";
for await (const part of stream.textStream) text += part;
assert.equal(text, answer.text);
assert.deepEqual((await stream.usage).totalTokens, answer.usage.totalTokens);
console.log("stream");

// The model calls, the SDK runs the tool and sends its result, the model answers.
const weather = tool({
  description: "The weather",
  inputSchema: z.object({ unit: z.enum(["C", "F"]) }),
  execute: async ({ unit }) => `20 ${unit}`,
});
const steps = {
  ...asked,
  tools: { weather },
  providerOptions: { portable: { parallel_tool_calls: false } },
  maxOutputTokens: 64,
  stopWhen: stepCountIs(2),
  prepareStep: ({ stepNumber }) => ({ toolChoice: stepNumber ? "none" : "required" }),
};
const streamed = streamText(steps);
await streamed.consumeStream({ onError: (error) => { throw error; } });
for (const told of [(await generateText(steps)).steps, await streamed.steps]) {
  assert.match(told[0].toolResults[0].output, /^20 [CF]$/);
  assert.equal(told[0].finishReason, "tool-calls");
  assert.equal(told.length, 2);
  assert.ok(told[1].text);
}
console.log("tools");

const schema = z.object({ sure: z.boolean(), of: z.enum(["red", "blue"]) });
const { output } = await generateText({ ...asked, output: Output.object({ schema }), maxOutputTokens: 64 });
assert.match(output.of, /^(red|blue)$/);
console.log("structured");

const { embeddings } = await embedMany({ model: provider.textEmbeddingModel(name), values: ["red", "blue"] });
assert.equal(embeddings.length, 2);
assert.equal(embeddings[0].length, 576);
console.log("embeddings");

const status = (code) => (error) => APICallError.isInstance(error) && error.statusCode === code && !error.isRetryable;
await assert.rejects(generateText({ ...asked, temperature: 7 }), status(400));
await assert.rejects(generateText({ ...asked, model: provider("no-such-model") }), status(404));
const stranger = createOpenAICompatible({ ...settings, apiKey: "wrong" });
await assert.rejects(generateText({ ...asked, model: stranger(name) }), status(401));
console.log("errors");
