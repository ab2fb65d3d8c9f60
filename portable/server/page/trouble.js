/** What went wrong with an answer, and what to do next, in the user's words. */

import { el, icon } from "./dom.js";
import { say } from "./words.js";

const BY_CODE = {
  network: "errorNetwork",
  queue_full: "errorBusy",
  model_loading: "errorLoading",
  backend_error: "errorBackend",
  context_length_exceeded: "errorLong",
  invalid_api_key: "errorKey",
  model_not_found: "errorModel",
};
const BY_STATUS = {
  401: "errorKey",
  404: "errorModel",
  429: "errorBusy",
  500: "errorBackend",
  502: "errorNetwork",
  503: "errorLoading",
};

/** What it is called. */
export function nameOf(error) {
  return say(keyOf(error));
}

function keyOf(error) {
  return BY_CODE[error.code] ?? BY_STATUS[error.status] ?? "errorOther";
}

/** A box that tells it; the server's own words are below, for who wants them. */
export function trouble(error, retry, startAnew) {
  const key = keyOf(error);
  const buttons = [el("button", { type: "button", class: "main", click: retry }, say("retry"))];
  if (key === "errorLong")
    buttons.unshift(el("button", { type: "button", click: startAnew }, say("newChat")));
  const box = el(
    "div",
    { class: "trouble" },
    icon("warning"),
    el(
      "div",
      {},
      el("strong", {}, say(key)),
      el("p", {}, say(`${key}Do`, { seconds: error.seconds ?? 10 })),
    ),
    el("div", { class: "buttons" }, ...buttons),
  );
  if (error.status && error.message)
    box.children[1].append(el("p", { class: "detail" }, error.message));
  return box;
}
