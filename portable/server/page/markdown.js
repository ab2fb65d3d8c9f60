/**
 * Markdown -> nodes, for a text that grows at its end.
 *
 * Blocks that are complete stay as they are; each update builds only the last one anew, so that a
 * long answer costs no more a token than a short one.
 */

import { blocks } from "./blocks.js";
import { copy, el, iconButton } from "./dom.js";
import { inline } from "./inline.js";
import { say } from "./words.js";

const DEEPEST = 6;

export class Markdown {
  #into;
  #source = "";
  #settled = 0; // how much of the source is in nodes that stay
  #loose = []; // { block, node } of the rest

  constructor(into) {
    this.#into = into;
  }

  /** Show this text; usually the earlier one and something more. */
  update(source) {
    if (source === this.#source) return;
    if (!source.startsWith(this.#source)) this.#reset();
    this.#source = source;
    const rest = source.slice(this.#settled);
    const found = blocks(rest);
    if (this.#extendsCode(found)) return;
    for (const { node } of this.#loose) node.remove();
    this.#loose = found.map((block) => ({ block, node: build(block, 0) }));
    this.#into.append(...this.#loose.map(({ node }) => node));
    const first = firstLoose(found, rest);
    this.#settled += found[first]?.start ?? 0;
    this.#loose = this.#loose.slice(first);
  }

  #reset() {
    this.#into.replaceChildren();
    this.#settled = 0;
    this.#loose = [];
  }

  /** A code block that only grew gets its new text and nothing else: these become long. */
  #extendsCode(found) {
    const [block, shown] = [found[0], this.#loose[0]];
    const alone = found.length === 1 && this.#loose.length === 1;
    if (!alone || block.kind !== "code" || shown.block.kind !== "code") return false;
    if (shown.block.language !== block.language || !block.text.startsWith(shown.block.text))
      return false;
    shown.node
      .querySelector("code")
      .firstChild.appendData(block.text.slice(shown.block.text.length));
    shown.block = block;
    return true;
  }
}

/** The first block that may still change: the last, or the one before it too. */
function firstLoose(found, text) {
  // Until its first line is whole, it may turn out to belong to the block before it.
  const whole = found.length > 0 && text.includes("\n", found.at(-1).start);
  return Math.max(0, found.length - (whole ? 1 : 2));
}

const BUILDERS = {
  code: codeBlock,
  heading: ({ level, text }) => filled(`h${Math.min(level + 2, 6)}`, text),
  quote: ({ text }, depth) => el("blockquote", {}, ...inner(text, depth)),
  list,
  table,
  rule: () => el("hr"),
  paragraph: ({ text }) => filled("p", text),
};

function build(block, depth) {
  return BUILDERS[block.kind](block, depth);
}

function inner(text, depth) {
  if (depth >= DEEPEST) return [text];
  return blocks(text).map((block) => build(block, depth + 1));
}

function filled(tag, text, attributes = {}) {
  const node = el(tag, attributes);
  inline(text, node);
  return node;
}

function codeBlock({ language, text }) {
  const code = el("code", {});
  code.append(document.createTextNode(text)); // also when it is empty: it grows
  const button = iconButton("copy", say("copyCode"), () => copy(code.textContent, button));
  return el(
    "div",
    { class: "code" },
    el("div", { class: "code-head" }, el("span", {}, language.split(/\s/, 1)[0]), button),
    el("pre", { tabindex: "0", role: "group", "aria-label": say("code"), dir: "ltr" }, code),
  );
}

function list({ ordered, first, items }, depth) {
  const attributes = ordered && first !== 1 ? { start: first } : {};
  return el(ordered ? "ol" : "ul", attributes, ...items.map((text) => item(text, depth)));
}

/** A paragraph at the start of an item is the item's own text. */
function item(text, depth) {
  const done = text.replace(/^\[( |x|X)\] /, (_, mark) => (mark === " " ? "☐ " : "☑ "));
  const [first, ...others] = inner(done, depth);
  if (first?.localName !== "p") return el("li", {}, ...(first ? [first, ...others] : []));
  return el("li", {}, ...first.childNodes, ...others);
}

function table({ align, rows }) {
  const [head, ...body] = rows.map((cells, at) => row(at ? "td" : "th", cells, align));
  return el(
    "div",
    { class: "table", tabindex: "0", role: "group", "aria-label": say("table") },
    el("table", {}, el("thead", {}, head), el("tbody", {}, ...body)),
  );
}

function row(tag, cells, align) {
  const made = align.map((side, at) => filled(tag, cells[at] ?? "", side ? { class: side } : {}));
  return el("tr", {}, ...made);
}
