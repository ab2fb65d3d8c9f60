/** Conversations as files: Markdown to read, JSON to keep and to bring back. */

import { newId, path } from "./conversation.js";
import { say } from "./words.js";

const FORMAT = "portable-conversations";
const ROLES = new Set(["user", "assistant"]);
const STATES = new Set(["done", "stopped", "failed"]);

/** What is shown of a conversation. */
export function toMarkdown(conversation) {
  const parts = [`# ${conversation.title}`];
  if (conversation.system.trim())
    parts.push(`> **${say("systemPrompt")}:** ${conversation.system.replaceAll("\n", "\n> ")}`);
  for (const { role, model, text } of path(conversation)) {
    parts.push(`## ${role === "user" ? say("you") : model || say("assistant")}`, text);
  }
  return `${parts.join("\n\n")}\n`;
}

export function toJson(conversations) {
  return JSON.stringify({ format: FORMAT, version: 1, conversations }, null, 2);
}

/** A name that every file system takes. */
export function fileName(title, ending) {
  const plain = title
    .replace(/[^\p{L}\p{N} _-]+/gu, "")
    .trim()
    .slice(0, 40);
  return `${plain || "portable"}.${ending}`;
}

/** The conversations of a file, under new ids so that none is lost. Throws if it is not ours. */
export function fromJson(text) {
  const { format, conversations } = JSON.parse(text);
  if (format !== FORMAT || !Array.isArray(conversations))
    throw new Error("not a file of this page");
  return conversations.map(conversation);
}

/** Only the fields that are known, each of its type: the file may come from anywhere. */
function conversation(found) {
  const messages = found.messages.map(message);
  const ids = new Set(messages.map(({ id }) => id));
  for (const one of messages) if (!ids.has(one.parent)) one.parent = null;
  const { title, system, created, updated, leaf } = found;
  return {
    id: newId(),
    title: string(title),
    system: string(system ?? ""),
    created: number(created),
    updated: number(updated),
    leaf: ids.has(leaf) ? leaf : (messages.at(-1)?.id ?? null),
    messages,
  };
}

function message({
  id,
  parent,
  role,
  text,
  reasoning,
  state,
  created,
  model,
  finish,
  thoughtSeconds,
  usage,
  timings,
  error,
}) {
  if (!ROLES.has(role) || !STATES.has(state)) throw new Error("not a message of this page");
  const made = {
    id: string(id),
    parent,
    role,
    state,
    text: string(text),
    reasoning: string(reasoning ?? ""),
    created: number(created),
  };
  if (model) made.model = string(model);
  if (finish) made.finish = string(finish);
  if (thoughtSeconds) made.thoughtSeconds = number(thoughtSeconds);
  if (usage) made.usage = numbers(usage);
  if (timings) made.timings = numbers(timings);
  if (state === "failed")
    made.error = {
      message: string(error.message),
      status: number(error.status),
      code: string(error.code),
      seconds: error.seconds && number(error.seconds),
    };
  return made;
}

function string(value) {
  if (typeof value !== "string") throw new Error("not a text");
  return value;
}

function number(value) {
  if (!Number.isFinite(value)) throw new Error("not a number");
  return value;
}

/** An object of numbers, and such objects in it. */
function numbers(value) {
  return Object.fromEntries(
    Object.entries(value).map(([name, one]) => [
      name,
      one && typeof one === "object" ? numbers(one) : number(one),
    ]),
  );
}
