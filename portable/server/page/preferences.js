/** The dialog of settings. */

import { byId, el } from "./dom.js";
import { SAMPLING, fits } from "./settings.js";
import { say } from "./words.js";

const KEYS = [
  ["Enter", "keySend"],
  ["Shift Enter", "keyLine"],
  ["Esc", "keyStop"],
  ["↑", "keyEdit"],
  ["Ctrl Shift O", "keyNew"],
  ["Ctrl K", "keySearch"],
  ["/", "keyFocus"],
];

/** Open it. `conversation` is the open one; `changed(name)` is called after each change. */
export function openPreferences(settings, conversation, changed) {
  const set = (name, value) => {
    settings.set(name, value);
    changed(name);
    if (name === "language") fill(settings, conversation, set);
  };
  fill(settings, conversation, set);
  byId("settings").showModal();
}

function fill(settings, conversation, set) {
  byId("settings-body").replaceChildren(
    group(
      "appearance",
      null,
      choice(settings, "theme", "theme", { auto: "asSystem", light: "light", dark: "dark" }, set),
      choice(
        settings,
        "language",
        "language",
        { auto: "asSystem", en: "English", zh: "中文" },
        set,
      ),
    ),
    group("systemPrompt", say("systemHint"), system(conversation, set)),
    group(
      "sampling",
      say("samplingHint"),
      el("div", { class: "fields" }, ...SAMPLING.map((field) => sampling(settings, field, set))),
      choice(
        settings,
        "thinking",
        "thinkingMode",
        { auto: "modelDefault", on: "on", off: "off" },
        set,
        "thinkingHint",
      ),
    ),
    group("keyboard", null, keys()),
  );
}

function group(title, hint, ...children) {
  const head = [el("h3", {}, say(title)), ...(hint ? [el("p", { class: "quiet" }, hint)] : [])];
  return el("section", {}, ...head, ...children);
}

function system(conversation, set) {
  const field = el("textarea", {
    rows: 4,
    dir: "auto",
    "aria-label": say("systemPrompt"),
    placeholder: say("systemPlaceholder"),
  });
  field.value = conversation.system;
  field.addEventListener("input", () => set("system", field.value));
  return field;
}

function sampling(settings, field, set) {
  const { name, min, max, step } = field;
  const input = el("input", {
    id: `set-${name}`,
    type: "number",
    min,
    max,
    step: step < 1 ? "any" : 1,
    placeholder: say("default"),
    "aria-describedby": `hint-${name}`,
  });
  input.value = settings.sampling[name] ?? "";
  input.addEventListener("input", () => {
    const { [name]: _, ...others } = settings.sampling;
    const said = input.value !== "";
    const valid = fits(field, input.valueAsNumber);
    input.setAttribute("aria-invalid", String((said && !valid) || input.validity.badInput));
    set("sampling", said && valid ? { ...others, [name]: input.valueAsNumber } : others);
  });
  return el(
    "div",
    { class: "field" },
    el("label", { for: input.id }, say(name)),
    input,
    el("p", { id: `hint-${name}`, class: "quiet" }, say(`${name}Hint`)),
  );
}

/** A row of choices; languages are called by their own names. */
function choice(settings, name, title, options, set, hint) {
  const select = el("select", { id: `set-${name}` });
  for (const [value, words] of Object.entries(options)) {
    const text = value === "en" || value === "zh" ? words : say(words);
    select.append(el("option", { value, selected: settings[name] === value }, text));
  }
  select.addEventListener("change", () => set(name, select.value));
  const label = el(
    "label",
    { for: select.id },
    say(title),
    ...(hint ? [el("span", { class: "quiet" }, say(hint))] : []),
  );
  return el("div", { class: "choice" }, label, select);
}

function keys() {
  const rows = KEYS.map(([keys, words]) => {
    const control = navigator.platform.startsWith("Mac") ? "⌘" : "Ctrl";
    const caps = keys.split(" ").map((key) => el("kbd", {}, key === "Ctrl" ? control : key));
    return el("div", {}, el("dt", {}, ...caps), el("dd", {}, say(words)));
  });
  return el("dl", { class: "keys" }, ...rows);
}
