/** The messages of the open conversation, and how the page follows an answer that grows. */

import { path, siblings } from "./conversation.js";
import { byId } from "./dom.js";
import { MessageView } from "./message.js";

const NEAR = 48; // pixels from the end at which the page follows
const REST = 4; // times as long as a drawing took: the model wants the processor, too

export class Transcript {
  #acts;
  #views = new Map();
  #follows = true;
  #waiting = new Set();
  #pause = 0; // milliseconds until the next drawing

  constructor(acts) {
    this.#acts = acts;
    this.scroller = byId("scroller");
    this.scroller.addEventListener("scroll", () => this.#scrolled());
    byId("latest").addEventListener("click", () => this.toEnd());
    const sizes = new ResizeObserver(() => this.#keepUp());
    sizes.observe(this.scroller);
    sizes.observe(byId("transcript"));
  }

  /** Show the conversation's path; messages that are shown already stay. */
  show(conversation, anew = false) {
    const before = anew ? new Map() : this.#views;
    this.#views = new Map();
    for (const message of path(conversation)) {
      const others = siblings(conversation, message);
      const known = before.get(message);
      const same =
        known && known.siblings.length === others.length && !known.node.querySelector("form.edit");
      this.#views.set(message, same ? known : new MessageView(message, others, this.#acts));
    }
    byId("transcript").replaceChildren(...[...this.#views.values()].map((view) => view.node));
    byId("welcome").hidden = this.#views.size > 0;
  }

  /** A message has something new: shown with one of the next frames, however many tokens it is. */
  changed(message) {
    if (!this.#waiting.size) setTimeout(requestAnimationFrame, this.#pause, () => this.#draw());
    this.#waiting.add(message);
  }

  view(message) {
    return this.#views.get(message);
  }

  toEnd() {
    this.#follows = true;
    this.scroller.scrollTop = this.scroller.scrollHeight;
  }

  #draw() {
    const began = performance.now();
    for (const message of this.#waiting) this.#views.get(message)?.update();
    this.#waiting.clear();
    this.#pause = (performance.now() - began) * REST;
  }

  #keepUp() {
    if (this.#follows) this.scroller.scrollTop = this.scroller.scrollHeight;
    this.#scrolled();
  }

  #scrolled() {
    const { scrollHeight, scrollTop, clientHeight } = this.scroller;
    this.#follows = scrollHeight - scrollTop - clientHeight < NEAR;
    byId("latest").hidden = this.#follows;
  }
}
