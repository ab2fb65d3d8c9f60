/** The message box: Enter sends, and while an answer comes its button stops it. */

import { byId } from "./dom.js";
import { sends } from "./message.js";

export class Composer {
  #field = byId("message");

  /** `acts`: send(text), stop(). */
  constructor({ send, stop }) {
    this.send = send;
    this.#field.addEventListener("input", () => this.#fit());
    this.#field.addEventListener("keydown", (event) => {
      if (!sends(event)) return;
      event.preventDefault();
      this.#submit();
    });
    byId("composer").addEventListener("submit", (event) => {
      event.preventDefault();
      this.#submit();
    });
    byId("stop").addEventListener("click", stop);
    byId("skip").addEventListener("click", () => this.#field.focus());
  }

  /** Show the button that sends, or the one that stops; whoever was on the other writes next. */
  setRunning(running) {
    const left = byId(running ? "send" : "stop");
    const focused = document.activeElement === left;
    byId("send").hidden = running;
    byId("stop").hidden = !running;
    if (focused) this.#field.focus();
  }

  /** Ready to write, where that does not make a keyboard cover half of the page. */
  invite() {
    if (matchMedia("(hover: hover)").matches) this.#field.focus();
  }

  #submit() {
    const text = this.#field.value.trim();
    if (!text || !byId("stop").hidden) return;
    this.#field.value = "";
    this.#fit();
    this.send(text);
  }

  /** As high as its text, up to what page.css allows. */
  #fit() {
    this.#field.style.height = "auto";
    this.#field.style.height = `${this.#field.scrollHeight}px`;
  }
}
