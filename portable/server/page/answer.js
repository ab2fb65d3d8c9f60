/** One answer on its way: asks the server and reads the stream into a message. */

import { chat } from "./api.js";

// What a request asks for beside the answer: its tokens, and how far the prompt is read.
const TOLD = { stream_options: { include_usage: true }, return_progress: true };

export class Answer {
  #abort = new AbortController();
  #thinkingSince = 0;

  /** `message` is filled in; `changed` is called whenever there is something new in it. */
  constructor(message, changed) {
    this.message = message;
    this.changed = changed;
    message.state = "waiting";
  }

  stop() {
    this.#abort.abort();
  }

  /** Run to the end, whichever it is: `state` becomes "done", "stopped" or "failed". */
  async run(body) {
    const { message } = this;
    try {
      for await (const chunk of chat({ ...body, ...TOLD }, this.#abort.signal)) {
        this.#take(chunk);
        this.changed();
      }
      message.state = "done";
    } catch (error) {
      message.state = error.name === "AbortError" ? "stopped" : "failed";
      if (message.state === "failed") message.error = describe(error);
    }
    this.#endThinking();
    delete message.progress;
    this.changed();
  }

  #take(chunk) {
    const { message } = this;
    const [choice] = chunk.choices;
    const { content, reasoning_content: thought } = choice?.delta ?? {};
    if (chunk.usage) message.usage = chunk.usage;
    if (chunk.timings) message.timings = chunk.timings;
    if (choice?.finish_reason) message.finish = choice.finish_reason;
    message.progress = chunk.portable ?? null;
    if (thought) this.#think(thought);
    if (content) {
      this.#endThinking();
      message.text += content;
    }
    if (thought || content) message.state = "answering";
  }

  #think(thought) {
    this.#thinkingSince ||= performance.now();
    this.message.reasoning += thought;
  }

  #endThinking() {
    if (!this.#thinkingSince) return;
    this.message.thoughtSeconds =
      (this.message.thoughtSeconds ?? 0) + (performance.now() - this.#thinkingSince) / 1000;
    this.#thinkingSince = 0;
  }
}

/** An error as a conversation keeps it. */
function describe({ message, status = 0, code = "", seconds = null }) {
  return { message, status, code, seconds };
}
