/** The dialog of settings. */

import { byId, el } from "./dom.js";
import { SAMPLING, fits } from "./settings.js";
import { number, say } from "./words.js";

const KEYS = [
  ["Enter", "keySend"],
  ["Shift Enter", "keyLine"],
  ["Esc", "keyStop"],
  ["↑", "keyEdit"],
  ["Ctrl Shift O", "keyNew"],
  ["Ctrl K", "keySearch"],
  ["/", "keyFocus"],
];

const OPTIONS = {
  theme: { auto: "asSystem", light: "light", dark: "dark" },
  language: { auto: "asSystem", en: "English", zh: "中文" },
  thinking: { auto: "modelDefault", on: "on", off: "off" },
};

/**
 * Open it. `conversation` is the open one, `model` the chosen entry of the list, if there is one;
 * `changed(name)` is called after each change.
 */
export function openPreferences(settings, conversation, model, changed) {
  const set = (name, value) => {
    settings.set(name, value);
    changed(name);
    if (name === "language") fill();
  };
  const fill = () => {
    byId("settings-body").replaceChildren(
      group("appearance", choice(settings, "theme", set), choice(settings, "language", set)),
      group("systemPrompt", hint("systemHint"), system(conversation, set)),
      group(
        "sampling",
        hint("samplingHint"),
        el("div", { class: "fields" }, ...SAMPLING.map((field) => sampling(settings, field, set))),
        choice(settings, "thinking", set, say("thinkingHint")),
      ),
      ...(model ? [group("model", facts(model))] : []),
      group("keyboard", keys()),
    );
  };
  fill();
  byId("settings").showModal();
}

function group(title, ...children) {
  return el("section", {}, el("h3", {}, say(title)), ...children);
}

function hint(words) {
  return el("p", { class: "quiet" }, say(words));
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
function choice(settings, name, set, more = "") {
  const select = el("select", { id: `set-${name}` });
  for (const [value, words] of Object.entries(OPTIONS[name])) {
    const text = value === "en" || value === "zh" ? words : say(words);
    select.append(el("option", { value, selected: settings[name] === value }, text));
  }
  select.addEventListener("change", () => set(name, select.value));
  const label = el("label", { for: select.id }, say(name), el("span", { class: "quiet" }, more));
  return el("div", { class: "choice" }, label, select);
}

/** What the server tells of a model: what it is, and what of it runs where. */
function facts({ id, meta = {} }) {
  const { description, placement, size, n_ctx: context, n_ctx_train: trained } = meta;
  const rows = [["modelName", id]];
  if (description) rows.push(["modelKind", description]);
  if (size) rows.push(["modelSize", `${number(size / 1e9, 2)} GB`]);
  if (placement) rows.push(["modelPlace", placement]);
  if (context && trained) {
    const values = { context: number(context), trained: number(trained) };
    rows.push(["modelContext", say("modelTokens", values)]);
  }
  const pairs = rows.map(([name, text]) =>
    el("div", {}, el("dt", {}, say(name)), el("dd", {}, text)),
  );
  return el("dl", { class: "facts" }, ...pairs);
}

function keys() {
  const rows = KEYS.map(([keys, words]) => {
    const control = navigator.platform.startsWith("Mac") ? "⌘" : "Ctrl";
    const caps = keys.split(" ").map((key) => el("kbd", {}, key === "Ctrl" ? control : key));
    return el("div", {}, el("dt", {}, ...caps), el("dd", {}, say(words)));
  });
  return el("dl", { class: "keys" }, ...rows);
}
