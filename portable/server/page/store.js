/** The conversations, in memory and in this browser's IndexedDB; other tabs hear of changes. */

import { ENDED } from "./conversation.js";

const NAME = "portable";
const TABLE = "conversations";

export class Store {
  /** By id. */
  conversations = new Map();
  #database = null;
  #channel = new BroadcastChannel("portable");

  /** Read everything that is kept. `kept` is false in a browser that keeps nothing. */
  static async open() {
    const store = new Store();
    try {
      store.#database = await connect();
      for (const one of await done(store.#table("readonly").getAll()))
        store.conversations.set(one.id, wholeAgain(one));
    } catch {
      store.#database = null;
    }
    return store;
  }

  get kept() {
    return this.#database !== null;
  }

  /** The newest first. */
  list() {
    return [...this.conversations.values()].sort((a, b) => b.updated - a.updated);
  }

  save(conversation) {
    this.conversations.set(conversation.id, conversation);
    return this.#write((table) => table.put(conversation), conversation.id);
  }

  remove(id) {
    this.conversations.delete(id);
    return this.#write((table) => table.delete(id), id);
  }

  /** `heard` gets the id of each conversation that another tab changed. */
  onChange(heard) {
    this.#channel.addEventListener("message", async ({ data: id }) => {
      if (!this.kept) return;
      const one = await done(this.#table("readonly").get(id)).catch(() => null);
      if (one) this.conversations.set(id, one);
      else this.conversations.delete(id);
      heard(id);
    });
  }

  async #write(change, id) {
    if (!this.kept) return;
    try {
      await done(change(this.#table("readwrite")));
      this.#channel.postMessage(id);
    } catch {
      this.#database = null; // full, or taken away: from here on in memory
    }
  }

  #table(mode) {
    return this.#database.transaction(TABLE, mode).objectStore(TABLE);
  }
}

/** An answer that was on its way when the page was closed has been stopped. */
function wholeAgain(conversation) {
  for (const message of conversation.messages)
    if (!ENDED.has(message.state)) message.state = "stopped";
  return conversation;
}

function connect() {
  const request = indexedDB.open(NAME, 1);
  request.addEventListener("upgradeneeded", () =>
    request.result.createObjectStore(TABLE, { keyPath: "id" }),
  );
  return done(request);
}

function done(request) {
  return new Promise((resolve, reject) => {
    request.addEventListener("success", () => resolve(request.result));
    request.addEventListener("error", () => reject(request.error));
  });
}
