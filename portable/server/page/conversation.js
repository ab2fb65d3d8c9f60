/**
 * What a conversation is: a tree of messages of which one path is shown. Pure.
 *
 * A message that is edited or answered again gets a sibling; nothing is overwritten.
 */

/** Where a message's life can end. */
export const ENDED = new Set(["done", "stopped", "failed"]);

const TITLE = 60;

export function newId() {
  // Not randomUUID: browsers have that only on pages from this machine or over https.
  return Array.from(crypto.getRandomValues(new Uint8Array(12)), (n) =>
    n.toString(16).padStart(2, "0"),
  ).join("");
}

export function newConversation(system) {
  const now = Date.now();
  return { id: newId(), title: "", system, created: now, updated: now, leaf: null, messages: [] };
}

export function newMessage(role, text, fields = {}) {
  return {
    id: newId(),
    parent: null,
    role,
    text,
    reasoning: "",
    state: "done",
    created: Date.now(),
    ...fields,
  };
}

/** Put a message below `parent` (null: at the root) and show it. */
export function add(conversation, message, parent) {
  message.parent = parent?.id ?? null;
  conversation.messages.push(message);
  conversation.leaf = message.id;
  conversation.updated = Date.now();
  conversation.title ||= titleOf(message.text);
  return message;
}

export function titleOf(text) {
  const line = text.trim().split("\n", 1)[0];
  return line.length > TITLE ? `${line.slice(0, TITLE - 1).trimEnd()}…` : line;
}

/** The messages that are shown, from the first to the last. */
export function path(conversation) {
  const known = new Map(conversation.messages.map((message) => [message.id, message]));
  const found = [];
  for (let at = known.get(conversation.leaf); at; at = known.get(at.parent)) {
    found.push(at);
    known.delete(at.id); // an imported file could hold a circle
  }
  return found.reverse();
}

export function siblings(conversation, message) {
  return conversation.messages.filter((other) => other.parent === message.parent);
}

export function parentOf(conversation, message) {
  return conversation.messages.find((other) => other.id === message.parent) ?? null;
}

/** Show this message, and below it the newest of each. */
export function choose(conversation, message) {
  let leaf = message;
  for (const other of conversation.messages)
    if (other.parent === leaf.id) leaf = newest(conversation, leaf);
  conversation.leaf = leaf.id;
}

function newest(conversation, message) {
  return conversation.messages.findLast((other) => other.parent === message.id) ?? message;
}

/** Take away an answer that says nothing. */
export function drop(conversation, message) {
  conversation.messages = conversation.messages.filter((other) => other !== message);
  if (conversation.leaf === message.id) conversation.leaf = message.parent;
}

/** The `messages` of a request that continues after `last`. */
export function request(conversation, last) {
  const shown = path({ ...conversation, leaf: last.id });
  const found = conversation.system.trim()
    ? [{ role: "system", content: conversation.system }]
    : [];
  for (const { role, text } of shown) {
    const before = found.at(-1);
    if (!text) continue; // an answer that failed before it began
    // Many templates refuse two user messages in a row.
    if (before?.role === role) before.content += `\n\n${text}`;
    else found.push({ role, content: text });
  }
  return found;
}

/** Whether all of these words occur in it. */
export function matches(conversation, words) {
  const text = [conversation.title, ...conversation.messages.map((message) => message.text)]
    .join("\n")
    .toLowerCase();
  return words.every((word) => text.includes(word));
}
