/** One question to the user: yes or no, or a line of text. */

import { byId } from "./dom.js";

let before = Promise.resolve();

/** The text (or "" where none is asked for); null when the user says no. One question at a time. */
export function ask(question) {
  before = before.then(() => show(question));
  return before;
}

function show({ title, text = "", value = null, type = "text", yes, danger = false }) {
  const dialog = byId("ask");
  const input = byId("ask-input");
  byId("ask-title").textContent = title;
  byId("ask-text").textContent = text;
  byId("ask-yes").textContent = yes;
  byId("ask-yes").classList.toggle("danger", danger);
  input.hidden = value === null;
  input.type = type;
  input.value = value ?? "";
  dialog.returnValue = "no";
  dialog.showModal();
  if (value !== null) input.select();
  return new Promise((resolve) => {
    dialog.addEventListener(
      "close",
      () => resolve(dialog.returnValue === "yes" ? input.value : null),
      { once: true },
    );
  });
}

// Enter in the field means yes, not the first button.
byId("ask-input").addEventListener("keydown", (event) => {
  if (event.key !== "Enter" || event.isComposing || event.keyCode === 229) return;
  event.preventDefault();
  byId("ask").close("yes");
});
