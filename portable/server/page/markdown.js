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
    let same = 0;
    while (same < found.length && grow(this.#loose[same], found[same])) same += 1;
    for (const { node } of this.#loose.splice(same)) node.remove();
    for (const block of found.slice(same)) this.#loose.push({ block, node: build(block, 0) });
    this.#into.append(...this.#loose.slice(same).map(({ node }) => node));
    const first = firstLoose(found, rest);
    this.#settled += found[first]?.start ?? 0;
    this.#loose = this.#loose.slice(first);
  }

  #reset() {
    this.#into.replaceChildren();
    this.#settled = 0;
    this.#loose = [];
  }
}

/** Make what is shown of a block into this one, where that is less work than a new one. */
function grow(shown, block) {
  if (shown?.block.kind !== block.kind) return false;
  if (!GROWERS[block.kind]?.(shown.node, shown.block, block)) return false;
  shown.block = block;
  return true;
}

/** For each kind that becomes long: (node, block as it was, block now) -> whether it was done. */
const GROWERS = {
  paragraph: (node, was, now) => was.text === now.text,
  code(node, was, now) {
    if (was.language !== now.language || !now.text.startsWith(was.text)) return false;
    node.querySelector("code").firstChild.appendData(now.text.slice(was.text.length));
    return true;
  },
  list(node, was, now) {
    if (was.ordered !== now.ordered || was.first !== now.first) return false;
    let same = 0;
    while (same < now.items.length && was.items[same] === now.items[same]) same += 1;
    while (node.children.length > same) node.lastChild.remove();
    node.append(...now.items.slice(same).map((text) => item(text, 0)));
    return true;
  },
};

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
