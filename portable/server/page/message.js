/** How one message looks: its text, its thoughts, what can be done with it. */

import { ENDED } from "./conversation.js";
import { copy, el, iconButton } from "./dom.js";
import { Markdown } from "./markdown.js";
import { trouble } from "./trouble.js";
import { number, say } from "./words.js";

/**
 * A message on the page. `acts` are what its buttons do, each with the message: again, edit(text),
 * turn(siblings, step), startAnew.
 */
export class MessageView {
  #markdown;
  #shown = ""; // the state that the parts around the text were made for

  constructor(message, siblings, acts) {
    this.message = message;
    this.siblings = siblings;
    this.acts = acts;
    this.text = el("div", { class: "text", dir: "auto" });
    this.above = el("div", { class: "above" });
    this.below = el("div", { class: "below-message" });
    const name = message.role === "user" ? say("you") : message.model || say("assistant");
    const title = el("h2", { class: "unseen" }, name);
    this.node = el(
      "article",
      { class: `message ${message.role}` },
      title,
      this.above,
      this.text,
      this.below,
    );
    this.#markdown = message.role === "user" ? null : new Markdown(this.text);
    this.update();
  }

  /** Show what is new in the message. */
  update() {
    const { message } = this;
    this.#thoughts();
    if (this.#markdown) this.#markdown.update(message.text);
    else this.text.textContent = message.text;
    const ended = ENDED.has(message.state);
    this.node.setAttribute("aria-busy", String(!ended));
    if (ended && this.#shown !== message.state) this.below.replaceChildren(...this.#end());
    else if (!ended) this.#progress();
    this.#shown = message.state;
  }

  focus() {
    this.below.querySelector("button:not(:disabled)")?.focus();
  }

  /** Turn the text of a user's message into a field. */
  edit() {
    const field = el("textarea", {
      "aria-label": say("edit"),
      dir: "auto",
      rows: Math.min(12, this.message.text.split("\n").length + 1),
    });
    field.value = this.message.text;
    const close = () => {
      form.replaceWith(this.text, this.below);
      this.focus();
    };
    const save = (event) => {
      event.preventDefault();
      if (field.value.trim()) this.acts.edit(this.message, field.value);
    };
    const form = el(
      "form",
      { class: "edit", submit: save },
      field,
      el(
        "div",
        { class: "buttons" },
        el("button", { type: "button", click: close }, say("cancel")),
        el("button", { type: "submit", class: "main" }, say("saveAndSend")),
      ),
    );
    field.addEventListener("keydown", (event) => {
      if (event.key === "Escape") {
        event.stopPropagation();
        close();
      } else if (sends(event)) form.requestSubmit();
      else return;
      event.preventDefault();
    });
    this.text.replaceWith(form);
    this.below.remove();
    field.focus();
  }

  #thoughts() {
    const { reasoning, state, text, thoughtSeconds } = this.message;
    if (!reasoning) return;
    if (!this.above.firstChild) {
      this.above.append(
        el(
          "details",
          {},
          el("summary"),
          el("div", { class: "thoughts", dir: "auto" }, document.createTextNode("")),
        ),
      );
    }
    const [summary, body] = this.above.firstChild.children;
    const thinking = !text && !ENDED.has(state);
    const title =
      thoughtSeconds >= 0.1
        ? say("thought", { seconds: number(thoughtSeconds, 1) })
        : say("thoughts");
    summary.textContent = thinking ? say("thoughtSoFar") : title;
    body.firstChild.appendData(reasoning.slice(body.firstChild.length));
  }

  #progress() {
    const { state, progress, text, reasoning } = this.message;
    const quiet = state === "waiting" || progress || !(text || reasoning);
    const words = quiet ? waitingFor(progress) : "";
    if (this.below.textContent === words && this.below.firstChild) return;
    this.below.replaceChildren(
      el("p", { class: "working" }, el("span", { class: "pulse", "aria-hidden": "true" }), words),
    );
  }

  /** What stands below a message that will not change any more. */
  #end() {
    const { message, acts } = this;
    const parts = [];
    if (message.state === "failed")
      parts.push(trouble(message.error, () => acts.again(message), acts.startAnew));
    if (message.finish === "length") parts.push(el("p", { class: "note" }, say("cut")));
    parts.push(
      el("div", { class: "actions" }, ...this.#turns(), ...this.#buttons(), ...this.#stats()),
    );
    return parts;
  }

  #buttons() {
    const { message, acts } = this;
    const found = [];
    if (message.text) {
      const button = iconButton("copy", say("copy"), () => copy(message.text, button));
      found.push(button);
    }
    if (message.role === "user") found.push(iconButton("edit", say("edit"), () => this.edit()));
    else if (message.state !== "failed")
      found.push(iconButton("again", say("again"), () => acts.again(message)));
    return found;
  }

  #turns() {
    const { message, siblings, acts } = this;
    if (siblings.length < 2) return [];
    const at = siblings.indexOf(message);
    const turn = (name, label, step) => {
      const button = iconButton(name, say(label), () => acts.turn(siblings[at + step]));
      button.disabled = !siblings[at + step];
      return button;
    };
    const where = say("version", { at: at + 1, all: siblings.length });
    return [
      turn("back", "previous", -1),
      el("span", { class: "version" }, where),
      turn("forth", "next", 1),
    ];
  }

  #stats() {
    const { usage, timings, state } = this.message;
    if (state === "stopped") return [el("span", { class: "stats" }, say("stopped"))];
    if (!usage || !timings?.predicted_per_second) return [];
    const text = say("stats", {
      tokens: number(usage.completion_tokens),
      speed: number(timings.predicted_per_second, 1),
    });
    const title = say("statsDetails", {
      first: number((timings.queue_seconds ?? 0) + (timings.prompt_seconds ?? 0), 2),
      prompt: number(usage.prompt_tokens),
      cached: number(usage.prompt_tokens_details?.cached_tokens ?? 0),
    });
    return [el("span", { class: "stats", title }, text)];
  }
}

/** Whether this key press means "send": Enter, but not the one that ends an input method's word. */
export function sends(event) {
  const composing = event.isComposing || event.keyCode === 229; // Safari says only the second
  return event.key === "Enter" && !event.shiftKey && !composing;
}

/** What a waiting answer waits for; `progress` is the server's `portable` field, or null. */
function waitingFor(progress) {
  const { state, position, processed, total, eta_s: seconds } = progress ?? {};
  if (state === "loading") return say("loading");
  if (state === "queued") return say("queued", { position: number(position ?? 0) });
  if (state === "reading" && total) {
    const percent = Math.round((100 * processed) / total);
    return say(seconds >= 1 ? "readingFor" : "reading", { percent, seconds: number(seconds ?? 0) });
  }
  return say("waiting");
}
